import json

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.cli import main
from colorize_utils.data import load_splits
from colorize_utils.evaluation import choices
from colorize_utils.inference import Answer, Belief, Hint
from colorize_utils.naming import NAMES


@pytest.fixture(scope="module")
def pictures():
    return load_splits("generated", 64, count=40, cache=None).test


class Painter:
    """Knows the pictures; paints each gray but for the hinted squares, which get the hint's colour."""

    takes_hints = has_distribution = True

    def colorize(self, gray, hints=()):
        colour = np.repeat(gray[..., None], 3, axis=2)
        for hint in hints:
            rows, columns = (
                slice(round(middle - hint.radius), round(middle + hint.radius)) for middle in (hint.y, hint.x)
            )
            colour[rows, columns] = hint.rgb
        return Image.fromarray(colour)

    def colorize_each(self, gray, several):
        return [self.colorize(gray, hints) for hints in several]

    def answers(self, gray, count):
        whole = Hint(32, 32, "red", 32), Hint(32, 32, "blue", 32)
        pictures = [self.colorize(gray), *(self.colorize(gray, [hint]) for hint in whole)]
        return [Answer(picture, (), 0.3, str(number)) for number, picture in enumerate(pictures[:count])]

    def uncertainty(self, gray):
        return self.map(gray)


def test_hints_are_true_nested_and_left_out(pictures):
    """A painter that colours hinted pixels alone gains by more hints, and nothing where they are left out."""
    none, few, many = choices.score_hints(Painter(), pictures, [0, 2, 30])
    assert none.gain == none.gain_elsewhere == 0
    assert 0 < few.gain < many.gain
    assert few.gain_elsewhere == many.gain_elsewhere == 0
    again = choices.score_hints(Painter(), pictures, [2, 30])
    assert again == [few, many]  # the places of fewer are among those of more, whatever is asked beside them


def test_the_best_answer_is_taken_for_each_picture(pictures):
    colour = torch.stack([pictures[[index]][0][0] for index in range(len(pictures))])
    score = choices.score_answers(Painter(), pictures, 3)
    grays = torch.stack([pictures[[index]][1][0] for index in range(len(pictures))]).expand(-1, 3, -1, -1)
    red, blue = (torch.tensor(rgb)[None, :, None, None].expand_as(colour) for rgb in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    expected = [grays, red, blue]
    levels = torch.stack([-10 * (answer - colour).square().mean(dim=(1, 2, 3)).log10() for answer in expected])
    assert score.psnr == pytest.approx(float(levels[0].mean()), abs=0.01)
    assert score.best == pytest.approx(float(levels.amax(dim=0).mean()), abs=0.01)
    assert score.answers == 3 and score.pictures == len(pictures)
    assert score.difference > 20  # red, blue and gray
    assert choices.score_answers(Painter(), pictures, 1).difference == 0


def test_calibration_compares_belief_with_what_was_there(pictures):
    """Of the two halves of each picture, one is red and one green; the painter believes in red by 0.7 everywhere."""
    real = torch.zeros(3, 64, 64)
    real[0, :, :32], real[1, :, 32:] = 0.8, 0.6
    painter = Painter()
    painter.palettes_at = lambda gray, places: [[Belief((200, 0, 0), "red", 0.7)] for _ in places]
    pairs = [(real, np.zeros((64, 64), np.uint8))] * 50
    found = choices.calibration(painter, Pairs(pairs))
    red, green = NAMES.index("red"), NAMES.index("green")
    assert found.places.sum() == found.places[red, 7] == 50 * choices.PLACES
    assert found.believed[red, 7] == pytest.approx(0.7)
    assert found.occurred[red, 7] == pytest.approx(0.5, abs=0.05) == found.there[red]
    assert found.there[red] + found.there[green] == pytest.approx(1, abs=0.07)  # but for the border, where both are
    assert found.error == pytest.approx(0.7 - found.occurred[red, 7])
    assert f"| red | {found.there[red]:.0%} | 70% | {found.occurred[red, 7]:.0%} | 800 |" in choices.format_calibration(
        found
    )


class Pairs(list):
    """Pictures, as a `PairDataset` gives them: a colour batch and a gray one for a list of indices."""

    def __getitem__(self, indices):
        ((real, gray),) = [super(Pairs, self).__getitem__(index) for index in indices]
        return real[None], torch.from_numpy(gray)[None, None] / 255


def test_uncertainty_is_right_where_the_error_is(pictures):
    painter = Painter()
    truth = {pictures[[i]][1].numpy().tobytes(): pictures[[i]][0][0] for i in range(len(pictures))}

    def error(gray):
        key = (torch.from_numpy(gray).float().div(255))[None, None].numpy().tobytes()
        return (truth[key] - torch.from_numpy(gray).float().div(255)).norm(dim=0).numpy()

    painter.map = error
    assert choices.uncertainty_correlation(painter, pictures) == pytest.approx(1, abs=0.01)
    painter.map = lambda gray: -error(gray)
    assert choices.uncertainty_correlation(painter, pictures) == pytest.approx(-1, abs=0.01)
    painter.map = np.zeros_like
    assert choices.uncertainty_correlation(painter, pictures) == 0


def test_the_command_writes_all_four(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", "--data", "generated", "--count", "40", "--limit", "2", "--size", "64", "--quiet"]
    asked = ["--hints", "0,1", "--answers", "2", "--uncertainty", "--calibration", "believed.png"]
    assert main([*arguments, *asked, "--json", "found.json"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["hints"] for row in found["hints"]] == [0, 1]
    assert found["answers"][0]["best"] > 0 and -1 <= found["uncertainty"][0]["rank_correlation"] <= 1
    assert 0 <= found["calibration"][0]["error"] <= 1 and Image.open("believed.png").width > 500
    printed = capsys.readouterr().out
    assert f"{found['hints'][1]['psnr']:.2f}" in printed and f"{found['answers'][0]['best']:.2f}" in printed
    with pytest.raises(SystemExit):
        main([*arguments, "--hints", "0,x"])
