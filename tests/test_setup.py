"""The project as a whole: what it installs, what it ships, how its parts may depend on each other."""

import ast
import hashlib
import importlib
import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image, ImageFilter
from safetensors import safe_open
from sklearn.datasets import load_sample_image

from colorize_utils import __version__
from colorize_utils.checkpoints import BUNDLED, DEFAULT, REGISTRY, exported, verify
from colorize_utils.checkpoints.hub import EXPORTED
from colorize_utils.cli import main
from colorize_utils.data import load_splits, make_loader, sample_photograph
from colorize_utils.inference import Colorizer, Hint
from colorize_utils.inference.hints import chroma_at
from colorize_utils.inference.onnx_engine import OnnxEngine
from colorize_utils.metrics import scoreboard

ROOT = Path(__file__).parent.parent
SOURCES = "colorize_utils/*.py"
COLAB = {  # the published package list of a GPU runtime of 2026-08; what it lacks the notebooks install
    "gdown": "5.2.2",
    "ipywidgets": "7.7.1",
    "matplotlib": "3.10.0",
    "numpy": "2.1.3",
    "pillow": "11.3.0",
    "safetensors": "0.8.0",
    "scipy": "1.16.3",
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "tqdm": "4.67.3",
}
# Who may import whom: a floor those below it only, and a room what stands before it on its own floor. Not named are a
# package's __init__, which hands on the names of its rooms, and the package's own, which imports lazily.
FLOORS = [
    "errors lazy files machine runs generator_registry recipes palette colour naming",
    "models losses devices metrics multiscale ranks",
    "data.cache data.synthetic data.metadata data.pictures data.pages data.augmentation data.degradation data.hints",
    "data.sample data.pairs",
    "checkpoints.kind checkpoints.state checkpoints.huggingface checkpoints.hub checkpoints.card plots",
    "training inference.hints inference.engine inference.quantization inference.precision inference.familiarity",
    "inference.prediction inference.engines inference.torch_engine inference.onnx_engine",
    "inference.colorizer inference.batch inference.archive inference.export",
    "evaluation.realism evaluation.prints evaluation.comparison evaluation.choices evaluation.report",
    "evaluation.provenance",
    "app.guard app.picture app.visits app.page app.server",
    "notebook.bootstrap notebook.profiles notebook.live notebook.colours notebook.page notebook.widgets",
    "notebook.lesson notebook.race notebook.game",
    "cli.options cli.colorize cli.archive cli.serve cli.train cli.evaluate cli.compare cli.calibrate cli.release",
    "cli.card cli.export cli.cache",
    "__main__",
]


def requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def tracked(*patterns):
    names = subprocess.run(["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in names.stdout.splitlines()]


def test_requirements_are_lower_bounds_that_colab_meets():
    for requirement in requirements():
        assert [specifier.operator for specifier in requirement.specifier] == [">="], requirement
        if requirement.name in COLAB:
            assert requirement.specifier.contains(COLAB[requirement.name]), requirement


def test_the_packages_that_were_fixed_are_required():
    fixed = {"torch", "torchvision", "pytorch-msssim", "matplotlib", "ipywidgets", "gdown", "nbval"}
    assert fixed <= {requirement.name for requirement in requirements()}


def test_what_notebooks_need_is_the_list_of_requirements_without_the_test_runner():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = (ROOT / "requirements.txt").read_text().split()
    runner = [line for line in lines if line.startswith("nbval")]
    own = [line for line in extras["notebook"] if line != "colorize_utils[train]"]
    assert sorted(project["dependencies"] + extras["train"] + own + runner) == lines
    assert set(runner) <= set(extras["dev"])


def test_the_light_installation_is_light():
    """… and has the engine that it colorizes with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {Requirement(line).name for line in project["dependencies"]}
    assert names == {"numpy", "onnxruntime", "pillow", "platformdirs", "tqdm"}


def test_environment_says_what_requirements_say():
    """… and that the package itself is installed, too."""
    lines = re.findall(r"^      - (\S.*)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    assert lines == [*(ROOT / "requirements.txt").read_text().splitlines(), "-e ."]


def test_the_readme_names_what_is_run_apart_and_the_console_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (section,) = re.findall(r"(?ms)^## Run it$(.*?)^## ", (ROOT / "README.md").read_text())
    for apart in project["tool"]["pytest"]["ini_options"]["norecursedirs"]:
        assert f"`make {apart}-test`" in section
    for command in project["project"]["scripts"]:
        assert f"`{command}`" in section


def test_constraints_pin_everything_that_is_required_and_fit_it():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if not line.startswith("#"):
            name, version = line.split("==")
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].values()
    for requirement in [*requirements(), *(Requirement(line) for group in groups for line in group)]:
        if requirement.name == "colorize_utils":  # an extra that holds another
            continue
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_the_repositorys_address_stands_once():
    """But in notebooks and badges, where test_notebooks.py compares it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["urls"]["Repository"]
    holders = [
        path.name for path in tracked() if path.suffix != ".ipynb" and address in path.read_text(errors="ignore")
    ]
    assert holders == ["pyproject.toml"]


def test_every_relative_link_leads_to_a_file():
    broken, count = [], 0
    for page in tracked("README.md", "CONTRIBUTING.md", "docs/*.md", "colorize_utils/weights/README.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|#", target):
                count += 1
                if not (page.parent / target.partition("#")[0]).is_file():
                    broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert count > 20 and not broken, broken


def test_rooms_import_downwards_only():
    rooms = [room for floor in FLOORS for room in floor.split()]
    level = {room: number for number, room in enumerate(rooms)}
    for room in rooms:  # a wing is as high as its highest room
        wing = room.partition(".")[0]
        level[wing] = max(level.get(wing, 0), level[room])
    modules = {path: path.relative_to(ROOT / "colorize_utils").with_suffix("").parts for path in tracked(SOURCES)}
    names = {path: ".".join(parts) for path, parts in modules.items() if parts[-1] != "__init__"}
    assert set(names.values()) == set(rooms)
    for path, room in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("colorize_utils"):
                inner = node.module.removeprefix("colorize_utils").removeprefix(".")
                for name in [alias.name for alias in node.names]:
                    used = next((one for one in (f"{inner}.{name}".strip("."), inner) if one in level), None)
                    assert used is None or level[used] < level[room], f"{room} imports {used}"


@pytest.mark.slow
def test_importing_everything_downloads_seeds_and_shows_nothing():
    script = """
import socket, sys, random
import torch
socket.socket.connect = lambda *_: sys.exit("the network was used")
torch.manual_seed(5)
before = torch.get_rng_state(), random.getstate()
import colorize_utils.cli, colorize_utils.inference, colorize_utils.plots, colorize_utils.training
assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
print(sorted({"gdown", "huggingface_hub", "ipywidgets", "matplotlib.pyplot", "sklearn"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


@pytest.mark.slow
def test_what_the_workflow_trains_on_a_mac_can_be_trained(tmp_path, monkeypatch):
    """Its commands, on the processor. On the Mac's GPU, which may have no memory for it, a failure is none."""
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    (apple,) = re.findall(r"^  apple:\n((?:    .*\n|\n)+)", workflow, re.MULTILINE)
    assert "runs-on: macos" in apple
    steps = apple.split("\n      - ")
    trained = [step for step in steps if "colorize_utils train" in step]
    monkeypatch.chdir(tmp_path)
    devices = {}
    for step in trained:
        arguments = re.search(r"python -m colorize_utils (train .*)", step).group(1).split()
        place = arguments.index("--device") + 1
        devices[arguments[place]] = "continue-on-error: true" in step
        arguments[place] = "cpu"
        assert main([*arguments, "--quiet"]) == 0
    assert devices == {"cpu": False, "mps": True}


@pytest.mark.parametrize("name", ["", ".data", ".checkpoints", ".inference"])
def test_a_package_hands_on_the_names_that_it_lists_and_no_others(name):
    package = importlib.import_module(f"colorize_utils{name}")
    for public in package.__all__:
        assert getattr(package, public) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
    source = ast.parse(Path(package.__file__).read_text())
    imported = [node for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imported if "colorize_utils" in node.module for alias in node.names}
    assert names - {"from_rooms"} == {*package.__all__} - {"__version__"}


def test_the_version_is_the_packages():
    assert metadata.version("colorize_utils") == __version__


# ---------------------------------------------------------------- the bundled weights


def test_bundled_weights_are_what_the_registry_says():
    entry = REGISTRY[DEFAULT]
    assert entry.sources[0].startswith("bundled:")
    path = BUNDLED / entry.sources[0].removeprefix("bundled:")
    assert verify(path, entry) == entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size == entry.length <= 25_000_000
    with safe_open(path, "pt") as file:
        assert {"recipe", "architecture", "width", "size", "metrics", "versions"} <= set(file.metadata())


@pytest.mark.parametrize("entry", [REGISTRY[DEFAULT], EXPORTED[DEFAULT]], ids=["checkpoint", "exported"])
def test_the_model_card_names_each_file_and_its_checksum(entry):
    card = (BUNDLED / "README.md").read_text()
    assert entry.sha256 in card
    assert f"{entry.length:,} bytes" in card
    assert entry.sources[0].removeprefix("bundled:") in card


def test_the_exported_file_is_what_the_registry_says_and_of_the_bundled_checkpoint():
    path, entry = exported(DEFAULT), EXPORTED[DEFAULT]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    about = OnnxEngine(path).about
    assert (about.source_sha256, about.name, about.licence) == (REGISTRY[DEFAULT].sha256, DEFAULT, entry.licence)
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) <= 20_000_000


@pytest.mark.skipif("COLORIZE_TEST_FLOWERS" not in os.environ, reason="needs the real flowers-102/")
@pytest.mark.parametrize(("size", "scores"), [(64, "psnr ssim mae mse"), (256, "psnr ssim mae")])
def test_the_model_cards_scores_are_those_of_the_bundled_file(size, scores):
    card = (BUNDLED / "README.md").read_text()
    table = card[card.index(f"| at {size}×{size} |") :].partition("\n\n")[0]
    claimed = {cells[1].strip(): cells[2:-1] for line in table.splitlines() if (cells := line.split("|"))}
    scores = scores.split()
    colorizer = Colorizer.from_checkpoint(device="cpu")
    predictors = {f"{DEFAULT}, {style}": colorizer.predictor(style=style) for style in colorizer.styles}
    flowers = load_splits(os.environ["COLORIZE_TEST_FLOWERS"], size, progress=False)
    for score in scoreboard(predictors, make_loader(flowers.test, 64)):
        *others, difference, colour = map(float, claimed[score.name])
        tolerances = {"psnr": 0.02, "ssim": 0.002, "mae": 2e-4, "mse": 2e-4}
        for field, claim in zip(scores, others, strict=True):
            assert getattr(score, field) == pytest.approx(claim, abs=tolerances[field])
        assert score.ciede2000 == pytest.approx(difference, abs=0.05)
        assert score.colourfulness_ratio == pytest.approx(colour, abs=0.02)


BLUE = pytest.param("#3c64dc", marks=pytest.mark.xfail(strict=True, reason="blue reaches a part of the flower alone"))


@pytest.mark.parametrize("colour", ["#c83c8c", "#8c3cc8", "#e6b41e", BLUE])
def test_the_default_colorizer_gives_a_whole_flower_the_colour_of_one_hint(colour):
    """The sample's dahlia takes it, from petal to petal, and the leaves behind it keep theirs."""
    gray, hint = sample_photograph(), Hint(375, 170, colour)
    colorizer = Colorizer.from_checkpoint(device="cpu")
    plain, led = (np.asarray(colorizer.colorize(gray, hints=hints), float) for hints in ([], [hint]))
    y, x = np.mgrid[: gray.height, : gray.width]
    distance = np.hypot(x - 307, y - 222)
    flower = distance < 120
    levels = np.asarray(gray)[flower]
    wanted = 255 * np.array([chroma_at(hint.rgb, level) for level in range(256)])[levels]  # (N, 2)
    hues = [np.arctan2(*planes.T) for planes in ((led[flower] - levels[:, None])[:, ::2], wanted)]
    assert np.median(np.abs((hues[0] - hues[1] + np.pi) % (2 * np.pi) - np.pi)) < np.radians(30)
    moved = np.linalg.norm(led - plain, axis=2)
    assert moved[(distance > 170) & (y < 340)].mean() < 0.2 * moved[flower].mean()


@pytest.mark.skipif("COLORIZE_TEST_FLOWERS" not in os.environ, reason="needs the real flowers-102/")
def test_a_hint_spreads_to_the_flower_and_stops_there():
    names = runpy.run_path(str(ROOT / "tests/benchmarks/spread.py"))
    found = names["measured"](Colorizer.from_checkpoint(device="cpu"), os.environ["COLORIZE_TEST_FLOWERS"], 3.0)
    near, far = np.median(np.concatenate(list(found.values())), axis=0)
    assert near < names["NEAR"] and far < names["FAR"]


def test_the_default_colorizer_gives_a_photograph_its_leaves_back():
    """The sample is a flower before dark leaves: there is colour, and behind the flower it is green."""
    gray = sample_photograph()
    colour = Colorizer.from_checkpoint(device="cpu").colorize(gray)
    assert colour.size == gray.size
    np.testing.assert_array_equal(np.asarray(colour.convert("L")), np.asarray(gray))
    red, green, blue = np.asarray(colour, float)[20:200, 20:120].reshape(-1, 3).mean(axis=0)
    assert green > red + 2
    assert green > blue + 2


@pytest.mark.parametrize(("style", "most"), [("safe", 1.0), ("vivid", 1.4)])
def test_the_default_colorizer_stays_calm_where_there_is_no_flower(style, most):
    """A pagoda by a lake gets about as much colour as it had, and no pixel a glaring one."""
    photograph = load_sample_image("china.jpg")
    gray = Image.fromarray(photograph).convert("L")
    painted = np.asarray(Colorizer.from_checkpoint(device="cpu").colorize(gray, style=style))
    ranges = [np.ptp(picture.astype(int), axis=-1) for picture in (painted, photograph)]
    assert ranges[0].mean() < most * ranges[1].mean()
    assert np.percentile(ranges[0], 99) < 128


@pytest.mark.parametrize("level", [0, 30, 60, 100, 128, 160, 200, 230, 255])
def test_the_default_colorizer_leaves_gray_where_there_is_nothing(level):
    rgb = np.asarray(Colorizer.from_checkpoint(device="cpu").colorize(Image.new("L", (200, 150), level))).astype(int)
    assert np.ptp(rgb, axis=-1).max() <= 8


@pytest.mark.parametrize("level", [60, 110, 190])
def test_the_default_colorizer_paints_no_rainbow_on_the_wall_behind_a_flower(level):
    x, y = np.meshgrid(np.arange(640), np.arange(427))
    distance = np.hypot(x - 320, y - 215)
    inside = Image.fromarray(np.uint8(255 * (distance < 130))).filter(ImageFilter.GaussianBlur(2))
    wall = np.clip(level + 0.05 * x + np.random.default_rng(0).normal(0, 2, x.shape), 0, 255)
    gray = Image.composite(sample_photograph(), Image.fromarray(np.uint8(wall)), inside)
    ranges = np.ptp(np.asarray(Colorizer.from_checkpoint(device="cpu").colorize(gray)).astype(int), axis=-1)
    assert ranges[distance > 180].mean() < 20
    assert ranges[distance < 100].mean() > 20  # the flower has its colours
