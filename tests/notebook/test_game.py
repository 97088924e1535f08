"""Spot the fake: questions, score, intervals and codes against games worked out by hand."""

import random
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.colour import gray_levels
from colorize_utils.errors import DataError
from colorize_utils.evaluation.realism import Realism, two_sample_test
from colorize_utils.inference import Colorizer
from colorize_utils.inference.hints import Answer
from colorize_utils.notebook import game as module
from colorize_utils.notebook.game import (
    REAL,
    Exhibition,
    Fooled,
    Game,
    Question,
    combined,
    exhibit,
    fooled,
    format_fooled,
    game_panel,
    painters_of,
    questions,
)


@pytest.fixture
def exhibition(splits):
    real, gray = splits.train[:12]
    return exhibit(real, gray, {"A": lambda gray: gray.expand(-1, 3, -1, -1), "B": lambda gray: real.flip(1)})


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


# ---------------------------------------------------------------- the flowers


def test_colour_alone_can_give_a_painting_away(exhibition, splits):
    """Every painting has the photograph's luminance, to the level."""
    levels = torch.from_numpy(exhibition.real).permute(0, 3, 1, 2)
    for pictures in exhibition.painted.values():
        torch.testing.assert_close(gray_levels(torch.from_numpy(pictures).permute(0, 3, 1, 2)), gray_levels(levels))
    assert np.ptp(exhibition.painted["A"], axis=-1).max() == 0
    assert np.ptp(exhibition.painted["B"].astype(int), axis=-1).max() > 40
    np.testing.assert_array_equal(exhibition.real, splits.train.pictures[splits.train.rows[:12]])


def test_a_question_shows_its_flower(exhibition):
    np.testing.assert_array_equal(np.asarray(exhibition.picture(Question(3, REAL))), exhibition.real[3])
    np.testing.assert_array_equal(np.asarray(exhibition.picture(Question(3, "B"))), exhibition.painted["B"][3])


def test_an_exhibition_outlasts_a_file(exhibition, tmp_path):
    exhibition.save(tmp_path / "flowers.npz")
    again = Exhibition.load(tmp_path / "flowers.npz")
    assert [*again.painted] == ["A", "B"]
    for before, after in ((exhibition.real, again.real), (exhibition.painted["A"], again.painted["A"])):
        assert np.abs(before.astype(int) - after).mean() < 4  # JPEG
    assert (tmp_path / "flowers.npz").stat().st_size < 100_000


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", None])
def test_a_file_that_is_none_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "flowers.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"flowers\.npz is no exhibition"):
        Exhibition.load(tmp_path / "flowers.npz")


def test_what_comes_with_the_package_is_made_from_runs(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "paintings.npz")
    assert module.shipped_exhibition() is None
    for run in ("gan-l1", "gan-mse", "wgan"):
        (tmp_path / run).mkdir()
        shutil.copy(tiny_checkpoint, tmp_path / run / "best.safetensors")
    script = Path(__file__).parent.parent.parent / "notebooks" / "source" / "paintings.py"
    words = [tmp_path, "--data", "generated", "--model", tiny_checkpoint, "--count", 4, "--size", 32]
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    runpy.run_path(str(script), run_name="__main__")
    shipped = module.shipped_exhibition()
    assert [*shipped.painted] == ["GAN-L1", "GAN-MSE", "WGAN", "tiny.safetensors, safe"]
    assert shipped.real.shape == (4, 32, 32, 3)
    assert "paintings.npz: 4 flowers by GAN-L1" in capsys.readouterr().out


def test_the_machine_judges_the_same_pictures(splits, monkeypatch):
    real, gray = splits.train[:]
    some = exhibit(real, gray, {"A": lambda gray: gray.expand(-1, 3, -1, -1)})
    assert some.machine() == {}  # 32 flowers prove nothing
    monkeypatch.setattr(module, "LEAST", 30)
    monkeypatch.setattr("colorize_utils.evaluation.realism.LEAST", 30)
    monkeypatch.setattr("colorize_utils.evaluation.realism.EPOCHS", 2)
    judged = some.machine(seed=1)["A"]
    assert judged.judgements == 32
    assert judged == two_sample_test(module._small(some.real), module._small(some.painted["A"]), seed=1)


def test_a_colorizer_paints_in_its_styles_and_by_drawn_answers(tiny_checkpoint, splits):
    colorizer = Colorizer.from_checkpoint(tiny_checkpoint, "cpu")
    assert [*painters_of(colorizer)] == ["tiny.safetensors, safe"]  # which takes no hints

    class Sure:
        name, styles, takes_hints = "sure", ("safe", "vivid"), True

        def predictor(self, style):
            return style

        def answers(self, levels, style):
            assert style == "vivid"
            pictures = (Image.new("RGB", levels.shape[::-1], colour) for colour in ("red", "blue"))
            return [Answer(picture, (), share, "") for picture, share in zip(pictures, (0.6, 0.2), strict=True)]

    painters = painters_of(Sure(), seed=0)
    assert [*painters] == ["sure, safe", "sure, vivid", "sure, drawn"]
    gray = torch.zeros(400, 1, 2, 2)
    drawn = painters["sure, drawn"](gray)
    assert drawn.shape == (400, 3, 2, 2)
    assert float(drawn[:, 0].mean()) == pytest.approx(0.75, abs=0.06)  # red: 0.6 of 0.8
    assert torch.equal(drawn, painters["sure, drawn"](gray))


# ---------------------------------------------------------------- questions


def test_half_are_real_the_painters_take_turns_and_no_flower_comes_twice():
    for seed in range(20):
        asked = questions(60, ["A", "B", "C"], 20, seed)
        assert len({question.flower for question in asked}) == 20
        painters = [question.painter for question in asked]
        assert painters.count(REAL) == 10
        assert sorted(painters.count(name) for name in "ABC") == [3, 3, 4]


def test_the_seed_decides_and_the_order_is_random():
    assert questions(60, ["A", "B"], 20, 7) == questions(60, ["A", "B"], 20, 7)
    orders = {tuple(question.is_real for question in questions(60, ["A", "B"], 20, seed)) for seed in range(20)}
    assert len(orders) == 20
    random.seed(1)
    expected = random.random()
    random.seed(1)
    questions(60, ["A"], 20, 7)
    assert random.random() == expected  # the global state is nobody's


def test_the_questions_of_a_seed_stay_the_same():
    """Else codes of one version would be read by another as a different game."""
    asked = questions(10, ["A", "B"], 6, 3)
    assert [(one.flower, one.painter) for one in asked] == PINNED


PINNED = [(4, REAL), (9, REAL), (3, "A"), (8, "B"), (2, "A"), (7, REAL)]


def test_few_flowers_make_a_short_game():
    assert len(questions(5, ["A"], 20, 0)) == 5
    for flowers, painters in ((1, ["A"]), (5, [])):
        with pytest.raises(ValueError, match="painter and two flowers"):
            questions(flowers, painters, 20, 0)


# ---------------------------------------------------------------- score and time


def test_a_game_counts_right_answers_and_seconds(exhibition):
    clock = Clock()
    game = Game(exhibition, seed=1, count=4, clock=clock)
    clock.now = 150  # nobody has looked yet
    truth = [question.is_real for question in game.asked]
    assert game.question == game.asked[0]
    clock.now = 153
    assert game.answer(truth[0])
    clock.now = 155
    assert not game.answer(not truth[1])
    assert (game.score, game.seconds) == (1, 5)
    assert game.question == game.asked[2]
    game.answer(truth[2])
    game.answer(truth[3])
    assert (game.score, game.question) == (3, None)
    with pytest.raises(ValueError, match="is over"):
        game.answer(True)


def test_a_players_number_is_not_negative(exhibition):
    """Its minus would be taken for a hyphen of the code."""
    with pytest.raises(ValueError, match="0 or more"):
        Game(exhibition, seed=-1)
    assert combined(Game(exhibition, seed=0).code(), exhibition)[1] == []


def test_who_fooled_whom_is_counted(exhibition):
    game = Game(exhibition, seed=1, count=8)
    for question in game.asked:
        game.answer(question.painter != "A")  # A never fools, B always, photographs are known
    lines = fooled([game, game])
    assert lines == [Fooled("B", 4, 4), Fooled("A", 0, 4), Fooled(REAL, 8, 8)]


def test_an_interval_is_wilsons():
    """By hand, for 4 of 10 with z = 1.96: (0.4 + 0.192 ± 0.3578) / 1.3842, with the roots worked out."""
    low, high = Fooled("A", 4, 10).interval
    z2 = 1.96**2
    for border in (low, high):  # the borders solve (p̂ − p)² = z² p (1 − p) / n
        assert (0.4 - border) ** 2 == pytest.approx(z2 * border * (1 - border) / 10)
    assert (low, high) == pytest.approx((0.168, 0.687), abs=0.001)
    assert Fooled("A", 0, 4).interval == pytest.approx((0, 0.49), abs=0.001)


def test_the_table_has_shares_intervals_and_the_machine():
    lines = [Fooled("A", 4, 10), Fooled(REAL, 3, 4)]
    assert format_fooled(lines).splitlines() == [
        "| painted by | taken for real | share (95 % interval) |",
        "|---|---|---|",
        "| A | 4 of 10 | 40 % (17–69) |",
        "| photograph | 3 of 4 | 75 % (30–95) |",
    ]
    rows = format_fooled(lines, {"A": Realism(0.8, 0.7, 0.9, 40)}).splitlines()
    assert [row.count("|") for row in rows] == [5, 5, 5, 5]
    assert rows[2].endswith("| 80 % (70–90) |")
    assert rows[3].endswith("| – |")
    assert format_fooled([], {"A": Realism(0.8, 0.7, 0.9, 40)}).splitlines()[2:] == ["| A | – | – | 80 % (70–90) |"]


# ---------------------------------------------------------------- a class


def played(exhibition, seed, answers, seconds=30.0):
    return Game(exhibition, seed, 8, answers=[*answers], seconds=seconds)


def test_a_code_brings_the_game_back(exhibition):
    for answers in ([True] * 8, [False] * 8, [True, False, False, True, True, False, True, False], [False, True]):
        game = played(exhibition, 12, answers, 41.4)
        again = Game.from_code(game.code(), exhibition)
        assert (again.asked, again.answers, again.seconds) == (game.asked, game.answers, 41)
        assert again.code() == game.code()


def test_a_class_is_put_together_from_its_codes(exhibition):
    games = [played(exhibition, seed, [seed % 2 == 0] * 8) for seed in range(4)]
    codes = [game.code() for game in games]
    pasted = f"\n{codes[0]}  {codes[1].upper()},{codes[2]}\n{codes[0]}\n\n{codes[3]}"
    read, problems = combined(pasted, exhibition)
    assert problems == []
    assert [game.seed for game in read] == [0, 1, 2, 3]  # one was pasted twice
    assert fooled(read) == fooled(games)
    assert sum(line.shown for line in fooled(read)) == 32
    assert {line.taken / line.shown for line in fooled(read)} == {0.5}


def test_a_typo_and_other_flowers_are_noticed(exhibition):
    code = played(exhibition, 1, [True] * 8).code()
    other = Exhibition(exhibition.real[::-1].copy(), exhibition.painted)
    games, problems = combined(f"hello 1-2-3 {code[:-6]}0{code[-5:]} {code}", exhibition)
    assert len(games) == 1
    assert [line.split(":")[0] for line in problems] == ["hello", "1-2-3", f"{code[:-6]}0{code[-5:]}"]
    assert all("typo" in line for line in problems)
    assert combined(code, other)[0] == []


@pytest.mark.parametrize("body", ["x-8-8-30-ff", "1-8-8-30-zz", "1-8-8-30-ff-0"])
def test_a_code_with_a_right_check_and_a_wrong_body_is_refused(exhibition, body):
    code = f"{body}-{module._check(body, exhibition)}"
    assert combined(code, exhibition)[0] == []


# ---------------------------------------------------------------- the panel


def parts(panel):
    picture, controls, status = panel.children
    return (picture, *controls.children, status)


def test_the_panel_is_played_by_buttons_and_keys(exhibition):
    game = Game(exhibition, seed=1, count=4)
    picture, real, painted, keys, status = parts(game_panel(game))
    truth = [question.is_real for question in game.asked]
    assert "Flower 1 of 4" in status.value
    first = bytes(picture.value)
    (real if truth[0] else painted).click()
    assert "Right: that was " in status.value and "Flower 2 of 4" in status.value
    assert bytes(picture.value) != first
    keys.value = "p" if truth[1] else "R"
    assert "Wrong: that was " in status.value
    assert keys.value == ""
    keys.value = "x"  # is no answer
    assert (len(game.answers), keys.value) == (2, "")
    keys.value = "r" if truth[2] else "p"
    real.click()
    assert game.answers == [truth[0], not truth[1], truth[2], True]
    assert f"{game.score} of 4 right" in status.value
    assert game.code() in status.value
    assert "taken for real" in status.value
    assert real.disabled and painted.disabled and keys.disabled
    real.click()  # a click that was under way
    assert len(game.answers) == 4


def test_a_painter_of_any_name_is_shown_as_text(exhibition):
    some = Exhibition(exhibition.real, {"<b>A</b>": exhibition.painted["A"]})
    game = Game(some, seed=1, count=2)
    _, _, painted, _, status = parts(game_panel(game))
    for _ in range(2):
        painted.click()
    assert "<b>A</b>" not in status.value
    assert re.search("&lt;b&gt;A", status.value)
