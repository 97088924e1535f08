import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

from colorize_utils.data import PairDataset, generator_for
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.evaluation import report
from colorize_utils.evaluation.report import (
    NAMES,
    PictureScores,
    colour_name,
    colours_table,
    failures,
    main_colour,
    pick,
    remembering,
    score_pictures,
    species_table,
    write_report,
)
from colorize_utils.metrics import gray_baseline


def plain(*colours, size=32):
    """A data set of pictures of one colour each, (R, G, B) in 0 … 255."""
    return PairDataset(
        np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), size, size, 3)).copy()
    )


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((230, 60, 140), "pink"),
        ((255, 182, 193), "pink"),
        ((200, 20, 30), "red"),
        ((255, 140, 0), "orange"),
        ((250, 220, 30), "yellow"),
        ((60, 140, 50), "green"),
        ((70, 110, 220), "blue"),
        ((140, 60, 180), "purple"),
        ((128, 128, 128), "white or gray"),
        ((245, 245, 240), "white or gray"),
    ],
)
def test_colours_are_called_what_people_call_them(rgb, name):
    _, a, b = rgb2lab(np.array(rgb) / 255)
    assert colour_name(a, b) == name


def test_the_main_colour_is_the_middles():
    colour = torch.zeros(1, 3, 32, 32)
    colour[:, 1] = 1.0  # green all around
    colour[..., 8:24, 8:24] = torch.tensor([0.8, 0.1, 0.3])[None, :, None, None]
    expected = rgb2lab(np.array([0.8, 0.1, 0.3]))[1:]
    np.testing.assert_allclose(main_colour(colour)[0], expected, atol=0.05)


def test_the_scores_of_gray_show_what_it_lacks():
    pictures = plain((200, 20, 30), (128, 128, 128))
    red, gray = score_pictures(gray_baseline, pictures)
    assert colour_name(*red.original) == "red"
    assert colour_name(*red.painted) == "white or gray"
    assert red.psnr == red.gray_psnr
    assert red.ciede2000 > 20
    assert gray.ciede2000 == 0
    assert gray.psnr == 100


def made(original, painted, ciede2000=10.0):
    places = {"red": (40.0, 30.0), "yellow": (0.0, 50.0), "blue": (0.0, -50.0), "gray": (0.0, 0.0)}
    return PictureScores(21.0, 19.0, ciede2000, places[original], places[painted])


def test_the_table_of_colours_counts():
    scored = [
        made("red", "red"),
        made("red", "yellow"),
        made("red", "yellow"),
        made("red", "gray"),
        made("blue", "blue"),
    ]
    lines = colours_table(scored).splitlines()
    assert lines[2:] == [
        "| red, 4 | 0 | 25 | 0 | 50 | 0 | 0 | 0 | 25 |",
        "| blue, 1 | 0 | 0 | 0 | 0 | 0 | 100 | 0 | 0 |",
    ]
    assert lines[0] == "| original, pictures | " + " | ".join(NAMES) + " |"


def test_the_table_of_species_puts_the_best_first():
    scored = [
        made("red", "yellow", 20.0),
        made("red", "red", 30.0),
        made("blue", "blue", 5.0),
        made("red", "red", 10.0),
    ]
    lines = species_table(scored, ["rose", "rose", "iris", "rose"]).splitlines()
    assert lines[2:] == [
        "| iris | 1 | 21.00 | +2.00 | 5.0 | blue → blue | 100 % |",
        "| rose | 3 | 21.00 | +2.00 | 20.0 | red → red | 67 % |",
    ]


def test_failures_are_the_worst_twentieth_and_a_seed_picks():
    scored = [made("red", "red", error) for error in np.random.default_rng(0).permutation(400)]
    worst = failures(scored)
    assert [scored[place].ciede2000 for place in worst] == list(range(399, 379, -1))
    picked = pick(worst, 6, seed=1)
    assert len(set(picked)) == 6
    assert set(picked) <= set(worst)
    assert picked == sorted(picked) == pick(worst, 6, seed=1) != pick(worst, 6, seed=2)
    assert pick(failures(scored[:3]), 6) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_a_page_has_examples_failures_colours_and_species(tmp_path, known):
    dataset = PairDataset(synthetic_flowers(40, 32))
    shown = []

    def spy(gray):
        shown.append(gray)
        return gray_baseline(gray)

    species = {str(index): f"species {index % 3}" for index in range(40)} if known else {}
    paths = write_report(
        tmp_path / "page", "petals", dataset, {"safe": spy, "vivid": gray_baseline}, species.get, seed=3
    )
    assert [path.name for path in paths] == ["grid.png", "failures.png", "report.md"]
    text = paths[-1].read_text()
    for image in re.findall(r"\]\((.*?)\)", text):
        assert Image.open(tmp_path / "page" / image).width > 600  # four columns: gray, safe, vivid, original
    assert ("species 2" in text) == known
    assert text.startswith("# petals\n\n40 pictures. Pictures picked by seed 3:")
    assert "from the 8 worst (safe) by CIEDE2000" in text

    # The failures are the worst by CIEDE2000: here all eight that are shown.
    errors = [scored.ciede2000 for scored in score_pictures(gray_baseline, dataset)]
    worst = np.sort(np.argsort(errors)[-8:])
    assert torch.equal(shown[-1], dataset[worst][1])
    again = write_report(
        tmp_path / "again", "petals", dataset, {"safe": gray_baseline, "vivid": gray_baseline}, species.get, seed=3
    )
    assert again[0].read_bytes() == paths[0].read_bytes()
    other = write_report(
        tmp_path / "other", "petals", dataset, {"safe": gray_baseline, "vivid": gray_baseline}, species.get, seed=4
    )
    assert other[0].read_bytes() != paths[0].read_bytes()


def test_what_was_predicted_once_is_remembered_to_the_bit_while_there_is_room(monkeypatch):
    asked = []

    def predict(gray):
        asked.append(len(gray))
        return (255 * gray.expand(-1, 3, -1, -1)).round() / 255

    batches = [torch.rand(4, 1, 8, 8, generator=generator_for(number)) for number in range(3)]
    expected = [predict(gray) for gray in batches]
    asked.clear()
    once = remembering(predict)
    for _ in range(2):
        assert all(torch.equal(once(gray), colour) for gray, colour in zip(batches, expected, strict=True))
    assert len(asked) == 3
    monkeypatch.setattr(report, "REMEMBERED", 2 * 4 * 3 * 8 * 8 + 1)
    once = remembering(predict)
    for _ in range(2):
        assert all(torch.equal(once(gray), colour) for gray, colour in zip(batches, expected, strict=True))
    assert len(asked) == 3 + 3 + 1  # the third batch did not fit
