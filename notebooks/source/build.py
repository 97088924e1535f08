"""Builds the notebooks from their one source, the Markdown files beside this one.

    python notebooks/source/build.py build [NAME …]   writes the notebooks; cells that did not change keep their outputs
    python notebooks/source/build.py run [NAME …]     the same, then runs them for real, keeps what they show, and
                                                      prints the minutes of each section
    python notebooks/source/build.py clean [NAME …]   only takes out what does not belong into the repository
    python notebooks/source/build.py address [URL]    writes the repository's address, by default that of `git remote`,
                                                      into pyproject.toml, README and notebooks
    python notebooks/source/build.py colab [NAME …]   writes dist/colab/NAME.ipynb, with the package inside: upload, run

Edit the source, then `build`: what is equal in several notebooks stands there once. A cell with `model="…"` is only in
those notebooks, and one that says `{{cell of FILE}}` is the cell of the same id in that file. `{{repository}}` becomes
the repository's address, `{{colab}}` the notebook's own in Colab. The source is Jupytext's Markdown: JupyterLab with
Jupytext opens it as a notebook, too.

`run` takes pictures and runs from where COLORIZE_DATA and COLORIZE_RUNS say; a run that is finished there is shown, not
repeated.
"""

import argparse
import base64
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
import zipfile
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import jupytext
import nbformat
from nbformat import NotebookNode
from PIL import Image

SOURCE = Path(__file__).resolve().parent
HERE = SOURCE.parent
ROOT = HERE.parent
NOTEBOOKS = {  # and the source of each; the selected model last, so that its scoreboard has all three
    "GAN-MSE": "gan_notebooks.md",
    "WGAN": "gan_notebooks.md",
    "GAN-L1": "gan_notebooks.md",
    "Lesson": "lesson.md",
}
GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com/github/"
COLAB_LACKS = ("pytorch-msssim",)  # of what the package requires
LINE = 1000  # characters of packed bytes: one line of millions makes an editor crawl, and so do a hundred thousand
LARGE = 300_000  # bytes of a figure
WIDGET = "application/vnd.jupyter.widget-view+json"
PACKED = """\
**This copy has its package inside.** The next cell installs it without any network; it is folded, because it is as long
as the package is large. The cell after it then finds the package at the first place of the list."""
KEPT_METADATA = ("accelerator", "colab", "kernelspec", "language_info")


def notebook_path(name: str) -> Path:
    return HERE / f"{name}.ipynb"


# ---------------------------------------------------------------- build


def build(name: str) -> NotebookNode:
    """The notebook as its source has it, without outputs.

    Cells that differ between the notebooks get a tag, for tests and readers of a diff: `adversary` where there are two
    versions (GANs and WGAN), `loss` where there are three.
    """
    source = jupytext.read(SOURCE / NOTEBOOKS[name])
    ids = [cell.metadata["id"] for cell in source.cells]
    values = {"{{repository}}": repository(), "{{colab}}": colab_address(name)}
    cells = []
    for cell in source.cells:
        id, models, tags = (cell.metadata.get(key, []) for key in ("id", "model", "tags"))
        if models and name not in ([models] if isinstance(models, str) else models):
            continue
        if models:
            tags = ["loss" if ids.count(id) == 3 else "adversary", *tags]
        cell.id, cell.metadata = id, {"tags": tags}
        if elsewhere := re.fullmatch(r"\{\{cell of (\S+)\}\}", cell.source):
            others = jupytext.read(SOURCE / elsewhere.group(1)).cells
            (cell.source,) = (other.source for other in others if other.metadata["id"] == id)
        for placeholder, value in values.items():
            cell.source = cell.source.replace(placeholder, value)
        cells.append(cell)
    source.cells = cells
    source.nbformat_minor = 5  # the first version whose cells have ids
    return clean(source)


def keep_outputs(built: NotebookNode, before: NotebookNode, also: Collection[str] = ()) -> NotebookNode:
    """`built` with the outputs and counts that `before` has, for cells whose code is the same.

    also: ids of cells that keep theirs although their code has changed, because what they show has not.
    """
    old = {cell.id: cell for cell in before.cells if cell.cell_type == "code"}
    for cell in built.cells:
        if cell.cell_type == "code" and cell.id in old and (cell.id in also or cell.source == old[cell.id].source):
            cell.outputs, cell.execution_count = old[cell.id].outputs, old[cell.id].execution_count
    return built


def clean(notebook: NotebookNode) -> NotebookNode:
    """Without widgets and their state, warnings, progress bars, times, and what an editor noted for itself.

    Large figures, which are photographs, become JPEG, so that the notebook stays small.
    """
    notebook.metadata = {key: notebook.metadata[key] for key in KEPT_METADATA if key in notebook.metadata}
    notebook.metadata["language_info"] = {"name": "python"}
    if "colab" in notebook.metadata:
        notebook.metadata["colab"] = {"toc_visible": True}  # not where on somebody's Drive it lay
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
            for output in cell.outputs:
                _reduce(output.get("data", {}))
    return notebook


def _reduce(data: dict[str, str]) -> None:
    """Makes a JPEG of a figure whose PNG file is large."""
    content = base64.b64decode(data.get("image/png", ""))
    if len(content) > LARGE:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(buffer, "JPEG", quality=90, optimize=True)
        data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode("ascii")
        del data["image/png"]


def _is_passing(output: NotebookNode) -> bool:
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def run(path: Path) -> dict[str, float]:
    """Runs a notebook in its folder and writes it back, cleaned. Raises CellExecutionError where a cell fails.

    Returns the seconds that the cells of each section took, by its heading.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=None, store_widget_state=False, resources={"metadata": {"path": HERE}})
    client.execute()
    seconds = seconds_of(notebook)
    nbformat.write(clean(notebook), path)
    return seconds


def seconds_of(notebook: NotebookNode) -> dict[str, float]:
    """How long the cells of each section of a notebook took that has just been run."""
    seconds: dict[str, float] = {}
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("## ")), heading)
        elif times := cell.metadata.get("execution"):
            begin, end = (datetime.fromisoformat(times[key]) for key in ("iopub.execute_input", "shell.execute_reply"))
            seconds[heading] = seconds.get(heading, 0.0) + (end - begin).total_seconds()
    return seconds


# ---------------------------------------------------------------- the repository's address


def repository() -> str:
    """The repository's address, from the one place where it stands."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"].rstrip("/")


def colab_address(name: str) -> str:
    """Where Colab opens the notebook from GitHub."""
    slug = quote(repository().removeprefix(GITHUB))  # quoted because of the < and > of an owner not known yet
    return f"{COLAB}{slug}/blob/main/notebooks/{name}.ipynb"


def remote_address() -> str | None:
    """The address of this repository's remote (`origin` first) at GitHub, None where it has no such remote."""
    for remote in sorted(_git("remote"), key=lambda remote: remote != "origin"):
        for url in _git("remote", "get-url", remote):
            found = re.fullmatch(r"(?:https://(?:[^@/]+@)?|ssh://git@|git@)github\.com[:/](.+?)(?:\.git)?/?", url)
            if found:
                return GITHUB + found.group(1)
    return None


def _git(*command: str) -> list[str]:
    """The lines that git prints, none where this is no repository of its own or git is not there."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return []
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def write_address(address: str) -> None:
    """Writes `address` (https://github.com/OWNER/NAME) into pyproject.toml, README's badges and the notebooks."""
    if not re.fullmatch(r"https://github\.com/(<owner>|[\w.-]+)/[\w.-]+(?<!\.git)", address):
        raise SystemExit(f"{address!r} is not of the form https://github.com/OWNER/NAME, as Colab's links need it")
    _replace(ROOT / "pyproject.toml", r'(?m)^(Repository = ")[^"]*', address)
    for name in NOTEBOOKS:
        _replace(ROOT / "README.md", rf"({re.escape(COLAB)})\S*/{name}\.ipynb", colab_address(name).removeprefix(COLAB))
        write(name, also=["bootstrap"])  # which shows the same wherever it would clone from


def _replace(path: Path, pattern: str, text: str) -> None:
    """Puts `text` in the place of what follows the pattern's first group."""
    before = path.read_text(encoding="utf-8")
    path.write_text(re.sub(pattern, lambda match: match.group(1) + text, before), encoding="utf-8")


# ---------------------------------------------------------------- for Colab, with the package inside


def build_wheels(folder: Path) -> list[Path]:
    """Builds the package's wheel, weights included, and fetches those of what Colab lacks.

    The exported network is left out, because Colab has PyTorch, which computes the checkpoint.
    """
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # where an earlier wheel's modules would still lie
    subprocess.run([*pip, "--wheel-dir", folder, "-c", ROOT / "constraints.txt", ROOT, *COLAB_LACKS], check=True)
    for wheel in folder.glob("colorize_utils-*.whl"):
        leave_out(wheel, ".onnx")
    return sorted(folder.glob("*.whl"))


def leave_out(wheel: Path, suffix: str) -> None:
    """Takes the files with a suffix out of a wheel, and out of its list of files."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if not name.endswith(suffix)}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            if name.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if not line.partition(",")[0].endswith(suffix)).encode()
            archive.writestr(name, content)


def packed(notebook: NotebookNode, wheels: Collection[Path]) -> NotebookNode:
    """`notebook` with the wheels inside: a folded cell before all other code installs those that are missing."""
    lines = []
    for wheel in wheels:
        content = textwrap.fill(base64.b64encode(wheel.read_bytes()).decode("ascii"), LINE)
        lines.append(f'WHEELS["{wheel.name}"] = """\n{content}\n"""\n')
    code = (SOURCE / "package_cell.py").read_text(encoding="utf-8").replace("# {{wheels}}\n", "".join(lines))
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in JupyterLab
    cells = [
        nbformat.v4.new_markdown_cell(PACKED, id="packed-text"),
        nbformat.v4.new_code_cell(code.rstrip(), id="packed", metadata=folded),
    ]
    first = next(place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells[first:first] = cells
    return notebook


def write_packed(names: Collection[str], folder: Path, wheels: Collection[Path]) -> None:
    """Writes NAME.ipynb for Colab into `folder`, and says how large each is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.ipynb"
        nbformat.write(packed(nbformat.read(notebook_path(name), as_version=4), wheels), path)
        print(f"{os.path.relpath(path)}, {path.stat().st_size / 1e6:.1f} MB")


# ---------------------------------------------------------------- the command


def write(name: str, also: Collection[str] = ()) -> None:
    """Builds a notebook over the one that is there, and says which cells have lost their outputs."""
    path = notebook_path(name)
    notebook = build(name)
    if path.is_file():
        notebook = keep_outputs(notebook, nbformat.read(path, as_version=4), also)
    nbformat.write(notebook, path)
    bare = [cell.id for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count is None]
    if bare:
        print(f"{path.name}: to be run again, because their code is new: {', '.join(bare)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "run", "clean", "address", "colab"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NOTEBOOKS)} (default: all)")
    parser.add_argument(
        "--keep-outputs", nargs="+", default=[], metavar="ID", help="cells whose code is new and whose outputs are not"
    )
    options = parser.parse_args()
    if options.what == "address":
        write_address(*(options.names or [remote_address() or repository()]))
        print(f"the repository's address is {repository()}")
        return
    names = options.names or [*NOTEBOOKS]
    unknown = sorted(set(names) - set(NOTEBOOKS))
    if unknown:
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(NOTEBOOKS)}")
    for name in names:
        path = notebook_path(name)
        if options.what in ("build", "run"):
            write(name, options.keep_outputs)
        if options.what == "run":
            for heading, seconds in run(path).items():
                print(f"{name}, {heading}: {seconds / 60:.1f} minutes")
        if options.what == "clean":
            nbformat.write(clean(nbformat.read(path, as_version=4)), path)
    if options.what == "colab":
        with tempfile.TemporaryDirectory() as folder:
            write_packed(names, ROOT / "dist" / "colab", build_wheels(Path(folder)))


if __name__ == "__main__":
    main()
