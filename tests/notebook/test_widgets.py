import base64
import io
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils import checkpoints
from colorize_utils.checkpoints import DEFAULT, REGISTRY
from colorize_utils.data import sample_photograph
from colorize_utils.inference import Colorizer
from colorize_utils.models import build_generator
from colorize_utils.notebook import game, widgets
from colorize_utils.notebook.widgets import (
    before_after,
    choose_colorizer,
    colorize_panel,
    colorize_uploads,
    download_link,
    model_choices,
    results_html,
    save_results,
    slider_html,
    uploaded_files,
    zipped,
)


@pytest.fixture(autouse=True)
def no_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("COLORIZE_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def colorizer(tiny_unet):
    return Colorizer(tiny_unet, 32, "tiny", "cpu")


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


class Page(HTMLParser):
    """The elements of a piece of HTML, in order; fails where one is not closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def decoded(url):
    return base64.b64decode(url.partition(";base64,")[2])


# ---------------------------------------------------------------- which model


def test_a_path_on_the_drive_mounts_it_first(monkeypatch, capsys):
    mounted = []
    monkeypatch.setattr(widgets, "mount", lambda: mounted.append(True))
    choose_colorizer("/content/drive/MyDrive/nowhere.pth", "cpu")
    choose_colorizer("nowhere.pth", "cpu")
    assert mounted == [True]


def test_without_a_path_the_bundled_checkpoint_is_used(capsys):
    assert choose_colorizer("", "cpu").name == DEFAULT
    assert capsys.readouterr().out == f"model: {DEFAULT}, which comes with the package\n"


def test_a_path_goes_first(tiny_checkpoint, capsys):
    assert choose_colorizer(f"  {tiny_checkpoint} ", "cpu").size == 32
    assert capsys.readouterr().out == "model: tiny.safetensors\n"


@pytest.mark.parametrize("path", ["nowhere.pth", "https://colorize.invalid/weights.pth", "original-gan-l1"])
def test_a_path_or_link_that_is_dead_is_told_and_the_next_one_taken(path, capsys):
    """No test reaches the network: Drive's link is dead here, too."""
    assert choose_colorizer(path, "cpu").name == DEFAULT
    told, used = capsys.readouterr().out.splitlines()
    assert told.startswith(f"{path} cannot be used: ")
    assert used == f"model: {DEFAULT}, which comes with the package"


def test_choices_are_the_models_of_catalogue_runs_and_path(tiny_checkpoint, tmp_path):
    assert [value for _, value in model_choices()] == [*REGISTRY]
    run = tmp_path / "runs" / "class-64" / "gan-l1" / "best.safetensors"
    run.parent.mkdir(parents=True)
    run.write_bytes(tiny_checkpoint.read_bytes())
    choices = model_choices("mine.pth")
    assert choices[0] == ("mine.pth", "mine.pth")
    assert choices[1] == ("your run class-64/gan-l1", str(run))
    assert [value for _, value in choices[2:]] == [*REGISTRY]


# ---------------------------------------------------------------- before and after


def test_compare_keeps_size_and_luminance(colorizer, gray_image):
    result = before_after(gray_image, colorizer, name="noise")
    assert result.colour.size == result.gray.size == gray_image.size
    np.testing.assert_array_equal(np.asarray(result.colour.convert("L")), np.asarray(gray_image))
    np.testing.assert_array_equal(np.asarray(result.gray), np.asarray(gray_image))
    assert np.ptp(np.asarray(before_after(gray_image, colorizer, strength=0.0).colour), axis=2).max() == 0


def test_the_slider_moves_the_border_of_the_picture_before_it(colorizer):
    page = Page(before_after(sample_photograph(), colorizer, name="a <b> & c")._repr_html_())
    gray, colour = page.all("img")
    (slider,) = page.all("input")
    assert "--border:50%" in page.all("div")[0]["style"]
    assert "inset(0 0 0 var(--border))" in colour["style"]
    assert slider["type"] == "range"
    assert slider["oninput"] == "this.previousElementSibling.style.setProperty('--border', this.value + '%')"
    assert gray["alt"] == "a <b> & c, gray"
    assert "640×427" in page.text
    assert Image.open(io.BytesIO(decoded(gray["src"]))).mode == "L"
    assert Image.open(io.BytesIO(decoded(colour["src"]))).mode == "RGB"


def test_large_pictures_are_shown_small_and_kept_large(colorizer):
    result = before_after(Image.new("L", (3000, 1500), 90), colorizer)
    page = result._repr_html_()
    assert len(page) < 300_000
    assert Image.open(io.BytesIO(decoded(Page(page).all("img")[1]["src"]))).size == (720, 360)
    assert result.colour.size == (3000, 1500)


def test_transparency_is_shown():
    gray, colour = Image.new("L", (40, 40), 90), Image.new("RGBA", (40, 40), (200, 10, 10, 0))
    shown = Image.open(io.BytesIO(decoded(Page(slider_html(gray, colour)).all("img")[1]["src"])))
    assert shown.mode == "RGBA"


# ---------------------------------------------------------------- uploads


@pytest.mark.parametrize("version", [7, 8])
def test_uploads_are_read_in_both_versions_of_ipywidgets(version):
    if version == 7:
        value = {"a.png": {"metadata": {"name": "a.png"}, "content": b"one"}, "b.png": {"content": b"two"}}
    else:
        value = ({"name": "a.png", "content": memoryview(b"one")}, {"name": "b.png", "content": memoryview(b"two")})
    assert uploaded_files(SimpleNamespace(value=value)) == {"a.png": b"one", "b.png": b"two"}
    assert uploaded_files(SimpleNamespace(value=type(value)())) == {}


def test_uploads_come_back_as_files_of_their_kind(colorizer, gray_image):
    exif = Image.Exif()
    exif[0x010E] = "my grandmother's garden"
    uploads = {
        "garden.jpg": png(gray_image, format="JPEG", exif=exif),
        "../odd/na me.PNG": png(gray_image),
        "scan.gif": png(gray_image, format="GIF"),
    }
    results, failures = colorize_uploads(uploads, colorizer)
    assert failures == []
    assert [result.filename for result in results] == [
        "garden-colorized.jpg",
        "na me-colorized.PNG",
        "scan-colorized.png",
    ]
    returned = [Image.open(io.BytesIO(result.content)) for result in results]
    assert [image.format for image in returned] == ["JPEG", "PNG", "PNG"]
    assert returned[0].getexif()[0x010E] == "my grandmother's garden"
    np.testing.assert_array_equal(np.asarray(returned[1].convert("L")), np.asarray(gray_image))


def test_one_bad_upload_does_not_stop_the_others(colorizer, gray_image):
    uploads = {"notes.txt": b"hello", "empty.png": b"", "good.png": png(gray_image), "cut.png": png(gray_image)[:80]}
    results, failures = colorize_uploads(uploads, colorizer)
    assert [result.shown.name for result in results] == ["good.png"]
    assert [line.split(" ")[0] for line in failures] == ["notes.txt", "empty.png", "cut.png"]
    assert not any("/" in line for line in failures)  # no temporary path


def test_results_of_one_name_are_all_kept(colorizer, gray_image, tmp_path):
    (first,), _ = colorize_uploads({"a.png": png(gray_image)}, colorizer)
    (second,), _ = colorize_uploads({"x/a.png": png(gray_image.rotate(90, expand=True))}, colorizer)
    with zipfile.ZipFile(io.BytesIO(zipped([first, second]))) as archive:
        assert archive.namelist() == ["a-colorized.png", "a-colorized-2.png"]
        assert archive.read("a-colorized-2.png") == second.content
    paths = save_results([first, second], tmp_path / "new")
    paths += save_results([first], tmp_path / "new")
    assert [path.name for path in paths] == ["a-colorized.png", "a-colorized-2.png", "a-colorized-3.png"]
    assert [path.read_bytes() for path in paths] == [first.content, second.content, first.content]


# ---------------------------------------------------------------- the page


def test_a_download_link_holds_the_file_itself():
    (link,) = Page(download_link(b"\x00\xffpicture", 'a "b".png', "Download <it>")).all("a")
    assert link["download"] == 'a "b".png'
    assert decoded(link["href"]) == b"\x00\xffpicture"


def test_a_page_has_a_comparison_and_a_download_for_each_and_one_for_all(colorizer, gray_image):
    results, _ = colorize_uploads({f"{name}.png": png(gray_image) for name in "ab"}, colorizer)
    page = Page(results_html(results, ["c.png is <damaged>"]))
    assert [link["download"] for link in page.all("a")] == ["colorized.zip", "a-colorized.png", "b-colorized.png"]
    assert len(page.all("input")) == 2
    assert "c.png is <damaged>" in page.text
    single = Page(results_html(results[:1], []))
    assert [link["download"] for link in single.all("a")] == ["a-colorized.png"]


def test_what_is_too_much_for_a_browser_is_left_to_the_save_button(colorizer, gray_image, monkeypatch):
    results, _ = colorize_uploads({f"{name}.png": png(gray_image) for name in "abc"}, colorizer)
    monkeypatch.setattr(widgets, "LINKED_BYTES", sum(len(result.content) for result in results) + 1)
    assert Page(results_html(results[:1], [])).all("a")  # one alone is no ZIP file besides
    monkeypatch.setattr(widgets, "SHOWN_AT_ONCE", 2)
    page = Page(results_html(results, []))
    assert page.all("a") == []
    assert "press the Save button" in page.text
    assert len(page.all("input")) == 2
    assert "and 1 more" in page.text


# ---------------------------------------------------------------- the panel


def parts(panel):
    controls, status, page, _ = panel.children
    return (*controls.children, status, page)


def upload(widget, **files):
    """As the browser's side of a FileUpload does, in the version that is installed."""
    if int(ipywidgets.__version__.split(".")[0]) >= 8:
        kinds = {"type": "image/png", "size": 1, "last_modified": 0}
        state = [{"name": name, "content": memoryview(content), **kinds} for name, content in files.items()]
        widget.set_state({"value": state})
    else:
        widget.set_state(
            {
                "metadata": [{"name": name, "type": "", "size": 1, "lastModified": 0} for name in files],
                "data": [memoryview(content) for content in files.values()],
                "_counter": len(files),
            }
        )


def test_the_panel_colorizes_what_is_uploaded(colorizer, gray_image, tmp_path):
    panel = colorize_panel(colorizer, folder=tmp_path / "saved")
    files, _, style, chroma, save, status, page = parts(panel)
    assert style.options == ("safe",)
    assert save.disabled
    upload(files, **{"a.png": png(gray_image), "b.txt": b"no"})
    assert status.value == "1 of 2 colorized."
    assert "b.txt is not a picture" in page.value
    link = Page(page.value).all("a")[0]
    colour = Image.open(io.BytesIO(decoded(link["href"])))
    np.testing.assert_array_equal(np.asarray(colour.convert("L")), np.asarray(gray_image))
    assert np.ptp(np.asarray(colour), axis=2).max() > 0

    chroma.value = 0.0
    colour = Image.open(io.BytesIO(decoded(Page(page.value).all("a")[0]["href"])))
    assert np.ptp(np.asarray(colour), axis=2).max() == 0

    assert not save.disabled
    save.click()
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["a-colorized.png"]
    assert status.value == f"1 saved in {tmp_path / 'saved'}."


def test_the_panel_changes_the_model(colorizer, gray_image):
    files, model, _, _, _, _, page = parts(colorize_panel(colorizer))
    assert model.value == "tiny"
    upload(files, **{"a.png": png(gray_image)})
    before = page.value
    model.value = DEFAULT
    assert page.value != before
    model.value = "tiny"
    assert page.value == before


def test_the_panel_offers_the_styles_that_the_model_has(colorizer, gray_image, tmp_path):
    torch.manual_seed(0)
    network = build_generator("distribution-unet", 1 / 16)
    path = checkpoints.save(tmp_path / "beyond.safetensors", network, {"size": 32})
    files, model, style, _, _, _, page = parts(colorize_panel(Colorizer.from_checkpoint(path, "cpu")))
    assert style.options == ("safe", "vivid")
    upload(files, **{"a.png": png(gray_image)})
    shown = {style.value: page.value}
    assert style.value == "safe"
    style.value = "vivid"
    shown["vivid"] = page.value
    assert shown["safe"] != shown["vivid"]

    model.options = [*model.options, ("tiny", "tiny")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Colorizer, "from_checkpoint", lambda *_, **__: colorizer)
        model.value = "tiny"
    assert style.options == ("safe",)
    assert page.value not in shown.values()
    model.value = "beyond.safetensors"
    assert (style.options, style.value) == (("safe", "vivid"), "safe")
    assert page.value == shown["safe"]


def test_the_panel_tells_what_goes_wrong(colorizer, gray_image, monkeypatch, tmp_path):
    files, model, _, _, save, status, page = parts(colorize_panel(colorizer, folder=tmp_path / "file" / "below"))
    upload(files, **{"a.png": png(gray_image)})
    (tmp_path / "file").write_text("in the way")
    save.click()
    assert status.value.startswith("Cannot save in ")
    model.value = "original-gan-l1"  # which cannot be fetched here
    assert "original-gan-l1 cannot be had" in page.value
    assert save.disabled

    model.value = "tiny"
    monkeypatch.setattr(widgets, "colorize_uploads", lambda *_: 1 / 0)
    model.value = DEFAULT
    assert "ZeroDivisionError" in page.value


def test_the_panel_begins_where_it_is_told(colorizer):
    _, _, _, chroma, *_ = parts(colorize_panel(colorizer, strength=1.5))
    assert chroma.value == 1.5
    _, _, _, chroma, *_ = parts(colorize_panel(colorizer, strength=9))
    assert chroma.value == 2.0


def test_only_what_both_versions_of_ipywidgets_have_is_used():
    source = Path(widgets.__file__).read_text() + Path(game.__file__).read_text()
    assert not re.search(r"tooltip|TagsInput|Stack\(|text_color|border=", source)
