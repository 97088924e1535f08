"""What the README says of a new architecture, done with a toy: a class, an entry, a recipe; nothing else is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from colorize_utils import models
from colorize_utils.checkpoints import identify, load_generator
from colorize_utils.cli import main
from colorize_utils.generator_registry import ARCHITECTURES, Architecture
from colorize_utils.inference import STYLES, Colorizer
from colorize_utils.palette import COLOURS
from colorize_utils.recipes import RECIPES, Recipe


class Toy(nn.Module):
    """Two convolutions."""

    def __init__(self, width=1.0, dropout_rate=0.0):
        super().__init__()
        self.look = nn.Conv2d(1, models.base_channels(width), 3, padding=1)
        self.dropout = nn.Dropout(dropout_rate)
        self.paint = nn.Conv2d(models.base_channels(width), 3, 1)

    def forward(self, gray):
        return self.paint(self.dropout(self.look(gray).relu()))


class Guess(nn.Module):
    """Two convolutions as well, and a distribution at half the size."""

    def __init__(self, width=1.0):
        super().__init__()
        self.glance = nn.Conv2d(1, models.base_channels(width), 4, stride=2, padding=1)
        self.believe = nn.Conv2d(models.base_channels(width), COLOURS, 1)

    def forward(self, gray):
        return self.believe(self.glance(gray).relu())


@pytest.fixture(params=["toy", "guess"])
def recipe(request, monkeypatch):
    """A new architecture and a recipe that names it."""
    entry, changes = {
        "toy": (Architecture(f"{__name__}:Toy", first_layer="look.weight", options=("dropout",)), {"dropout": 0.1}),
        "guess": (Architecture(Guess, first_layer="glance.weight", distribution=True), {"keep_luminance": True}),
    }[request.param]
    monkeypatch.setitem(ARCHITECTURES, request.param, entry)
    scale = {"size": 32, "width": 1 / 16, "batch_size": 8, "epochs": 1}
    monkeypatch.setitem(RECIPES, request.param, Recipe(request.param, generator=request.param, **changes, **scale))
    return RECIPES[request.param]


@pytest.mark.slow
def test_a_new_architecture_trains_is_saved_recognised_and_colorizes(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--data", "generated", "--count", "20", "--device", "cpu", "--quiet"]
    assert main(["train", recipe.name, *data, "-o", "run"]) == 0
    assert main(["train", recipe.name, *data, "-o", "run", "--resume", "--epochs", "2"]) == 0

    kind = {"toy": Toy, "guess": Guess}[recipe.name]
    loaded = load_generator("run/last.safetensors")
    assert type(loaded.network) is kind
    assert (loaded.architecture, loaded.width, loaded.size) == (recipe.name, 1 / 16, 32)
    trained = torch.load("run/state.pt", weights_only=True)["generator"]
    assert all(torch.equal(value, trained[key]) for key, value in loaded.network.state_dict().items())
    torch.manual_seed(0)
    assert any(not torch.equal(value, trained[key]) for key, value in kind(1 / 16).state_dict().items())
    torch.save(trained, "bare.pth")
    assert load_generator("bare.pth").architecture == recipe.name

    levels = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    Image.fromarray(levels).save("photo.png")
    assert main(["photo.png", "--model", "run/best.safetensors", "--device", "cpu"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("photo-colorized.png").convert("L")), levels)
    styles = Colorizer.from_checkpoint("run/best.safetensors", "cpu").styles
    assert styles == (STYLES if recipe.name == "guess" else ("safe",))


def test_a_new_architecture_has_the_options_that_its_entry_says(recipe):
    takes = {"toy": {"dropout"}, "guess": {"lambda_dist"}}[recipe.name]
    for option, value in {"dropout": 0.2, "lambda_dist": 2.0, "bounded": True}.items():
        if option in takes:
            assert getattr(replace(recipe, **{option: value}), option) == value
        else:
            with pytest.raises(ValueError, match=f"recipe {recipe.name}: {option} "):
                replace(recipe, **{option: value})
    with pytest.raises(ValueError, match=r"bounded.*: unet, wgan-unet$"):
        models.build_generator(recipe.generator, 1 / 16, bounded=True)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_told_from_all_others(name):
    for width in (1 / 64, 1 / 2):
        with torch.device("meta"):
            state = models.build_generator(name, width).state_dict()
        assert identify(state) == (name, width, False)
        assert [other for other, entry in ARCHITECTURES.items() if entry.first_layer in state] == [name]
