"""hf:// addresses, against a small Hub on this machine (conftest.py)."""

import os
import subprocess
import sys

import pytest
from huggingface_hub import constants
from PIL import Image

from colorize_utils.checkpoints import BUNDLED, fetch, huggingface, load_generator, save
from colorize_utils.checkpoints.huggingface import TELEMETRY, Address
from colorize_utils.cli import main
from colorize_utils.errors import CheckpointError
from colorize_utils.inference import Colorizer
from colorize_utils.inference.onnx_engine import OnnxEngine
from colorize_utils.models import UNet
from colorize_utils.notebook.widgets import choose_colorizer


@pytest.fixture
def petals(hub, tmp_path, tiny_checkpoint):
    """The folder of the repository someone/petals, which holds a checkpoint."""
    folder = tmp_path / "petals"
    folder.mkdir()
    (folder / "README.md").write_text("# petals\n")
    (folder / "petals.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    hub.add("someone/petals", folder)
    return folder


def asked(hub, method="GET"):
    return [path for verb, path, _ in hub.requests if verb == method]


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://someone/petals", Address("someone/petals")),
        ("hf://models/someone/petals", Address("someone/petals")),
        ("hf://someone/petals.v2/a.safetensors", Address("someone/petals.v2", None, "a.safetensors")),
        ("hf://someone/petals@v1", Address("someone/petals", "v1")),
        ("hf://someone/petals@refs%2Fpr%2F3/onnx/a.onnx", Address("someone/petals", "refs/pr/3", "onnx/a.onnx")),
    ],
)
def test_an_address_names_a_repository_and_maybe_a_revision_and_a_file(text, address):
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["hf://", "hf://someone", "hf://someone/", "hf://someone/petals@", "hf://a b/c"])
def test_what_is_no_address_is_told(text):
    with pytest.raises(CheckpointError, match="write hf://OWNER/NAME"):
        fetch(text)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["README.md", "a.safetensors"], "a.safetensors"),
        (["a.onnx", "a.safetensors"], "a.safetensors"),
        (["README.md", "a.onnx"], "a.onnx"),
    ],
)
def test_a_repositorys_only_checkpoint_needs_no_name(files, chosen):
    assert Address("someone/petals").choose(files) == chosen
    assert Address("someone/petals", None, "README.md").choose([*files, "README.md"]) == "README.md"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.safetensors", "b.safetensors", "c.onnx"], "several checkpoints.*there are a.safetensors, b.safetensors$"),
        (["a.onnx", "b.onnx"], "several checkpoints.*there are a.onnx, b.onnx$"),
        (["weights.pth"], r"has no \.safetensors or \.onnx; name another.*there are weights\.pth"),
        ([], "it is empty"),
        ([f"{number:02}.txt" for number in range(20)], "00.txt, .*07.txt and 12 more$"),
    ],
)
def test_a_repository_without_one_checkpoint_lists_what_it_has(files, message):
    with pytest.raises(CheckpointError, match=message):
        Address("someone/petals").choose(files)


# ---------------------------------------------------------------- fetching


def test_a_repository_is_fetched_once_and_loads_everywhere(hub, petals, tiny_checkpoint, tmp_path):
    address = "hf://someone/petals"
    path = fetch(address)
    assert path.read_bytes() == tiny_checkpoint.read_bytes()
    assert path.is_relative_to(constants.HF_HUB_CACHE)
    assert load_generator(address).sha256 == load_generator(tiny_checkpoint).sha256
    gray = Image.radial_gradient("L").resize((40, 30))
    expected = Colorizer.from_checkpoint(tiny_checkpoint, "cpu").colorize(gray)
    assert Colorizer.from_checkpoint(address, "cpu").colorize(gray) == expected
    assert choose_colorizer(address, "cpu").colorize(gray) == expected
    gray.save(tmp_path / "gray.png")
    assert main([str(tmp_path / "gray.png"), "--model", address, "--device", "cpu", "--quiet"]) == 0
    with Image.open(tmp_path / "gray-colorized.png") as written:
        assert written.tobytes() == expected.tobytes()
    assert asked(hub).count("/someone/petals/resolve/main/petals.safetensors") == 1
    assert set(asked(hub)) == {
        "/api/models/someone/petals",
        "/someone/petals/resolve/main/petals.safetensors",
    }  # nothing that only counts


def test_a_repository_may_hold_the_network_for_onnx_runtime(hub, petals, monkeypatch):
    """Alone it is taken; beside a checkpoint only where PyTorch is not installed."""
    (petals / "flowers.onnx").write_bytes((BUNDLED / "flowers-192.onnx").read_bytes())
    hub.add("someone/petals", petals)
    assert fetch("hf://someone/petals").suffix == ".safetensors"
    with monkeypatch.context() as without:
        without.setattr(huggingface, "has_torch", lambda: False)
        assert fetch("hf://someone/petals").suffix == ".onnx"
    (petals / "petals.safetensors").unlink()
    hub.add("someone/petals", petals)
    colorizer = Colorizer.from_checkpoint("hf://someone/petals")
    assert isinstance(colorizer.engine, OnnxEngine) and colorizer.takes_hints


def test_a_file_and_a_revision_can_be_named(hub, petals, tmp_path):
    other = save(petals / "other" / "small.safetensors", UNet(width=1 / 32), {"size": 32})
    with pytest.raises(CheckpointError, match=r"there are other/small\.safetensors, petals\.safetensors"):
        fetch("hf://someone/petals")
    assert fetch("hf://someone/petals/other/small.safetensors").read_bytes() == other.read_bytes()
    commit = hub.repositories["someone/petals"][1]
    assert fetch(f"hf://someone/petals@{commit}/petals.safetensors", tmp_path / "own").is_relative_to(tmp_path / "own")
    assert f"/someone/petals/resolve/{commit}/petals.safetensors" in asked(hub)
    with pytest.raises(CheckpointError, match=r"has no file a\.safetensors; there are README\.md"):
        fetch("hf://someone/petals/a.safetensors")
    with pytest.raises(CheckpointError, match="has no revision 'v9'; give one of its branches"):
        fetch("hf://someone/petals@v9")


def test_a_branch_that_moved_on_is_followed(hub, petals):
    first = fetch("hf://someone/petals").read_bytes()
    save(petals / "petals.safetensors", UNet(width=1 / 32), {"size": 32})
    hub.add("someone/petals", petals, "moved on")
    assert fetch("hf://someone/petals").read_bytes() == (petals / "petals.safetensors").read_bytes() != first


def test_without_network_the_copy_in_the_cache_is_used(hub, petals, monkeypatch):
    path = fetch("hf://someone/petals")
    hub.refusals["someone/petals"] = 503, ""
    assert fetch("hf://someone/petals") == path
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert fetch("hf://someone/petals/petals.safetensors") == path
    assert fetch(f"hf://someone/petals@{hub.repositories['someone/petals'][1]}") == path
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("hf://someone/petals") == path
    for address in ("hf://someone/petals/other.safetensors", "hf://someone/leaves", "hf://someone/petals@v1"):
        with pytest.raises(
            CheckpointError, match=r"no answer from http://127.*no copy of hf://someone/\w+ in the cache"
        ):
            fetch(address)


def test_a_copy_that_was_altered_or_cut_short_is_fetched_again(hub, petals):
    path = fetch("hf://someone/petals")
    content = path.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[: len(content) // 2]):
        path.resolve().write_bytes(damaged)
        assert fetch("hf://someone/petals").read_bytes() == content


def test_what_is_no_checkpoint_is_told(hub, petals):
    (petals / "petals.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"petals\.safetensors of hf://someone/petals is a Git LFS pointer"):
        fetch("hf://someone/petals")
    with pytest.raises(CheckpointError, match=r"README\.md of hf://someone/petals/README\.md is not a checkpoint"):
        fetch("hf://someone/petals/README.md")


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("refused", "status", "code", "message"),
    [
        ("someone/petals", 401, "RepoNotFound", "someone/petals does not exist, or is private.*HF_TOKEN"),
        ("someone/petals", 403, "GatedRepo", "someone/petals is gated: ask for access on that page.*HF_TOKEN"),
        ("/someone/petals/resolve/main/petals.safetensors", 403, "GatedRepo", "someone/petals is gated"),
        ("someone/petals", 429, "", "the server answered 429"),
        ("someone/petals", 503, "", "no answer from http.*503.*no copy of hf://someone/petals in the cache"),
    ],
)
def test_a_refusal_is_one_line(hub, petals, refused, status, code, message):
    hub.refusals[refused] = status, code
    with pytest.raises(CheckpointError, match=message) as told:
        fetch("hf://someone/petals")
    assert "\n" not in str(told.value)


def test_a_file_that_is_cut_short_is_told_and_not_kept(hub, petals):
    hub.shorten = 1000
    with pytest.raises(CheckpointError, match=r"^hf://someone/petals was cut short .*; try again$"):
        fetch("hf://someone/petals")
    hub.shorten = 0
    assert fetch("hf://someone/petals").read_bytes() == (petals / "petals.safetensors").read_bytes()


def test_a_cache_that_cannot_be_written_is_told(hub, petals, tmp_path):
    (tmp_path / "hub").write_text("a file where a folder should be")
    with pytest.raises(CheckpointError, match=r"cannot write to the cache of huggingface_hub .*HF_HOME"):
        fetch("hf://someone/petals")


def test_without_the_library_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setenv(TELEMETRY, "1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'pip install "huggingface_hub>=1\.16", or "\.\[hub\]" here'):
        fetch("hf://someone/petals")


def test_progress_is_shown_and_can_be_silenced(hub, petals, capsys, tmp_path):
    fetch("hf://someone/petals", tmp_path / "quiet", progress=False)
    assert capsys.readouterr().err == ""
    fetch("hf://someone/petals", tmp_path / "loud")
    assert "petals.safetensors" in capsys.readouterr().err


# ---------------------------------------------------------------- no statistics


def test_no_statistics_are_sent(hub, petals, monkeypatch):
    """Neither where the library was imported before, by another package, nor in what it asks and says of itself."""
    fetch("hf://someone/petals")
    assert os.environ[TELEMETRY] == "1" and constants.HF_HUB_DISABLE_TELEMETRY
    agents = [headers["user-agent"] for _, _, headers in hub.requests]
    assert agents and all("colorize_utils/" in agent and "torch" not in agent for agent in agents)


@pytest.mark.parametrize(("chosen", "sent"), [("0", True), ("1", False), ("true", False)])
def test_a_users_own_choice_about_statistics_is_left(hub, petals, monkeypatch, chosen, sent):
    monkeypatch.setenv(TELEMETRY, chosen)
    fetch("hf://someone/petals")
    assert os.environ[TELEMETRY] == chosen
    assert any("torch/" in headers["user-agent"] for _, _, headers in hub.requests) == sent


@pytest.mark.slow
def test_a_fresh_process_asks_the_hub_for_the_checkpoint_and_for_nothing_else(hub, petals, tmp_path):
    """The command line, with the library's own environment variables alone."""
    Image.radial_gradient("L").resize((40, 30)).save(tmp_path / "gray.png")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.endpoint,
    }
    command = [sys.executable, "-m", "colorize_utils", "gray.png", "--model", "hf://someone/petals"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {path for _, path, _ in hub.requests} == {
        "/api/models/someone/petals",
        "/someone/petals/resolve/main/petals.safetensors",
    }
    assert not any("torch" in headers["user-agent"] for _, _, headers in hub.requests)
    assert [*(tmp_path / "home" / "hub").glob("models--someone--petals/snapshots/*/petals.safetensors")]
