"""A notebook that came alone, as Colab fetches it: its first and last cell, in an empty folder, without the package.

The kernel is one of a fresh environment that has everything this one has but colorize_utils.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

from colorize_utils.checkpoints import save
from colorize_utils.models import UNet

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks" / "source"))
import build  # noqa: E402 (a script beside the notebooks' source, no package)

NAMES = ("GAN-L1", "GAN-MSE", "WGAN")
pytestmark = pytest.mark.slow  # kernels, and a wheel
COLAB_OPENS = 20_000_000  # bytes
JUPYTER_TAKES = 10 * 2**20  # bytes of one message from the browser, such as a cell to run


@pytest.fixture
def python(tmp_path):
    """The interpreter of an environment of its own, without colorize_utils."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    for package in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "colorize_utils" not in package.name and package.suffix != ".pth":
            (site / package.name).symlink_to(package)
    return python


@pytest.fixture
def lone(tmp_path, python, monkeypatch):
    """Runs cells of a notebook that lies alone in a folder; returns the printed text and the shown HTML of each."""
    folder = tmp_path / "alone"
    folder.mkdir()
    kernel = tmp_path / "kernels" / "lone"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        f'{{"argv": ["{python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"], '
        '"display_name": "lone", "language": "python"}'
    )
    for variable in ("PYTHONPATH", "COLORIZE_REPO_URL", "COLORIZE_PROFILE", "COLORIZE_RUNS"):
        monkeypatch.delenv(variable, raising=False)

    def run(name, places, edit=lambda source: source, source=ROOT / "notebooks"):
        shutil.copy(source / f"{name}.ipynb", folder)
        notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        notebook.cells = [code[place] for place in places]
        for cell in notebook.cells:
            cell.source = edit(cell.source)
        specs = KernelSpecManager(kernel_dirs=[str(kernel.parent)])
        manager = KernelManager(kernel_name="lone", kernel_spec_manager=specs)
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, km=manager, timeout=120, store_widget_state=False, resources=resources).execute()
        printed = ["".join(o.text for o in cell.outputs if o.get("name") == "stdout") for cell in notebook.cells]
        html = ["".join(o.get("data", {}).get("text/html", "") for o in cell.outputs) for cell in notebook.cells]
        return printed, html

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of what is in the working tree, to be cloned; its branch is called otherwise than usual."""
    repository = tmp_path_factory.mktemp("repository")
    names = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for name in names:
        if name.startswith(("colorize_utils/", "pyproject", "README", "LICENSE", "requirements", "constraints")):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, repository / name)
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=lesson"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "All of it"], ["tag", "v1"]):
        subprocess.run([*git, *command], cwd=repository, check=True)
    return repository


@pytest.fixture(scope="module")
def wheels(repository, tmp_path_factory):
    """The package's wheel, as `make colab` packs it, and what it packs beside it."""
    folder = tmp_path_factory.mktemp("wheels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "ROOT", repository)
        return build.build_wheels(folder)


@pytest.fixture(scope="module")
def wheel(wheels):
    return next(wheel for wheel in wheels if wheel.name.startswith("colorize_utils-"))


def test_the_wheel_has_weights_and_types_and_asks_for_no_test_runner(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert "colorize_utils/py.typed" in names
    weights = [name for name in names if name.startswith("colorize_utils/weights/")]
    assert [name for name in weights if name.endswith(".safetensors")]
    assert not [name for name in names if name.endswith(".onnx")]  # which is the same network for those without PyTorch
    needed = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)]
    needed = {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})}
    assert {"numpy", "onnxruntime"} <= needed
    assert not needed & {"torch", "nbval", "pytest", "ruff", "mypy"}


def assert_colorized(printed, html, model="model: flowers-192, which comes with the package"):
    assert model in printed[-1]
    assert html[-1].count("<img") == 2  # the photograph, gray and in colour
    assert "640×427" in html[-1]


@pytest.mark.parametrize(("name", "ref"), [("GAN-L1", ""), ("GAN-MSE", "#lesson"), ("WGAN", "#v1")])
def test_from_a_clone(lone, repository, name, ref, monkeypatch):
    monkeypatch.setenv("COLORIZE_REPO_URL", f"file://{repository}{ref}")
    printed, html = lone(name, [0, -1])
    assert "from colorize_utils/colorize_utils\n" in printed[0]
    assert_colorized(printed, html)
    assert (lone.folder / "colorize_utils" / ".git").is_dir()
    monkeypatch.setenv("COLORIZE_REPO_URL", "file:///nowhere")  # the second time nothing is fetched
    assert_colorized(*lone(name, [0, 0, -1]))


@pytest.mark.parametrize("name", NAMES)
def test_from_a_wheel_beside_it(lone, wheel, name, monkeypatch):
    monkeypatch.setenv("COLORIZE_REPO_URL", "file:///nowhere")
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # as in a room without network
    shutil.copy(wheel, lone.folder)
    printed, html = lone(name, [0, 0, -1])
    assert "site-packages/colorize_utils\n" in printed[0]
    assert_colorized(printed, html)
    (lone.folder / wheel.name).unlink()
    assert_colorized(*lone(name, [0, -1]))  # it stays installed


def test_of_several_wheels_the_newest_is_taken(lone, monkeypatch):
    """0.10.0 is newer than 0.9.0, although its name comes first."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        info = f"colorize_utils-{version}.dist-info"
        files = {
            "colorize_utils/__init__.py": "",
            "colorize_utils/notebook/__init__.py": "",
            "colorize_utils/notebook/bootstrap.py": f"def prepare(): print('version {version}')",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: colorize_utils\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }
        with zipfile.ZipFile(lone.folder / f"colorize_utils-{version}-py3-none-any.whl", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    printed, _ = lone("GAN-L1", [0])
    assert printed == ["version 0.10.0\n"]


@pytest.fixture(scope="module")
def for_colab(wheels, tmp_path_factory):
    """The folder that `make colab` fills."""
    folder = tmp_path_factory.mktemp("colab")
    build.write_packed((*NAMES, "Lesson"), folder, wheels)
    return folder


@pytest.mark.parametrize("name", [*NAMES, "Lesson"])
def test_for_colab_everything_is_inside_and_folded(for_colab, name):
    packed = for_colab / f"{name}.ipynb"
    assert packed.stat().st_size < COLAB_OPENS
    notebook = nbformat.read(packed, as_version=4)
    nbformat.validate(notebook)
    first, *others = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert first.metadata == {"cellView": "form", "jupyter": {"source_hidden": True}}
    assert len(json.dumps(first.source)) + 10_000 < JUPYTER_TAKES
    assert max(map(len, first.source.splitlines())) <= 1100  # of longer lines an editor makes heavy weather
    plain = nbformat.read(ROOT / "notebooks" / packed.name, as_version=4)
    assert others == [cell for cell in plain.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(("name", "places"), [("GAN-L1", [0, 1, 0, -1]), ("WGAN", [0, -1])])
def test_for_colab_a_notebook_needs_nothing_beside_it(lone, for_colab, python, name, places, monkeypatch):
    """No package, no wheel, no network, and not what Colab lacks. The first cell and the last suffice here, too."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("COLORIZE_REPO_URL", "file:///nowhere")
    for installed in (python.parent.parent / "lib").glob("python*/site-packages/pytorch_msssim*"):
        installed.unlink()

    def ask(source):
        return source + "\nimport pytorch_msssim\nprint(pytorch_msssim.__file__)" if "model_path" in source else source

    printed, html = lone(name, places, ask, for_colab)
    assert_colorized(printed, html)
    assert str(python.parent.parent) in printed[-1]
    assert "missing" not in "".join(printed)
    assert [path.name for path in lone.folder.iterdir()] == [f"{name}.ipynb"]


@pytest.mark.parametrize("name", NAMES)
def test_with_nothing_it_says_what_to_do(lone, name, monkeypatch):
    monkeypatch.setenv("COLORIZE_REPO_URL", "http://127.0.0.1:9/nobody/nothing")
    with pytest.raises(CellExecutionError, match=r"git.*Set REPO_URL above, or put the wheel in this folder"):
        lone(name, [0])
    assert [path.name for path in lone.folder.iterdir()] == [f"{name}.ipynb"]  # nothing half-fetched


@pytest.mark.parametrize("address", ["https://github.com/<owner>/x", "https://github.com/<owner>/x#main"])
def test_while_the_address_has_no_owner_nothing_is_asked_for_it(lone, tmp_path, address, monkeypatch):
    """A name that somebody could register would run his code where a Drive is mounted."""
    asked = tmp_path / "bin" / "asked"
    git = asked.with_name("git")
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\ntouch {asked}\nexit 1\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(git.parent), prepend=os.pathsep)
    monkeypatch.setenv("COLORIZE_REPO_URL", address)
    with pytest.raises(CellExecutionError, match=r"Set REPO_URL above, or put the wheel in this folder"):
        lone("GAN-L1", [0])
    assert not asked.exists()


def test_an_empty_variable_is_as_good_as_none(lone, monkeypatch):
    monkeypatch.setenv("COLORIZE_REPO_URL", "")
    owner = build.repository().split("/")[-2]
    with pytest.raises(CellExecutionError, match=rf"{re.escape(owner)}.*Set REPO_URL above"):
        lone("GAN-L1", [0], lambda source: source.replace("https://github.com/", "http://127.0.0.1:9/"))


def test_with_nothing_and_without_git_it_says_the_same(lone, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CellExecutionError, match=r"git.*Set REPO_URL above"):
        lone("GAN-L1", [0])


def test_the_last_cell_takes_a_path_and_gets_over_a_dead_link(lone, repository, monkeypatch):
    monkeypatch.setenv("COLORIZE_REPO_URL", f"file://{repository}")
    save(lone.folder / "mine.safetensors", UNet(width=1 / 16), {"size": 32})
    printed, html = lone("GAN-L1", [0, -1], lambda source: source.replace('path = ""', 'path = "mine.safetensors"'))
    assert_colorized(printed, html, "model: mine.safetensors")
    dead = "http://127.0.0.1:9/weights.pth"
    printed, html = lone("GAN-L1", [0, -1], lambda source: source.replace('path = ""', f'path = "{dead}"'))
    assert f"{dead} cannot be used: " in printed[-1]
    assert_colorized(printed, html)


def test_first_generator_and_last_are_the_submissions_way(lone, repository, monkeypatch):
    """First block, the block under the headline Generator, last block."""
    monkeypatch.setenv("COLORIZE_REPO_URL", f"file://{repository}")
    monkeypatch.setenv("COLORIZE_PROFILE", "smoke")
    notebook = nbformat.read(ROOT / "notebooks" / "GAN-L1.ipynb", as_version=4)
    section, places, code = "", [], -1
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = next((line for line in cell.source.splitlines() if line.startswith("## ")), section)
        else:
            code += 1
            if section in ("## 1. Set-up", "## 5. Generator", "## 14. Running instructions"):
                places.append(code)
    printed, html = lone("GAN-L1", places)
    assert any("parameters" in text for text in printed)
    assert_colorized(printed, html)


def test_the_environment_is_really_without_the_package(python, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    result = subprocess.run([python, "-c", "import colorize_utils"], capture_output=True, text=True, cwd=os.sep)
    assert "No module named 'colorize_utils'" in result.stderr
