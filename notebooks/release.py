"""What stands between an edited notebook and a committed one.

    python notebooks/release.py run [NAME …]   runs notebooks and keeps their outputs (needs nbclient)
    python notebooks/release.py clean          takes out what does not belong into the repository
    python notebooks/release.py address        writes the address of pyproject.toml into notebooks and README

`run` takes pictures and runs from where COLORIZE_DATA and COLORIZE_RUNS say; a run that is finished there is shown, not
repeated. The three notebooks share their cells: whoever changes one that has neither of the tags `loss` and `adversary`
changes it in all three (a test compares them).
"""

import argparse
import re
import tomllib
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NOTEBOOKS = ("GAN-MSE", "WGAN", "GAN-L1")  # the selected model last, so that its scoreboard has all three
WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT_METADATA = ("accelerator", "colab", "kernelspec", "language_info")


def notebook_paths(names: list[str] | None = None) -> list[Path]:
    return [HERE / f"{name}.ipynb" for name in names or NOTEBOOKS]


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without widgets and their state, warnings, progress bars, times, and what an editor noted for itself."""
    notebook.metadata = {key: notebook.metadata[key] for key in KEPT_METADATA if key in notebook.metadata}
    notebook.metadata["language_info"] = {"name": "python"}
    if "colab" in notebook.metadata:
        notebook.metadata["colab"] = {"toc_visible": True}  # not where on somebody's Drive it lay
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
    return notebook


def _is_passing(output: nbformat.NotebookNode) -> bool:
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def run(path: Path) -> None:
    """Runs a notebook in its folder and writes it back, cleaned. Raises CellExecutionError where a cell fails."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=None, store_widget_state=False, resources={"metadata": {"path": HERE}})
    client.execute()
    nbformat.write(clean(notebook), path)


def repository() -> str:
    """The repository's address, from the one place where it stands."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"].rstrip("/")


def write_address(address: str, files: list[Path]) -> None:
    """Puts `address` (https://github.com/OWNER/NAME) where the bootstrap cells and the Colab badges have another."""
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+(?<!\.git)", address):
        raise SystemExit(f"{address!r} is not of the form https://github.com/OWNER/NAME, as Colab's links need it")
    slug = address.removeprefix("https://github.com/")
    for path in files:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r'(REPO_URL = \\?")[^"\\]*', lambda match: match.group(1) + address, text)
        text = re.sub(r"(colab\.research\.google\.com/github/)[^/\s]+/[^/\s]+", lambda m: m.group(1) + slug, text)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "clean", "address"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NOTEBOOKS)} (default: all)")
    options = parser.parse_args()
    for path in notebook_paths(options.names):
        if options.what == "run":
            run(path)
        elif options.what == "clean":
            nbformat.write(clean(nbformat.read(path, as_version=4)), path)
    if options.what == "address":
        write_address(repository(), [*notebook_paths(), ROOT / "README.md"])


if __name__ == "__main__":
    main()
