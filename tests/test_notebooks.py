"""The committed notebooks as files: what a reader, a reviewer and nbval count on. nbval itself runs them (Makefile)."""

import base64
import copy
import importlib.util
import io
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.data import load_splits
from colorize_utils.notebook import lesson
from colorize_utils.notebook.profiles import PROFILES
from colorize_utils.recipes import RECIPES

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks" / "source"))
import build  # noqa: E402 (a script beside the source, no package)

CHECK = "nbval-check-output"
SECTIONS = [  # the submission's, in its order
    "1. Set-up",
    "2. Data provider",
    "3. Preprocessing",
    "4. Split",
    "5. Generator",
    "6. Discriminator",
    "7. Optimizer",
    "8. Training",
    "9. Validation and testing",
    "10. Graphs",
    "11. Test results",
    "12. Final selection",
    "13. Exercises",
    "14. Running instructions",
]
NOTEBOOKS = {name: nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4) for name in build.NOTEBOOKS}
GANS = ("GAN-L1", "GAN-MSE", "WGAN")  # the submission's three, which have the same sections
each = pytest.mark.parametrize("name", NOTEBOOKS)
each_gan = pytest.mark.parametrize("name", GANS)


def cells(name, kind="code"):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == kind]


def tags(cell):
    return cell.metadata.get("tags", [])


def text_of(output):
    if output.output_type == "stream":
        return output.text
    return "".join(text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


# ---------------------------------------------------------------- fit to be committed


@each
def test_a_notebook_is_valid_and_small(name):
    nbformat.validate(NOTEBOOKS[name])
    assert (ROOT / "notebooks" / f"{name}.ipynb").stat().st_size < 2_000_000


@each
def test_it_was_run_from_top_to_bottom(name):
    assert [cell.execution_count for cell in cells(name)] == list(range(1, len(cells(name)) + 1))


@each
def test_it_is_clean(name):
    """No widgets, warnings, progress bars or editor's notes: what `build.py clean` takes out is not there."""
    assert build.clean(copy.deepcopy(NOTEBOOKS[name])) == NOTEBOOKS[name]
    assert "widgets" not in NOTEBOOKS[name].metadata
    assert not [output for cell in cells(name) for output in cell.outputs if output.output_type == "error"]


@each
def test_it_names_no_machine(name):
    shown = [cell.source for cell in NOTEBOOKS[name].cells]
    shown += [text_of(output) for cell in cells(name) for output in cell.outputs]
    pattern = r"(?<![\w:/])[./]*/(home|root|tmp|work|mnt|Users|usr|var|opt|private)/\S*|[A-Z]:\\\w+|\bat 0x[0-9A-Fa-f]+"
    assert [found.group() for text in shown for found in re.finditer(pattern, text)] == []


@each
def test_what_nbval_compares_can_be_compared(name):
    """nbval passes a marked cell without a count in silence, and one without outputs compares nothing."""
    marked = [cell for cell in cells(name) if CHECK in tags(cell)]
    assert len(marked) >= (5 if name == "Lesson" else 6)
    for cell in marked:
        assert cell.execution_count, cell.source
        assert cell.outputs, cell.source
        assert all(text_of(output).strip() for output in cell.outputs), cell.source
    assert not [cell for cell in cells(name) if re.search(r"^#\s*(NBVAL|nbval)", cell.source, re.MULTILINE)]


@each_gan
def test_training_and_results_are_shown(name):
    """Outputs of a real run: the live figure, the curves, the test grids and the colorized photograph are there."""
    pictures = {cell.id: [kind for o in cell.outputs for kind in o.get("data", {})] for cell in cells(name)}
    for id in ("data-load", "training-run-cell", "graphs-figure", "results-grid", "results-kept-grid"):
        assert "image/png" in pictures[id], id
    assert "text/html" in pictures["colorize"]
    shown = {cell.id: "".join(text_of(output) for output in cell.outputs) for cell in cells(name)}
    assert "profile class" in shown["settings"]
    assert "train  1020 pictures" in shown["split-sizes"]
    for run in ("gan-l1", "gan-mse", "wgan", "flowers-192"):
        assert f"| {run}" in shown["selection-scores"]


# ---------------------------------------------------------------- fit to be read


@each_gan
def test_sections_are_the_submissions_in_its_order(name):
    titles = [line[3:] for cell in cells(name, "markdown") for line in cell.source.splitlines() if line[:3] == "## "]
    assert titles == SECTIONS
    assert cells(name, "markdown")[0].source.startswith(f"# {name}: ")


@each
def test_cells_are_short_and_explained(name):
    previous = None
    silent = 0
    for cell in NOTEBOOKS[name].cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 15, cell.id
            silent = silent + 1 if previous == "code" else 1
            assert silent <= 2, f"{cell.id}: three cells of code without a word"
        previous = cell.cell_type


@each
def test_no_sentence_turns_into_a_list(name):
    """Markdown takes a line of prose that begins with a number and a full stop for an item."""
    for cell in cells(name, "markdown"):
        lines = ["", *cell.source.splitlines()]
        for before, line in pairwise(lines):
            if re.match(r"(\d+[.)]|[-*+]) ", line):
                assert not before or re.match(r"\d+\. |- |   ?\S", before), f"{cell.id}: {line}"


@each
def test_what_breaks_a_hosted_runtime_is_not_done(name):
    code = "\n".join(cell.source for cell in cells(name))
    for pattern in (
        "autoreload",
        "install -e",
        r"install .*(-U|--upgrade)\b",
        "%cd",
        r"except:",
        r"import \*",
        "input\\(",
    ):
        assert not re.search(pattern, code), pattern


@each_gan
def test_flaws_are_named_with_their_switch(name):
    prose = "\n".join(cell.source for cell in cells(name, "markdown"))
    switches = ["crop=True", "bounded=True", "per_picture=True", "keep_luminance=True"]
    if name != "WGAN":
        switches.append("discriminator_sigmoid=False")
    for switch in switches:
        assert f"`{switch}`" in prose or f", {switch})`" in prose, switch
    assert prose.count("flaw of the original.**") + prose.count("flaws of the original, measured.**") >= 4


@each_gan
def test_colab_shows_its_settings_as_a_form(name):
    fields = dict(re.findall(r"^(\w+) = .*?  # @param (.+)$", "\n".join(c.source for c in cells(name)), re.MULTILINE))
    settings = ["REPO_URL", "PROFILE", "DATA", "USE_DRIVE", "PAGE", "SHARE", "model_path", "strength"]
    assert list(fields) == settings
    assert fields["PROFILE"] == str([*PROFILES]).replace("'", '"')


def test_a_diff_shows_only_the_idea():
    """Cells without a tag are the same in all three; those tagged `adversary` are the same in both GANs."""
    l1, mse, wgan = (NOTEBOOKS[name].cells for name in ("GAN-L1", "GAN-MSE", "WGAN"))
    assert len(l1) == len(mse) == len(wgan)
    for a, b, c in zip(l1, mse, wgan, strict=True):
        assert (a.id, a.cell_type, tags(a)) == (b.id, b.cell_type, tags(b)) == (c.id, c.cell_type, tags(c))
        if "loss" not in tags(a):
            assert a.source == b.source, a.id
            if "adversary" not in tags(a):
                assert a.source == c.source, a.id
    share = {tag: sum(tag in tags(cell) for cell in l1) / len(l1) for tag in ("loss", "adversary")}
    assert share["loss"] < 0.2
    assert share["adversary"] < 0.3


@each_gan
def test_pictures_that_are_left_out_are_named(name, tmp_path, capsys):
    for number in range(10):
        Image.new("RGB", (8, 8), (25 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "torn.png").write_bytes(b"no picture")
    (sizes,) = [cell.source for cell in cells(name) if cell.id == "split-sizes"]
    splits = load_splits(tmp_path, 32, cache=None, progress=False)
    exec(sizes, {"splits": splits, "recipe": RECIPES[name.lower()]})
    assert "torn.png" in capsys.readouterr().out


# ---------------------------------------------------------------- one source


def without_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


@each
def test_a_notebook_is_what_is_built_from_its_source(name):
    """Whoever edits a notebook edits notebooks/source/ instead, and builds."""
    assert without_outputs(copy.deepcopy(NOTEBOOKS[name])) == build.build(name)


def test_what_is_equal_stands_in_the_source_once():
    text = (ROOT / "notebooks" / "source" / "gan_notebooks.md").read_text()
    for cell in NOTEBOOKS["WGAN"].cells:
        if not {"loss", "adversary"} & {*tags(cell)}:
            assert text.count(f'id="{cell.id}"') == 1


@pytest.fixture
def house(tmp_path):
    """A copy of what the notebooks are built from and of what is built, without a repository around it."""
    source = shutil.copytree(ROOT / "notebooks" / "source", tmp_path / "notebooks" / "source")
    shutil.rmtree(source / "__pycache__", ignore_errors=True)
    for name in ("pyproject.toml", "README.md", *(f"notebooks/{name}.ipynb" for name in NOTEBOOKS)):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def command(house, monkeypatch, capsys):
    """Runs the copy's own build.py with these words; returns its exit status and what it printed."""
    spec = importlib.util.spec_from_file_location("build_of_the_copy", house / "notebooks" / "source" / "build.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(module)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["build.py", *words])
        try:
            module.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def contents(house):
    return {path: path.read_text() for path in house.rglob("*") if path.is_file() and ".git" not in path.parts}


def test_building_again_changes_nothing(house, command):
    before = contents(house)
    status, printed = command("build")
    assert (status, [line for line in printed.splitlines() if not line.startswith("Lesson")]) == (0, [])
    assert contents(house) == before


def test_an_edit_of_a_shared_cell_is_one_edit_and_other_cells_keep_their_outputs(house, command):
    source = house / "notebooks" / "source" / "gan_notebooks.md"
    edited = source.read_text().replace("sample(4, seed=1)", "sample(4, seed=2)")
    edited = edited.replace("Pictures are decoded and resized once", "Each picture is decoded once")
    source.write_text(edited)
    status, printed = command("build")
    assert status == 0
    bare = [(line.split(".ipynb")[0], line.split()[-1]) for line in printed.splitlines()]
    assert sorted(one for one in bare if one[0] != "Lesson") == [(name, "data-load") for name in GANS]
    for name in GANS:
        new = nbformat.read(house / "notebooks" / f"{name}.ipynb", as_version=4)
        for before, after in zip(NOTEBOOKS[name].cells, new.cells, strict=True):
            if before.id == "data-load":
                assert "seed=2" in after.source
                assert (after.outputs, after.execution_count) == ([], None)
            elif before.id == "data":
                assert "Each picture is decoded once" in after.source
            else:
                assert before == after


def test_outputs_can_be_kept_where_an_edit_does_not_show(house, command):
    source = house / "notebooks" / "source" / "gan_notebooks.md"
    source.write_text(source.read_text().replace("sample(4, seed=1)", "sample(4, seed=1 + 0)"))
    assert command("build", "WGAN", "--keep-outputs", "data-load") == (0, "")
    new = nbformat.read(house / "notebooks" / "WGAN.ipynb", as_version=4)
    changed = [pair for pair in zip(NOTEBOOKS["WGAN"].cells, new.cells, strict=True) if pair[0] != pair[1]]
    ((before, after),) = changed
    assert "1 + 0" in after.source
    assert before.outputs == after.outputs


def test_a_notebook_that_is_not_there_is_named(command):
    status, printed = command("build", "GAN-L2")
    assert status == 2
    assert "GAN-L2" in printed.splitlines()[-1]


# ---------------------------------------------------------------- one address


def test_the_repositorys_address_is_the_same_everywhere():
    address = build.repository()
    for name in NOTEBOOKS:
        source = "\n".join(cell.source for cell in NOTEBOOKS[name].cells)
        assert re.findall(r'^REPO_URL = "([^"]*)"  # @param', source, re.MULTILINE) == [address]
        assert re.findall(r"https://colab\.research\.google\.com/github/[^)\s]+", source) == [build.colab_address(name)]
    readme = (ROOT / "README.md").read_text()
    badges = re.findall(r"https://colab\.research\.google\.com/github/[^)\s]+", readme)
    assert sorted(badges) == sorted(build.colab_address(name) for name in NOTEBOOKS)
    owner, name = badges[0].removeprefix(build.COLAB).split("/")[:2]
    assert owner == address.split("/")[-2].replace("<owner>", "%3Cowner%3E")
    assert name == address.split("/")[-1]


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/some-one/else.where.git",
        "https://someone:secret@github.com/some-one/else.where",
        "git@github.com:some-one/else.where.git",
        "ssh://git@github.com/some-one/else.where.git",
    ],
)
def test_the_remotes_address_is_written_everywhere_and_changes_nothing_else(house, command, remote):
    before = contents(house)
    for words in (
        ["init", "--quiet"],
        ["remote", "add", "a", "https://github.com/x/y"],
        ["remote", "add", "origin", remote],
    ):
        subprocess.run(["git", *words], cwd=house, check=True)
    status, printed = command("address")
    assert status == 0
    assert "https://github.com/some-one/else.where" in printed
    address, slug = build.repository(), build.colab_address("").removeprefix(build.COLAB).split("/blob")[0]
    for path, text in contents(house).items():
        written = before[path].replace(address, "https://github.com/some-one/else.where")
        written = written.replace(f"{build.COLAB}{slug}/", f"{build.COLAB}some-one/else.where/")
        assert text == written, path
        assert (text != before[path]) == (path.suffix == ".ipynb" or path.parent == house), path
        assert "secret" not in text


@pytest.mark.parametrize("remote", [None, "https://example.org/some-one/else.git", "../elsewhere"])
def test_without_a_remote_at_github_the_address_stays(house, command, remote):
    before = contents(house)
    if remote:
        for words in (["init", "--quiet"], ["remote", "add", "origin", remote]):
            subprocess.run(["git", *words], cwd=house, check=True)
    status, printed = command("address")
    assert status == 0
    assert build.repository() in printed
    assert contents(house) == before


def test_an_address_can_be_given(house, command):
    assert command("address", "https://github.com/a/b")[0] == 0
    assert 'Repository = "https://github.com/a/b"' in (house / "pyproject.toml").read_text()


@pytest.mark.parametrize("address", ["https://example.org/a/b", "https://github.com/a/b.git", "git@github.com:a/b", ""])
def test_an_address_that_colab_cannot_open_is_refused(address, house, command):
    before = contents(house)
    status, _ = command("address", address)
    assert "is not of the form https://github" in status
    assert contents(house) == before


# ---------------------------------------------------------------- real runs


def test_a_release_runs_a_notebook_where_it_lies_and_keeps_its_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HERE", tmp_path)
    sources = [
        "import sys, os, time\nprint(os.listdir())\ntime.sleep(0.2)",
        "print('kept')\nprint('gone', file=sys.stderr)",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells.insert(1, nbformat.v4.new_markdown_cell("## 2. The race\n\nNow it begins."))
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    seconds = build.run(path)
    first, _, second = nbformat.read(path, as_version=4).cells
    assert [*seconds] == ["", "2. The race"] and seconds[""] > 0.2 > seconds["2. The race"] > 0
    assert "execution" not in first.metadata
    assert first.outputs[0].text == "['a.ipynb']\n"
    assert [output.text for output in second.outputs] == ["kept\n"]
    assert (first.execution_count, second.execution_count) == (1, 2)


def test_cleaning_takes_out_what_does_not_belong():
    output = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell("train()", metadata={"tags": ["loss"], "execution": {"started": "now"}})
    cell.outputs = [
        output("stream", name="stderr", text="a warning"),
        output("stream", name="stdout", text="kept"),
        output("display_data", data={build.WIDGET: {"model_id": "1"}, "text/plain": "VBox()"}),
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"widgets": {"state": {}}, "vscode": {}, "colab": {"provenance": [{"file_id": "1a"}]}}
    )
    cleaned = build.clean(notebook)
    assert [output.get("text") for output in cleaned.cells[0].outputs] == ["kept"]
    assert cleaned.cells[0].metadata == {"tags": ["loss"]}
    assert cleaned.metadata == {"language_info": {"name": "python"}, "colab": {"toc_visible": True}}


@pytest.mark.parametrize(("side", "kind"), [(100, "image/png"), (400, "image/jpeg")])
def test_cleaning_makes_a_jpeg_of_a_large_figure(side, kind):
    levels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)  # which no format can pack
    buffer = io.BytesIO()
    Image.fromarray(levels).resize((2 * side, side)).save(buffer, "PNG")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "<Figure>"}
    cell = nbformat.v4.new_code_cell("plot()", outputs=[nbformat.v4.new_output("display_data", data=data)])
    (output,) = build.clean(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert set(output.data) == {kind, "text/plain"}
    assert Image.open(io.BytesIO(base64.b64decode(output.data[kind]))).size == (2 * side, side)


# ---------------------------------------------------------------- exercises


def answered(name, number, answer, capsys):
    """What an exercise prints where `answer` stands in the place of None."""
    sources = [cell.source for cell in cells(name)]
    (imports,) = (source for source in sources if source.startswith("%matplotlib"))
    (exercise,) = (source for source in sources if f'print("Exercise {number}:' in source)
    assert exercise.count("None\n") + exercise.count("None:") == 2
    namespace = {}
    exec(imports.removeprefix("%matplotlib inline"), namespace)
    namespace["drawn"] = namespace["data"].load_splits("generated", 64, count=50, cache=None)
    namespace["recipe"] = namespace["RECIPES"][name.lower()]
    torch.manual_seed(0)
    exec(exercise.replace("None", answer, 1), namespace)
    return capsys.readouterr().out.strip()


ANSWERS = {
    ("GAN-L1", 1): ("0.3", ["0.46", "0.9", "0"]),
    ("GAN-MSE", 1): ("0.46", ["0.3", "0.9"]),
    ("WGAN", 1): ("0.25", ["2.5", "0.5", "1.5"]),
}
for NAME in GANS:
    switch = "bounded=True" if NAME == "WGAN" else "discriminator_sigmoid=False"
    ANSWERS[NAME, 2] = (
        "(colour * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)",
        ["colour.mean(dim=1, keepdim=True)", "colour", "colour[:, :1]"],
    )
    ANSWERS[NAME, 3] = (
        f"replace(recipe, {switch})",
        ["recipe", f"replace(recipe, {switch}, lambda_adv=0.5)"],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), ANSWERS)
def test_a_right_answer_is_told_from_wrong_ones(name, number, capsys):
    right, wrong = ANSWERS[name, number]
    assert answered(name, number, "None", capsys) == f"Exercise {number}: not answered yet"
    assert answered(name, number, right, capsys) == f"Exercise {number}: right"
    for answer in wrong:
        assert answered(name, number, answer, capsys).startswith(f"Exercise {number}: not yet"), answer


# ---------------------------------------------------------------- the lesson


def test_the_lesson_has_its_six_parts_in_order():
    titles = [
        line[3:] for cell in cells("Lesson", "markdown") for line in cell.source.splitlines() if line[:3] == "## "
    ]
    assert titles == [
        "Set-up",
        "1. What colour was it?",
        "2. The race",
        "3. The critic's leash",
        "4. Spot the fake",
        "5. Make it red",
        "6. Three questions",
    ]


def test_the_lesson_takes_the_first_cell_of_its_sisters():
    first, *_ = cells("Lesson")
    assert first.source == cells("GAN-L1")[0].source
    assert "{{" not in "".join(cell.source for cell in NOTEBOOKS["Lesson"].cells)


def test_colab_shows_the_lessons_settings_as_a_form():
    fields = re.findall(r"^(\w+) = .*?  # @param", "\n".join(c.source for c in cells("Lesson")), re.MULTILINE)
    assert fields == ["REPO_URL", "PROFILE", "DATA", "MODEL", "FLOWER", "SQUARE", "PLAYER", "PICTURE"]


@pytest.mark.parametrize(
    ("number", "answers", "right"),
    [
        (1, {"l1_answers": "0.85", "mse_answers": "0.61"}, "L1: right\nMSE: right"),
        (2, {"penalty": "40"}, "penalty: right"),
        (3, {"one_answer": "50", "two_answers": "80"}, "one answer: right\ntwo answers: right"),
    ],
)
def test_the_lessons_questions_know_their_solutions(number, answers, right, capsys):
    (cell,) = (cell for cell in cells("Lesson") if cell.id == f"question-{number}")
    exec(cell.source, {"lesson": lesson})
    assert set(capsys.readouterr().out.strip().splitlines()) == {
        f"{line.split(':')[0]}: not answered yet" for line in right.splitlines()
    }
    source = cell.source
    for name, answer in answers.items():
        source = source.replace(f"{name} = None", f"{name} = {answer}")
    exec(source, {"lesson": lesson})
    assert capsys.readouterr().out.strip() == right
    notes = (ROOT / "docs" / "lesson.md").read_text(encoding="utf-8")
    assert all(answer in notes for answer in answers.values() if answer != "0.85")


def test_the_lessons_first_question_has_the_numbers_that_are_checked():
    (text,) = (cell.source for cell in cells("Lesson", "markdown") if cell.id == "questions")
    assert ", ".join(f"{red:.1f}" for red in lesson.REDS) in text
    (text,) = (cell.source for cell in cells("Lesson", "markdown") if cell.id == "question-3-text")
    assert all(f"{share} {name}" in text or f"{share} are {name}" in text for name, share in lesson.BELIEF.items())
