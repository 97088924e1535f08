"""Every command that the documents print in their code blocks does what it says, small and on drawn flowers.

A command that neither `RUN` nor `NOT_RUN` knows fails the test: a new kind of command has to be entered here.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from colorize_utils import checkpoints
from colorize_utils.cli import COMMANDS, main
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.models import UNet
from colorize_utils.multiscale import MultiscaleUNet

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "colorize_utils" / "weights" / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
]

# What is added to a command of the package to make it small; of an option that is given twice, the second counts.
SMALL = "--size 32 --width 0.0625 --epochs 1 --batch-size 8 --device cpu --quiet"
RUN = {
    "train": f"{SMALL} --count 20",
    "compare": f"{SMALL} --count 20 --seeds 1",
    "evaluate": "--size 32 --count 20 --device cpu --quiet",
    "calibrate": "--count 20 --quiet",
    "release": "",
    "card": "",
    "colorize": "--device cpu --quiet",
    "cache": "",
}
# Several processes, of which two are enough here.
TORCHRUN = "torchrun --nproc-per-node="
# What is not run here, by its beginning, and why.
NOT_RUN = {
    "python -m colorize_utils archive": "needs Ray; tests/cluster/test_cluster.py runs it on a cluster of two nodes",
    "python -m colorize_utils export": "takes half a minute; tests/inference/test_export.py exports small networks",
    "python -m colorize_utils aunt.jpg --model A.onnx": "is such a file; likewise",
    "python docs/forty_lines.py": "tests/light/test_light.py runs it",
    "du ": "a system's own",
    "/usr/bin/time": "a system's own; what it measures is run elsewhere",
    "python -X importtime -m colorize_utils": "Python's own; likewise",
    "ray ": "starts and stops a cluster, as tests/cluster/test_cluster.py does",
    "export RAY_": "a shell's own",
    "python -m colorize_utils serve": "runs until it is interrupted; tests/app and tests/browser start it",
    "make": "a target of the Makefile: environments, networks, hours; the test below looks for it there",
    "pip install": "needs a package index",
    "hf upload": "needs an account at the Hugging Face Hub; the next command reads the folder from one on this machine",
    "conda env create": "needs a package index",
    "python -m venv": "an environment, for pip to fill",
    "export ": "a shell's own",
    "torchrun --nnodes=": "needs two machines, or two terminals",
    "python -m pip": "needs a package index",
    "python -m pytest": "these tests",
    "source .venv/bin/activate": "a shell's own",
    "git show": "a file of the repository's history",
    "python tests/benchmarks/": "minutes of measuring; test_benchmarks.py runs each small",
    "python tests/campaigns/": "minutes of trying; as it says itself",
    "python notebooks/source/build.py": "writes into the repository, or runs the notebooks for real",
    "python notebooks/source/paintings.py": "needs the runs of the three notebooks; test_game.py runs it small",
}


def commands_in(document: Path) -> list[str]:
    """The lines of its code blocks, without comments; a line that is continued is one. A block of another language, or
    of `text` (trees, output), is none of commands."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    text = "\n".join(block for language, block in blocks if language in ("", "sh", "bash", "shell", "console"))
    lines = text.replace("\\\n", " ").replace(" && ", "\n").replace(".venv/bin/", "").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).removeprefix("$ ").strip() for line in lines) if line]


def drawn(folder: Path, seed: int) -> Path:
    folder.mkdir()
    for number, picture in enumerate(synthetic_flowers(30, 32, seed)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, hub):
    """A working folder with what the commands name: placeholders are folders and files of that name.

    On the Hub, which is this machine, OWNER/NAME is what `hf upload OWNER/NAME dist/hub` would have made of it.
    """
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    hub.add("OWNER/NAME", Path("dist/hub").absolute())
    monkeypatch.setenv("COLORIZE_DATA", str(drawn(Path("FLOWERS_ROOT"), 0)))
    for seed, name in enumerate(("FLOWER_PHOTOS", "OTHER_THINGS", "THINGS"), start=1):
        drawn(Path(name), seed)
    Path("album").mkdir()
    for path in ("aunt.jpg", "album/uncle.jpg"):
        Image.fromarray(synthetic_flowers(1, 48)[0]).convert("L").save(path)
    Path("hints.json").write_text('[{"x": 20, "y": 12, "colour": "red"}]')
    network = UNet(width=1 / 16)
    checkpoints.save("A.safetensors", network, {"size": 32})
    checkpoints.save("EARLIER.safetensors", MultiscaleUNet(1 / 16, sizes=(32, 32)), {"size": 32})
    torch.save(network.state_dict(), "B.pth")


def status_of(command: str) -> int:
    if command.startswith(TORCHRUN):
        words = shlex.split(re.sub(r"(?<=^torchrun --nproc-per-node=)\d+", "2", command))
        name = words[words.index("colorize_utils") + 1]
        small = [sys.executable, "-m", "torch.distributed.run", *words[1:], *shlex.split(RUN[name])]
        return subprocess.run(small, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    words = shlex.split(command)[3:]
    name = next((name for name in COMMANDS if words[:1] == [name]), "colorize")
    if name == "train" and "--resume" not in words:
        shutil.rmtree(Path("runs") / words[1], ignore_errors=True)  # of the same recipe elsewhere in the document
    try:
        return main([*words, *shlex.split(RUN[name])])
    except SystemExit as stop:  # --help
        return stop.code or 0


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_printed_command_runs(here, document, capfd):
    seen = 0
    for command in dict.fromkeys(commands_in(document)):
        if any(command.startswith(beginning) for beginning in NOT_RUN):
            continue
        assert command.startswith(("python -m colorize_utils", TORCHRUN)), (
            f"{document.name} prints {command!r}: enter it here, or call its block text"
        )
        assert status_of(command) == 0, f"{command}: {capfd.readouterr().err}"
        seen += 1
    assert seen or document.parent.name == "docs" or document.name == "CONTRIBUTING.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_not_run_is_there_at_least(document):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in commands_in(document):
        words = shlex.split(command)
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= set(targets), command
        elif words[0] == "python" and "-m" not in words:
            script = ROOT / words[1]
            assert script.is_file(), command
            sources = "".join(
                path.read_text(encoding="utf-8") for path in script.parent.glob("*.py")
            )  # some share options
            for option in (word for word in words[2:] if word.startswith("--")):
                assert f'"{option}"' in sources or f"{option[2:]}=" in sources, command  # measure.options(data=…)
        elif words[0] == "hf":
            assert words[1:] == ["upload", "OWNER/NAME", "dist/hub"], command  # what the fixture makes of it
            help_of_it = [sys.executable, "-m", "huggingface_hub.cli.hf", "upload", "--help"]
            quiet = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
            told = subprocess.run(help_of_it, env=quiet, capture_output=True, text=True).stdout
            assert "Upload a file or a folder to the Hub" in told


@pytest.mark.parametrize(
    ("block", "message"), [("frobnicate --all", "enter it here"), ("python -m colorize_utils missing.jpg", "missing")]
)
def test_a_command_that_is_not_known_or_fails_is_noticed(here, tmp_path, block, message, capfd):
    document = tmp_path / "rotten.md"
    document.write_text(f"As follows:\n\n```\nmake test  # all\n{block}\n```\n")
    with pytest.raises(AssertionError, match=message):
        test_a_printed_command_runs(here, document, capfd)
