import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import uniform_filter

from colorize_utils import checkpoints, metrics, naming, palette
from colorize_utils.cli import main
from colorize_utils.errors import HintError
from colorize_utils.inference import Colorizer, Hint, read_hints, write_hints
from colorize_utils.inference import colorizer as colorizer_room
from colorize_utils.inference.hints import LEAST_BELIEVED, beliefs, chroma_at, hint_planes
from colorize_utils.models import DistributionUNet
from colorize_utils.multiscale import MultiscaleUNet, SizedBatchNorm


def made(seed=0):
    torch.manual_seed(seed)
    network = MultiscaleUNet(1 / 8, sizes=(64, 96))
    for layer in network.modules():
        if isinstance(layer, SizedBatchNorm):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(network.head.weight, std=2)
    return network.eval()


@pytest.fixture(scope="module")
def colorizer():
    return Colorizer(made(), 96, "led")


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(30, 220, (9, 12), dtype=np.uint8))
    return small.resize((160, 120), Image.Resampling.BICUBIC)


def test_without_hints_it_is_what_it_was(colorizer, picture):
    plain = np.asarray(colorizer.colorize(picture))
    assert np.array_equal(plain, colorizer.colorize(picture, hints=[]))
    network = made()
    gray = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(gray), network(gray, torch.zeros(1, 3, 96, 96)))


def test_a_hint_changes_colours_and_keeps_luminance(colorizer, picture):
    plain = np.asarray(colorizer.colorize(picture), int)
    hinted = colorizer.colorize(picture, hints=[Hint(40, 30, "#c03050")])
    assert np.array_equal(hinted.convert("L"), picture)
    change = np.abs(np.asarray(hinted, int) - plain).sum(axis=2)
    assert change[25:35, 35:45].mean() > change[90:, 120:].mean()
    raw = colorizer.colorize(picture, keep_luminance=False, hints=[Hint(40, 30, "#c03050")])
    assert not np.array_equal(raw, colorizer.colorize(picture, keep_luminance=False))


def test_each_set_of_hints_gives_what_it_gives_alone(colorizer, picture):
    sets = [(), (Hint(40, 30, "red"),), (Hint(40, 30, "blue"), Hint(100, 90, (0, 200, 0), radius=8))]
    for one, hints in zip(colorizer.colorize_each(picture, sets), sets, strict=True):
        difference = np.asarray(one, int) - np.asarray(colorizer.colorize(picture, hints=hints), int)
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("hint", "place"),
    [
        (Hint(100, 50, "red", radius=10), (slice(20, 28), slice(56, 68))),  # 180…220 × 80…120 of a twice larger picture
        (Hint(0, 0, "red", radius=10), (slice(0, 5), slice(0, 6))),
        (Hint(159.9, 119.9, "red", radius=0.1), (slice(59, 60), slice(95, 96))),
        (Hint(80, 60, "red", radius=0.5), (slice(30, 31), slice(48, 49))),
    ],
)
def test_a_hint_covers_its_square_and_one_pixel_at_least(hint, place):
    gray = np.full((120, 160), 128, np.uint8)
    planes = hint_planes([hint], gray, 60, 96)  # half as high, 0.6 as wide
    rows, columns = (np.flatnonzero(planes[2].any(axis=axis)) for axis in (1, 0))
    if hint.radius == 10 and hint.x:
        assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (20, 30, 54, 66)
    else:
        assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (
            place[0].start, place[0].stop, place[1].start, place[1].stop
        )  # fmt: skip
    assert set(np.unique(planes[2])) == {0, 1}
    assert np.allclose(planes[:2, planes[2] == 1].T, chroma_at((255, 0, 0), 128))


def test_of_the_colour_the_chroma_counts_as_far_as_luminance_allows():
    wanted = np.array([192, 48, 80]) - np.array([192, 48, 80]) @ [0.299, 0.587, 0.114]
    assert np.allclose(np.multiply(255, chroma_at((192, 48, 80), 110)), wanted[[0, 2]], atol=0.1)
    for level in (0, 255):
        assert np.allclose(chroma_at((192, 48, 80), level), 0)
    red, blue = chroma_at((255, 0, 0), 240)
    assert 0 < 255 * red <= 15.1 and np.isclose(blue / red, -0.299 / 0.701, atol=0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": "reddish"}, {"colour": "#12"}, {"colour": (1, 2)}, {"colour": (1, 2, 300)}, {"colour": 7},
        {"radius": 0}, {"radius": -1}, {"x": float("nan")}, {"y": "3"},
    ],
)  # fmt: skip
def test_a_hint_that_is_none_is_told(wrong):
    with pytest.raises(ValueError, match="a hint's"):
        Hint(**({"x": 1, "y": 1, "colour": "red"} | wrong))


@pytest.mark.parametrize("place", [(-1, 3), (160, 3), (3, 120), (3, -0.5)])
def test_a_hint_off_the_picture_is_told(colorizer, picture, place):
    with pytest.raises(ValueError, match="160 wide and 120 high"):
        colorizer.colorize(picture, hints=[Hint(*place, "red")])
    with pytest.raises(ValueError, match="160 wide and 120 high"):
        colorizer.palette_at(picture, *place)


def test_a_network_without_hints_says_so(picture, tiny_unet):
    for network in (tiny_unet, DistributionUNet(1 / 8)):
        plain = Colorizer(network.eval(), 64, "deaf")
        for ask in (
            lambda one=plain: one.colorize(picture, hints=[Hint(1, 1, "red")]),
            lambda one=plain: one.answers(picture),
        ):
            with pytest.raises(HintError, match="deaf takes no hints"):
                ask()
    with pytest.raises(ValueError, match="how sure"):
        Colorizer(tiny_unet, 64, "deaf").uncertainty(picture)


# ------------------------------------------------------------ beliefs and answers


def distribution(**shares):
    """Probabilities of the palette, divided among the colours given as red_blue in steps from gray."""
    chromas = palette.chromas().numpy() / palette.STEP
    probabilities = np.zeros(len(chromas), np.float32)
    for place, share in shares.values():
        probabilities[np.flatnonzero((chromas == place).all(axis=1))] += share
    return probabilities


def test_beliefs_are_told_apart_by_name():
    shares = {"a": ((3, -1), 0.3), "b": ((3, 0), 0.3), "c": ((-1, 3), 0.25), "d": ((0, 0), 0.14), "e": ((-3, -3), 0.01)}
    found = beliefs(distribution(**shares), 120)
    assert found[0].name in ("red", "pink", "orange")
    assert sum(belief.probability for belief in found) == pytest.approx(0.99, abs=0.02)
    assert len({belief.name for belief in found}) == len(found)
    assert [b.probability for b in found] == sorted((b.probability for b in found), reverse=True)
    assert all(belief.probability >= LEAST_BELIEVED for belief in found)
    assert {"blue", "white or gray"} <= {belief.name for belief in found}
    for belief in found:  # at the luminance of the place
        assert abs(np.array(belief.colour) @ [0.299, 0.587, 0.114] - 120) < 1


def test_a_belief_in_one_colour_is_one_answer_and_variance_its_width():
    (only,) = beliefs(distribution(a=((0, 0), 1.0)), 90)
    assert only.name == "white or gray" and only.probability == pytest.approx(1) and only.colour == (90, 90, 90)
    two = distribution(a=((2, 0), 0.5), b=((-2, 0), 0.5))
    assert palette.variance(np.stack([two, distribution(a=((3, 3), 1.0))], axis=1)[:, None])[0] == pytest.approx(
        [(2 * palette.STEP) ** 2, 0], abs=1e-6
    )


def test_answers_are_hints_on_the_most_uncertain_place(colorizer, picture):
    answers = colorizer.answers(picture, 3)
    assert 1 <= len(answers) <= 3
    assert [answer.probability for answer in answers] == sorted((a.probability for a in answers), reverse=True)
    assert len({answer.name for answer in answers}) == len(answers)
    for answer in answers:
        difference = np.asarray(answer.picture, int) - np.asarray(colorizer.colorize(picture, hints=answer.hints), int)
        assert np.abs(difference).max() <= 1
    (hint,) = answers[0].hints
    believed = colorizer.palette_at(picture, hint.x, hint.y)
    assert [(b.name, b.colour) for b in believed[: len(answers)]] == [(a.name, a.hints[0].colour) for a in answers]
    with pytest.raises(ValueError, match="count"):
        colorizer.answers(picture, 0)


def test_uncertainty_is_the_width_of_belief_at_the_pictures_size(picture):
    network = made()
    network.head.weight.data *= 0.1
    network.head.bias.data = -40 * palette.chromas().norm(dim=1)  # gray is likely everywhere, so that belief is narrow
    narrow = Colorizer(network, 96)
    where = narrow.uncertainty(picture)
    assert where.shape == (120, 160) and where.dtype == np.float32 and 0 <= where.min() < where.max() < 1
    network.head.bias.data *= 2
    assert Colorizer(network, 96).uncertainty(picture).mean() < where.mean()
    told = narrow.uncertainty(picture, [Hint(40, 30, "red")])
    assert not np.array_equal(told, where)


# ------------------------------------------------------------ files and the command line


def test_hints_survive_a_file(tmp_path):
    hints = [Hint(320, 210, "#c03050"), Hint(1.5, 2, (1, 2, 3), radius=7)]
    write_hints(tmp_path / "hints.json", hints)
    assert read_hints(tmp_path / "hints.json") == hints


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "JSON"),
        ("{}", "list"),
        ('[{"x": 1}]', "hint 1"),
        ('[{"x": 1, "y": 2, "colour": "nix"}]', "nix"),
        ("[7]", "hint 1"),
    ],
)
def test_a_hints_file_that_is_none_is_told(tmp_path, content, named):
    path = tmp_path / "hints.json"
    path.write_text(content)
    with pytest.raises(HintError, match=rf"hints\.json.*{named}"):
        read_hints(path)
    with pytest.raises(HintError, match=r"absent\.json cannot be read"):
        read_hints(tmp_path / "absent.json")


def test_parsing():
    assert Hint.parse("320, 210,#c03050") == Hint(320, 210, "#c03050")
    assert Hint.parse("3,2.5,red,8") == Hint(3, 2.5, "red", 8)
    for wrong in ("320,210", "a,b,red", "1,2,nix", "1,2,red,3,4"):
        with pytest.raises(HintError, match="x,y,colour"):
            Hint.parse(wrong)


@pytest.fixture
def album(tmp_path, picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture.save("photo.png")
    checkpoints.save("led.safetensors", made(), {"size": 96, "width": 1 / 8, "architecture": "multiscale-unet"})
    return tmp_path


def run(*arguments):
    return main([*map(str, arguments), "--model", "led.safetensors", "--device", "cpu"])


def test_the_command_line_takes_hints(album, colorizer, picture):
    (album / "hints.json").write_text(json.dumps([{"x": 100, "y": 90, "colour": [0, 200, 0]}]))
    assert run("photo.png", "--hint", "40,30,#c03050", "--hint", "5,5,blue", "--hints", "hints.json") == 0
    hints = [Hint(100, 90, (0, 200, 0)), Hint(40, 30, "#c03050"), Hint(5, 5, "blue")]
    assert np.array_equal(Image.open("photo-colorized.png"), colorizer.colorize(picture, hints=hints))


def test_the_command_line_writes_answers_and_says_what_each_chose(album, colorizer, picture, capsys):
    assert run("photo.png", "--answers", 3) == 0
    answers = colorizer.answers(picture, 3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(answers)
    for number, (answer, line) in enumerate(zip(answers, lines, strict=True), 1):
        assert np.array_equal(Image.open(f"photo-colorized-{number}.png"), answer.picture)
        assert line.startswith(f"photo-colorized-{number}.png: {answer.name}")
    assert not (album / "photo-colorized.png").exists()
    assert run("photo.png", "--answers", 3) == 1  # they exist
    assert "photo-colorized-1.png exists" in capsys.readouterr().err
    assert run("photo.png", "--answers", 3, "--overwrite") == 0


def test_the_command_line_writes_the_map(album, colorizer, picture):
    assert run("photo.png", "--uncertainty", "map.png") == 0
    expected = np.rint(255 * colorizer.uncertainty(picture))
    assert np.array_equal(np.asarray(Image.open("map.png")), expected)


def test_the_command_line_refuses_what_makes_no_sense(album, capsys):
    assert run("photo.png", "--hint", "400,30,red") == 1
    assert "photo.png: the hint at (400, 30) lies off" in capsys.readouterr().err
    (album / "two").mkdir()
    for arguments in (
        ["photo.png", "photo.png", "--hint", "1,1,red"],
        ["two", "--uncertainty", "map.png"],
        ["photo.png", "--hint", "1,1"],
        ["photo.png", "--answers", "2", "--hint", "1,1,red"],
    ):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 2


def test_windows_are_averaged_as_scipy_does_it():
    values = np.random.default_rng(0).random((40, 23), dtype=np.float32)
    expected = uniform_filter(values, colorizer_room._WINDOW, mode="constant")
    np.testing.assert_allclose(colorizer_room._smoothed(values), expected, rtol=1e-5)


def test_the_two_ways_to_cielab_are_one():
    colours = np.random.default_rng(0).integers(0, 256, (500, 3), dtype=np.uint8)
    planes = torch.from_numpy(colours.astype(np.float32) / 255).T[None, :, :, None]
    np.testing.assert_allclose(naming.lab(colours), metrics.lab(planes)[0, :, :, 0].T.numpy(), atol=1e-3)
