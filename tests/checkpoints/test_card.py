"""The folder that is published on the Hugging Face Hub, read as the Hub's own library reads it."""

import re
from email.message import Message
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from colorize_utils.checkpoints import BUNDLED, DEFAULT, REGISTRY, card, load_generator
from colorize_utils.checkpoints.card import card_text, prepare
from colorize_utils.cli import main
from colorize_utils.errors import CheckpointError
from colorize_utils.inference import Colorizer

ROOT = Path(__file__).parent.parent.parent
FILE = BUNDLED / f"{DEFAULT}.safetensors"

SMALL = """# Model card: tiny

<!-- front matter
license: cc0-1.0
library_name: colorize_utils
pipeline_tag: image-to-image
datasets: [drawn]
evaluated_on: {type: drawn, name: Drawn flowers, split: test}
-->

A [small](models.py) network, SHA-256 `DIGEST`.

| at 32×32 | PSNR dB | colourfulness ratio |
|---|---|---|
| gray | 18.50 | 0.00 |
| tiny | 19.25 | 0.50 |
"""


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "published"
    prepare(folder)
    return folder


@pytest.fixture
def small(tmp_path, tiny_checkpoint):
    path = tmp_path / "tiny.md"
    path.write_text(SMALL.replace("DIGEST", load_generator(tiny_checkpoint).sha256), encoding="utf-8")
    return path


@pytest.fixture
def address(monkeypatch):
    """The repository's address, as the package has it after somebody wrote it into pyproject.toml."""
    told = Message()
    told["Project-URL"] = "Repository, https://git.example.org/someone/colorize_utils"
    monkeypatch.setattr(card.metadata, "metadata", lambda _: told)
    return "https://git.example.org/someone/colorize_utils"


def test_the_folder_holds_the_checkpoint_its_card_and_its_licence(published):
    onnx = FILE.with_suffix(".onnx")
    assert {path.name for path in published.iterdir()} == {"README.md", "LICENSE", FILE.name, onnx.name}
    for file in (FILE, onnx):
        assert (published / file.name).read_bytes() == file.read_bytes()
    assert (published / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_hubs_library_reads_the_front_matter(published):
    data = ModelCard((published / "README.md").read_text(encoding="utf-8")).data
    assert data.license == REGISTRY[DEFAULT].licence.lower()
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("colorize_utils", "image-to-image", DEFAULT)
    assert {"image-colorization", "pytorch"} <= set(data.tags)
    assert data.metrics == ["psnr", "ssim", "mae", "mse", "ciede2000", "colourfulness_ratio"]
    loaded, entry = load_generator(), REGISTRY[DEFAULT]
    assert data.checkpoint == {
        "file": FILE.name,
        "sha256": entry.sha256,
        "architecture": entry.architecture,
        "width": entry.width,
        "size": loaded.size,
    }
    assert not hasattr(data, "evaluated_on")


def test_the_scores_are_the_cards_own(published):
    """Each number of both tables, found by a reading of the tables that is not the module's."""
    data = ModelCard((published / "README.md").read_text(encoding="utf-8")).data
    results = {(one.dataset_config, one.metric_name): one.metric_value for one in data.eval_results}
    expected, text = {}, (BUNDLED / "README.md").read_text(encoding="utf-8")
    for size in (64, 256):
        table = text[text.index(f"| at {size}×{size} |") :].partition("\n\n")[0].splitlines()
        names = [cell.strip() for cell in table[0].split("|")[2:-1]]
        for style in ("safe", "vivid"):
            (row,) = [line for line in table if line.startswith(f"| {DEFAULT}, {style} |")]
            for name, cell in zip(names, row.split("|")[2:-1], strict=True):
                expected[f"{size}x{size}", f"{name}, {style}"] = float(cell)
    assert len(expected) == 22 and results == expected
    assert {(one.task_type, one.dataset_type, one.dataset_name, one.dataset_split) for one in data.eval_results} == {
        ("image-to-image", "oxford_flowers102", "Oxford Flowers-102", "test")
    }


def test_a_number_that_changes_in_the_card_changes_above_it(small, tiny_checkpoint):
    data = ModelCard(card_text(tiny_checkpoint, small)).data
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [
        ("psnr", 19.25),
        ("colourfulness_ratio", 0.5),
    ]
    small.write_text(small.read_text(encoding="utf-8").replace("19.25", "20.75"), encoding="utf-8")
    assert ModelCard(card_text(tiny_checkpoint, small)).data.eval_results[0].metric_value == 20.75


def test_the_text_is_the_cards_and_says_how_it_is_used(published):
    text = ModelCard((published / "README.md").read_text(encoding="utf-8")).text
    assert "--model hf://OWNER/NAME" in text
    assert "front matter" not in text and "<!--" not in text
    without_links = re.compile(r"\[([^\]]*)\]\([^)]*\)")
    original = (BUNDLED / "README.md").read_text(encoding="utf-8").partition("-->\n\n")[2]
    assert without_links.sub(r"\1", text).endswith(without_links.sub(r"\1", original))


def test_no_relative_link_is_left_but_the_licence(published):
    """As long as nobody has written the repository's address into pyproject.toml, there is none to lead to."""
    assert "<owner>" in (ROOT / "pyproject.toml").read_text()
    assert re.findall(r"\]\(([^)]*)\)", (published / "README.md").read_text(encoding="utf-8")) == ["LICENSE"]


def test_links_lead_into_the_repository_where_it_has_an_address(address):
    targets = re.findall(r"\]\(([^)]*)\)", card_text(FILE))
    inside = [target.removeprefix(f"{address}/blob/main/") for target in targets if target not in ("LICENSE", address)]
    assert "colorize_utils/multiscale.py" in inside and "docs/report/report.md" in inside
    assert all((ROOT / target).is_file() for target in inside), inside
    assert address in targets and "LICENSE" in targets


def test_pictures_links_and_places_of_a_card_survive(address):
    text = "![a dahlia](../../sample.jpg) [here](#scores) [there](https://example.org/a)"
    assert card._led_elsewhere(text, address, "colorize_utils/weights") == (
        f"![a dahlia]({address}/raw/main/sample.jpg) [here](#scores) [there](https://example.org/a)"
    )
    assert card._led_elsewhere(text, None, "a/b") == "a dahlia [here](#scores) [there](https://example.org/a)"


def test_a_card_of_ones_own_goes_with_its_checkpoint_and_without_the_projects_licence(
    small, tiny_checkpoint, tmp_path, capsys
):
    arguments = ["card", str(tiny_checkpoint), "--text", str(small), "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"tiny.safetensors", "README.md"}
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == names
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "A small network" in text and yaml.safe_load(text.split("---")[1])["license"] == "cc0-1.0"
    assert main(arguments) == 0  # over its own files


def test_a_folder_with_other_files_is_refused(published):
    (published / "notes.txt").write_text("not for the public")
    with pytest.raises(CheckpointError, match=r"holds notes\.txt, which would be published, too; give an empty folder"):
        prepare(published)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("`[0-9a-f]{64}`", "`0`", "is not about tiny.safetensors: it does not state its SHA-256"),
        ("<!-- front matter", "<!--", "has no comment that begins with `<!-- front matter`"),
        ("license: cc0-1.0", "license: [", "the front matter of .* is damaged"),
        ("license: cc0-1.0\n", "", "lacks license$"),
        ("{type: drawn, name: Drawn flowers, split: test}", "", "lacks evaluated_on$"),
        (", split: test", "", "has to have type, name and split$"),
        ("{type: drawn.*", "drawn", "has to have type, name and split$"),
        ("19.25", "19,25", r"a column of '\| tiny \| 19,25 \| 0.50 \|' has no number"),
        (r" 0.50 \|", "", "has no number"),
        (r"\| tiny \|", "| huge |", "has no table of scores .* with a row of tiny"),
    ],
)
def test_a_card_that_does_not_fit_is_told(small, tiny_checkpoint, tmp_path, old, new, message):
    small.write_text(re.sub(old, new, small.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        prepare(tmp_path / "out", tiny_checkpoint, small)
    assert not (tmp_path / "out").exists()


def test_another_checkpoint_than_the_bundled_one_needs_its_own_card(tiny_checkpoint, tmp_path, capsys):
    assert main(["card", str(tiny_checkpoint), "-o", str(tmp_path / "out")]) == 1
    assert "is not about tiny.safetensors" in capsys.readouterr().err


def test_what_torch_saved_is_refused(tmp_path, tiny_unet):
    import torch

    torch.save(tiny_unet.state_dict(), tmp_path / "tiny.pth")
    with pytest.raises(CheckpointError, match=r"tiny\.pth is no safetensors file; `release` makes one"):
        prepare(tmp_path / "out", tmp_path / "tiny.pth")


@pytest.mark.parametrize("installed", [None, "The terms."])
def test_outside_the_repository_the_licence_is_the_installed_one(installed, tmp_path, monkeypatch):
    class Distribution:
        def read_text(self, name):
            return installed

    monkeypatch.setattr(card, "ROOT", tmp_path)
    monkeypatch.setattr(card.metadata, "distributions", lambda name: [Distribution()])
    if installed:
        prepare(tmp_path / "out")
        assert (tmp_path / "out" / "LICENSE").read_text() == installed
    else:
        with pytest.raises(CheckpointError, match="install colorize_utils again"):
            prepare(tmp_path / "out")


def test_what_was_prepared_is_read_back(hub, published):
    """As after `hf upload OWNER/NAME FOLDER`: the same network, from the Hub."""
    hub.add("someone/flowers", published)
    gray = Image.radial_gradient("L").resize((60, 40))
    read = Colorizer.from_checkpoint("hf://someone/flowers", "cpu")
    assert read.checkpoint == REGISTRY[DEFAULT].sha256
    assert read.colorize(gray).tobytes() == Colorizer.from_checkpoint(device="cpu").colorize(gray).tobytes()
