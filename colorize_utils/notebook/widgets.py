"""Upload and colorize, compare before and after: what the last cell of a notebook shows.

Each widget is built on plain functions that a test or a terminal can call: `before_after` makes what is shown,
`colorize_uploads` the files to download. Only what ipywidgets 7.7 (Colab) and 8 have in common is used, and ipywidgets
is imported only where a widget is made.
"""

import base64
import html
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from colorize_utils.app.picture import How
from colorize_utils.checkpoints import DEFAULT, REGISTRY
from colorize_utils.data.pictures import PictureLike, open_upright, to_gray
from colorize_utils.errors import ColorizeError
from colorize_utils.files import atomic_write
from colorize_utils.generator_registry import UNFAMILIAR
from colorize_utils.inference import Colorizer
from colorize_utils.inference.batch import colorize_files
from colorize_utils.notebook.colours import ColoursPanel
from colorize_utils.notebook.live import mount, runs_folder
from colorize_utils.runs import DRIVE

if TYPE_CHECKING:
    import ipywidgets

PREVIEW_SIDE = 720  # longest side, in pixels, of the pictures that are shown; downloads have the full size
SHOWN_AT_ONCE = 12  # comparisons on a page
LINKED_BYTES = 20_000_000  # all downloads on a page together, so that a data URL stays below browsers' limit (32 MB)
SAVED = Path("colorized")
# Jupyter takes messages of up to 10 MiB from a browser (make lab raises that), and drops larger ones without a word.
INVITATION = "Upload one or more gray pictures, together up to 10 MB."
RUN_CHECKPOINTS = "**/best.safetensors"
STRENGTHS = (0.0, 2.0)
BUTTON = "padding:4px 12px;border:1px solid #888;border-radius:4px;text-decoration:none;display:inline-block"


# ---------------------------------------------------------------- which model


def choose_colorizer(model_path: str = "", device: str | None = None) -> Colorizer:
    """Makes a colorizer of the model that was asked for, or of the first of the registry that can be loaded.

    Prints which model it is, and why those before it could not be loaded.

    Args:
        model_path: A file, a link, hf://OWNER/NAME or a name of the registry; "" for the registry's first.
        device: Where it computes; by default the fastest device there is.

    Returns:
        The colorizer.

    Raises:
        ColorizeError: No checkpoint can be loaded.
    """
    chosen = model_path.strip()
    if chosen.startswith(str(DRIVE)):
        try:
            mount()
        except ColorizeError as error:
            print(error)
    candidates = [chosen, *REGISTRY] if chosen else [*REGISTRY]
    for candidate in dict.fromkeys([*candidates, DEFAULT]):
        try:
            colorizer = Colorizer.from_checkpoint(candidate, device)
        except ColorizeError as error:
            print(f"{candidate} cannot be used: {error}")
            continue
        print(f"model: {colorizer.name}" + (", which comes with the package" if candidate == DEFAULT else ""))
        return colorizer
    raise ColorizeError("no checkpoint can be had, not even the bundled one: install colorize_utils again")


def model_choices(first: str = DEFAULT) -> list[tuple[str, str]]:
    """Lists the checkpoints to choose from: the runs on this machine and the registry.

    Args:
        first: A name or path that comes first where it is not in the registry.

    Returns:
        Pairs of a label and the checkpoint's name or path.
    """
    choices = [] if first in REGISTRY else [(first, first)]
    runs = runs_folder()
    for path in sorted(runs.glob(RUN_CHECKPOINTS)):
        choices.append((f"your run {path.parent.relative_to(runs).as_posix()}", str(path)))
    for entry in REGISTRY.values():
        how = "comes with the package" if entry.name == DEFAULT else "downloaded when first chosen"
        choices.append((f"{entry.name} ({how})", entry.name))
    return choices


# ---------------------------------------------------------------- before and after


@dataclass(frozen=True, repr=False)
class BeforeAfter:
    """A picture in gray and in colour. Notebooks show it with a slider; `colour.save(…)` keeps the result.

    Attributes:
        name: The picture's name, for its caption.
        gray: The gray picture, mode "L", in full size.
        colour: The colour picture, mode "RGB" or "RGBA", of the same size.
        warning: A line for a picture that is none of the kind that the network knows; else empty.
    """

    name: str
    gray: Image.Image
    colour: Image.Image
    warning: str = ""

    def __repr__(self) -> str:
        """The picture's name and size, where there is no HTML, and the warning."""
        text = f"{self.name}, {self.colour.width}×{self.colour.height}, gray and in colour"
        return f"{text}; {self.warning}" if self.warning else text

    def _repr_html_(self) -> str:
        warning = f'<p style="color:#b00020">{html.escape(self.warning)}</p>' if self.warning else ""
        return warning + slider_html(self.gray, self.colour, self.name)


def before_after(
    picture: PictureLike,
    colorizer: Colorizer,
    strength: float = 1.0,
    name: str = "the picture",
    style: str | None = None,
) -> BeforeAfter:
    """Colorizes a picture for a comparison of before and after.

    Args:
        picture: Whatever `Colorizer.colorize` takes.
        colorizer: What colorizes it.
        strength: Multiplies the chroma; 0 leaves gray.
        name: The picture's name, for its caption.
        style: "safe" or "vivid"; by default the colorizer's `default_style`.

    Returns:
        The picture in gray and in colour.

    Raises:
        PictureError: The picture cannot be read.
        ValueError: The colorizer does not have the style.
    """
    colour = colorizer.colorize(picture, strength=strength, style=style)
    warning = _warning(name, colorizer, colorizer.unfamiliarity(picture))
    return BeforeAfter(name, Image.fromarray(to_gray(picture).gray), colour, warning)


def _warning(name: str, colorizer: Colorizer, number: float | None) -> str:
    if number is None or number <= UNFAMILIAR:
        return ""
    return f"{colorizer.name} knows nothing like {name} ({number:.2f}): expect colours that are far off."


def slider_html(gray: Image.Image, colour: Image.Image, name: str = "the picture") -> str:
    """HTML with both pictures, one over the other, and a slider that moves the border between them.

    It is HTML and CSS, with one attribute of JavaScript that hands the slider's position to the CSS, and needs no
    library and no network. A viewer that removes such attributes, as Jupyter does until the cell is run, shows the
    colour picture alone.

    Args:
        gray: The gray picture.
        colour: The colour picture, of the same size.
        name: The picture's name, for caption and alternative texts.

    Returns:
        A `<figure>`, whose pictures are reduced to `PREVIEW_SIDE`.
    """
    label = html.escape(name, quote=True)
    width = min(PREVIEW_SIDE, max(gray.width, 320))
    return (
        f'<figure style="margin:8px 0;max-width:{width}px">'
        '<div style="position:relative;--border:50%">'
        f'<img alt="{label}, gray" src="{_preview(gray)}" style="display:block;width:100%;margin:0">'
        f'<img alt="{label}, in colour" src="{_preview(colour)}" style="position:absolute;left:0;top:0;width:100%;'
        'height:100%;margin:0;max-width:none;clip-path:inset(0 0 0 var(--border))">'
        "</div>"
        '<input type="range" min="0" max="100" value="50" step="any" aria-label="border between gray and colour" '
        'style="width:100%;margin:4px 0" '
        "oninput=\"this.previousElementSibling.style.setProperty('--border', this.value + '%')\">"
        f"<figcaption>{label}, {colour.width}×{colour.height}: gray on the left of the slider, in colour on its right"
        "</figcaption></figure>"
    )


def _preview(image: Image.Image) -> str:
    """A data URL of the picture, reduced to `PREVIEW_SIDE`."""
    image = image.copy()
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    if image.mode == "RGBA":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=90, subsampling=0)
    return _data_url(buffer.getvalue(), "image/png" if image.mode == "RGBA" else "image/jpeg")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


# ---------------------------------------------------------------- uploads


@dataclass(frozen=True)
class Result:
    """An uploaded picture that was colorized.

    Attributes:
        shown: The comparison of before and after.
        filename: The name of the file to download.
        content: The content of that file.
    """

    shown: BeforeAfter
    filename: str
    content: bytes


def uploaded_files(widget: "ipywidgets.FileUpload") -> dict[str, bytes]:
    """Reads the files of an upload widget, whose value is a dict in ipywidgets 7 and a tuple in 8.

    Args:
        widget: The upload widget.

    Returns:
        Name → content of each file.
    """
    if isinstance(widget.value, Mapping):
        return {name: bytes(file["content"]) for name, file in widget.value.items()}
    return {file["name"]: bytes(file["content"]) for file in widget.value}


def colorize_uploads(
    uploads: Mapping[str, bytes], colorizer: Colorizer, strength: float = 1.0, style: str | None = None
) -> tuple[list[Result], list[str]]:
    """Colorizes uploaded files.

    A result keeps its original's format, EXIF and colour profile, as from the command line.

    Args:
        uploads: Name → content of each file.
        colorizer: What colorizes them.
        strength: Multiplies the chroma; 0 leaves gray.
        style: "safe" or "vivid"; by default the colorizer's `default_style`.

    Returns:
        The results, and a line for each file that cannot be colorized.

    Raises:
        ValueError: The colorizer does not have the style.
    """
    results: list[Result] = []
    failures: list[str] = []
    for name, content in uploads.items():
        with tempfile.TemporaryDirectory() as folder:
            # Of the upload's name only the suffix is used here: it may hold a path, or what no file system allows.
            original = (Path(folder) / "upload").with_suffix(Path(name).suffix)
            original.write_bytes(content)
            report = colorize_files(colorizer, [original], progress=False, strength=strength, style=style)
            if report.failed:
                failures.extend(line.replace(str(original), name) for line in report.failed)
                continue
            (written,) = report.written
            gray, colour = Image.fromarray(to_gray(original).gray), open_upright(written)
            filename = Path(name).stem + written.name.removeprefix("upload")
            warning = _warning(name, colorizer, max((number for _, number in report.unfamiliar), default=None))
            results.append(Result(BeforeAfter(name, gray, colour, warning), filename, written.read_bytes()))
    return results, failures


def zipped(results: Iterable[Result]) -> bytes:
    """Packs the files of several results into one ZIP file; of two files with one name, the second gets a number.

    Args:
        results: The results.

    Returns:
        The content of the ZIP file.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for result in results:
            name = _unused(Path(result.filename), lambda name: name.as_posix() in archive.namelist())
            archive.writestr(name.as_posix(), result.content)
    return buffer.getvalue()


def download_link(content: bytes, filename: str, label: str) -> str:
    """HTML of a link that looks like a button and saves a file, without a server: the content is in the link.

    Args:
        content: The file's content.
        filename: The name to save it under.
        label: The text on the button.

    Returns:
        An `<a>` with a data URL.
    """
    shown, url = html.escape(label), _data_url(content, "application/octet-stream")
    return f'<a download="{html.escape(filename, quote=True)}" href="{url}" style="{BUTTON}">{shown}</a>'


def results_html(results: list[Result], failures: list[str]) -> str:
    """HTML of a batch: what failed, a comparison and a download for each picture, and one download for all.

    Args:
        results: The results; no more than `SHOWN_AT_ONCE` are shown.
        failures: A line for each file that could not be colorized.

    Returns:
        The HTML; without download links where the files are over `LINKED_BYTES` together.
    """
    parts = [f'<p style="color:#b00020">{html.escape(line)}</p>' for line in failures]
    copies = 2 if len(results) > 1 else 1  # each file alone, and all in one ZIP file
    handed_over = copies * sum(len(result.content) for result in results) <= LINKED_BYTES
    if not handed_over:
        parts.append(
            "<p>Too much to hand over through the browser: press the Save button, and find the files in its folder.</p>"
        )
    elif len(results) > 1:
        parts.append(f"<p>{download_link(zipped(results), 'colorized.zip', f'Download all {len(results)} (ZIP)')}</p>")
    for result in results[:SHOWN_AT_ONCE]:
        parts.append(result.shown._repr_html_())
        if handed_over:
            parts.append(f"<p>{download_link(result.content, result.filename, f'Download {result.filename}')}</p>")
    if len(results) > SHOWN_AT_ONCE:
        parts.append(f"<p>… and {len(results) - SHOWN_AT_ONCE} more.</p>")
    return "".join(parts)


def save_results(results: Iterable[Result], folder: Path) -> list[Path]:
    """Saves the files of results; where a file of the name exists, the new one gets a number.

    Args:
        results: The results.
        folder: Where to save them; made where it does not exist.

    Returns:
        The files that were written.

    Raises:
        OSError: A file cannot be written.
    """
    written = []
    for result in results:
        path = _unused(Path(result.filename), lambda name: (folder / name).exists())
        with atomic_write(folder / path) as temporary:
            temporary.write_bytes(result.content)
        written.append(folder / path)
    return written


def _unused(name: Path, taken: Callable[[Path], bool]) -> Path:
    """`name`, or the first of name-2, name-3, … that is not taken."""
    names = chain([name], (name.with_stem(f"{name.stem}-{number}") for number in count(2)))
    return next(candidate for candidate in names if not taken(candidate))


def colorize_panel(colorizer: Colorizer, strength: float = 1.0, folder: Path = SAVED) -> "ipywidgets.VBox":
    """Makes a panel to upload gray pictures, choose model, style and chroma strength, compare, download or save.

    Where the model takes hints, colours can be given to places of a picture, answers compared, and the map of where the
    model guesses looked at (`ColoursPanel`).

    Args:
        colorizer: The model that is chosen at first.
        strength: The chroma's strength at first.
        folder: Where the Save button writes.

    Returns:
        An ipywidgets box.
    """
    import ipywidgets

    ready = {colorizer.name: colorizer}  # the models that are loaded
    results: list[Result] = []
    fitting = ipywidgets.Layout(width="auto")
    upload = ipywidgets.FileUpload(accept="image/*", multiple=True, description="Upload pictures", layout=fitting)
    model = ipywidgets.Dropdown(
        options=model_choices(colorizer.name), value=colorizer.name, description="Model", layout=fitting
    )
    style = ipywidgets.Dropdown(options=colorizer.styles, description="Style", layout=fitting)
    style.value = colorizer.default_style
    lowest, highest = STRENGTHS
    chroma = ipywidgets.FloatSlider(
        value=min(max(strength, lowest), highest),
        min=lowest,
        max=highest,
        step=0.1,
        description="Chroma",
        continuous_update=False,  # colorize when the slider is let go
    )
    colours = ColoursPanel(
        lambda: How(ready.get(model.value, colorizer), style.value, chroma.value),
        lambda content, name: download_link(content, name, f"Download {name}"),
    )
    save = ipywidgets.Button(description=f"Save to {folder.name}/", disabled=True, layout=fitting)
    status, page = ipywidgets.HTML(INVITATION), ipywidgets.HTML()

    def refresh(change: Mapping[str, object]) -> None:
        uploads = uploaded_files(upload)
        results.clear()
        failures: list[str] = []
        try:
            if model.value not in ready:
                status.value = f"Fetching {html.escape(model.value)} …"
                ready[model.value] = Colorizer.from_checkpoint(model.value, colorizer.device, progress=False)
            chosen = ready[model.value]
            if tuple(style.options) != chosen.styles:
                style.unobserve(refresh, names="value")
                style.options, style.value = chosen.styles, chosen.default_style
                style.observe(refresh, names="value")
            status.value = f"Colorizing {len(uploads)} …"
            done, failures = colorize_uploads(uploads, chosen, chroma.value, style.value)
            results.extend(done)
        except ColorizeError as error:
            failures = [str(error)]
        except Exception as error:  # ipywidgets would drop it silently, and the status would say "Colorizing" for ever
            failures = [f"{type(error).__name__}: {error}"]
        page.value = results_html(results, failures)
        if change["owner"] is upload:
            colours.take(uploads)
        else:
            colours.show()
        save.disabled = not results
        status.value = f"{len(results)} of {len(uploads)} colorized." if uploads else INVITATION

    def save_all(_: object) -> None:
        try:
            written = save_results(results, folder)
            status.value = f"{len(written)} saved in {html.escape(str(folder))}."
        except OSError as error:
            status.value = f"Cannot save in {html.escape(str(folder))}: {html.escape(str(error.strerror or error))}."

    for control in (upload, model, style, chroma):
        control.observe(refresh, names="value")
    save.on_click(save_all)
    controls = ipywidgets.HBox([upload, model, style, chroma, save], layout=ipywidgets.Layout(flex_flow="row wrap"))
    return ipywidgets.VBox([controls, status, page, colours.box])
