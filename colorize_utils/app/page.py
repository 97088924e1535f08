"""The page, built with Gradio: what it shows, and which step of picture.py each tap takes.

Every event goes through `Page._answered`, which finds the visit, lets one step of it run at a time, and turns an error
into its line. What a visitor typed or called a file is escaped before it is shown.
"""

import base64
import html
import io
import secrets
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from colorize_utils.app.picture import How, Picture
from colorize_utils.app.visits import Visit, Visits
from colorize_utils.checkpoints import REGISTRY
from colorize_utils.data import sample_photograph
from colorize_utils.data.pictures import READABLE
from colorize_utils.errors import ColorizeError
from colorize_utils.inference.batch import AT_ONCE
from colorize_utils.inference.colorizer import Colorizer
from colorize_utils.inference.hints import Answer

TITLE = "Colour for gray photographs"
STRENGTHS = (0.0, 2.0)
QUEUE = 200  # events that wait at once; a class of thirty has one each
SWATCHES = 7  # and the free choice: four rows on a telephone
ANSWER_SIDE = 560  # the longer side of each answer's picture
_KEPT = (300, 3600)  # every so many seconds, files that Gradio has kept for longer than that are deleted
_NETWORK = {"concurrency_id": "network", "concurrency_limit": AT_ONCE}  # of events that colour something
COMPARE, COLOURS, ANSWERS, GUESSES = "Compare", "Colours", "Answers", "Guesses"
_TAP = "Tap the picture where you know the colour."
# Without the suffixes of HEIC, which "image" stands for, too: asked for those, an iPhone would not send a JPEG.
_SUFFIXES = sorted(READABLE)
# Handed to the button that saves, as soon as it is there: the browser then asks for nothing more.
_SAVE = """() => { let tries = 40; const press = () => { const button = document.querySelector('%s');
  if (button && button.offsetParent) button.click(); else if (tries--) setTimeout(press, 100); };
  setTimeout(press, 100); }"""
# Swatches and answers are buttons, and the free choice of a colour is the browser's own field for one, which every
# keyboard and every telephone can use.
_CHOICE_JS = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-choice]');
  if (button) trigger('click', {choice: button.dataset.choice});
});
element.addEventListener('change', event => {
  if (event.target.type === 'color') trigger('click', {choice: event.target.value});
});
"""
_LIVE = '<div role="status" aria-live="polite">${value}</div>'  # what changes in it is read out
CSS = """
.gradio-container main { width: 100% !important; max-width: 1240px !important; margin: 0 auto !important; }
.or { color: var(--body-text-color-subdued) !important; }
.dark .tab-container button.selected { color: #5eead4 !important; }
[aria-label="common.upload"] { display: none !important; } /* a button in a button; the field itself takes more files */
#title { padding: 4px 0; } #title h1 { font-size: 1.7rem !important; margin: 0; }
#notice p { margin: 0; padding: 10px 14px; border-radius: 8px; border: 1px solid var(--border-color-primary); }
#notice p.wrong { border-color: #b3261e; border-left-width: 6px; }
#palette p, #answers p, .says p { margin: 4px 0 8px; font-size: 1.05rem; }
.answers { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; }
.answers button { display: flex; flex-direction: column; align-items: center; padding: 0 0 8px;
  border: 2px solid var(--border-color-primary); border-radius: 8px; overflow: hidden;
  background: var(--background-fill-primary); color: var(--body-text-color); font-size: 1.05rem; cursor: pointer; }
.answers img { display: block; width: 100%; margin: 0 0 6px; }
.swatches { display: flex; flex-wrap: wrap; gap: 8px; }
.swatches button, .swatches label { display: flex; align-items: center; gap: 8px; min-height: 48px; padding: 4px 12px;
  border: 1px solid var(--border-color-primary); border-radius: 8px; background: var(--background-fill-primary);
  color: var(--body-text-color); font-size: 1rem; cursor: pointer; }
.swatches i { flex: none; width: 30px; height: 30px; border-radius: 50%; border: 1px solid #0006; }
.swatches input { width: 36px; height: 36px; padding: 0; border: 0; background: none; cursor: pointer; }
.swatches button:focus-visible, .answers button:focus-visible, .swatches label:focus-within {
  outline: 3px solid var(--color-accent); }
/* What is under the picture is to be seen without scrolling. */
#canvas img, #guesses img { max-height: 46vh; max-width: 100%; width: auto; margin: 0 auto; }
#canvas img { cursor: crosshair; touch-action: manipulation; }
@media (max-width: 640px) {
  .gradio-container main { padding: 8px !important; } #title h1 { font-size: 1.2rem !important; }
  .tab-container button { padding: 0 7px !important; font-size: .95rem !important; }
  .swatches { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
  .swatches button, .swatches label { padding: 4px 8px; gap: 6px; font-size: .92rem; }
}
"""


class Models:
    """The models that can be chosen, each loaded when it first is.

    Args:
        first: The model that is chosen at first.
    """

    def __init__(self, first: Colorizer):
        self._loaded = {first.name: first}
        self.names = list(dict.fromkeys([first.name, *REGISTRY]))
        self.first = first

    def get(self, name: str) -> Colorizer:
        """The model of a name; from the registry it may be downloaded.

        Raises:
            CheckpointError: It cannot be had.
        """
        if name not in self._loaded:
            self._loaded[name] = Colorizer.from_checkpoint(name, self.first.device, progress=False)
        return self._loaded[name]


Updates = Mapping[Any, Any]
"""Component → its new value or properties."""


class Page:
    """The page and its events.

    Args:
        visits: Where visitors' pictures are kept.
        models: What can be chosen.

    Attributes:
        blocks: The page, for Gradio to launch.
    """

    def __init__(self, visits: Visits, models: Models):
        self._visits, self._models = visits, models
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=_KEPT) as self.blocks:
            gr.HTML(f"<h1>{TITLE}</h1>", elem_id="title")
            with gr.Row():
                with gr.Column(scale=3, min_width=320), gr.Tabs():
                    with gr.Tab("One picture"):
                        self._lay_out_one()
                    with gr.Tab("Many pictures"):
                        self._lay_out_many()
                with gr.Column(scale=1, min_width=260):
                    self._lay_out_settings()
            self._connect()
        self.blocks.queue(max_size=QUEUE, default_concurrency_limit=4 * AT_ONCE, api_open=False)

    # ------------------------------------------------------------ what is shown

    def _lay_out_one(self) -> None:
        self.upload = gr.File(
            label="Your photographs", file_count="multiple", file_types=["image", *_SUFFIXES], height=150
        )
        self.sample = gr.Button("Try it with a flower", size="lg")
        self.notice = gr.HTML(html_template=_LIVE, elem_id="notice")
        self.which = gr.Radio(label="Picture", visible=False)
        with gr.Column(visible=False) as self.work:
            with gr.Tabs() as self.views:
                with gr.Tab(COMPARE, id=COMPARE) as self.compare_tab:
                    self.slider = gr.ImageSlider(
                        label="Gray and in colour", show_label=False, interactive=False, buttons=[], max_height=460
                    )
                with gr.Tab(COLOURS, id=COLOURS) as self.colours_tab:
                    self.canvas = gr.Image(
                        label="Tap it",
                        show_label=False,
                        interactive=False,
                        buttons=[],
                        height="auto",
                        elem_id="canvas",
                        alt_text="The picture in colour: tap a place to say what colour it has",
                    )
                    self.palette = gr.HTML(elem_id="palette", js_on_load=_CHOICE_JS)
                    with gr.Row():
                        self.remove = gr.Button("Remove", visible=False, min_width=120)
                        self.undo = gr.Button("Undo", interactive=False, min_width=120)
                    with gr.Accordion("More: without a pointer, save, load", open=False):
                        with gr.Row():
                            self.across = gr.Slider(0, 100, 50, step=1, label="Across, %")
                            self.down = gr.Slider(0, 100, 50, step=1, label="Down, %")
                        self.look = gr.Button("Look there")
                        with gr.Row():
                            self.save_hints = gr.DownloadButton("Save these colours", interactive=False)
                            self.load_hints = gr.UploadButton("Load colours", file_types=[".json"])
                with gr.Tab(ANSWERS, id=ANSWERS) as self.answers_tab:
                    self.answers = gr.HTML(elem_id="answers", js_on_load=_CHOICE_JS)
                with gr.Tab(GUESSES, id=GUESSES) as self.guesses_tab:
                    gr.HTML("<p>Orange: here the model guesses.</p>", elem_classes="says")
                    self.guesses = gr.Image(
                        label="Guesses",
                        show_label=False,
                        interactive=False,
                        buttons=[],
                        height="auto",
                        elem_id="guesses",
                        alt_text="The gray picture, orange where the model guesses",
                    )
            self.download = gr.Button("Download in full size", variant="primary", size="lg", elem_id="download")
            self.saved = gr.DownloadButton("Save", visible=False, size="lg", elem_id="saved")

    def _lay_out_many(self) -> None:
        self.many = gr.File(
            label="Many photographs", file_count="multiple", file_types=["image", *_SUFFIXES], height=220
        )
        self.colour_all = gr.Button("Colour all", variant="primary", size="lg", elem_id="colour-all")
        self.archive = gr.DownloadButton("Download all (ZIP)", visible=False, size="lg", elem_id="archive")
        self.report = gr.HTML(html_template=_LIVE, elem_id="report")

    def _lay_out_settings(self) -> None:
        first = self._models.first
        self.style = gr.Radio(list(first.styles), value=first.default_style, label="Style")
        self.strength = gr.Slider(*STRENGTHS, 1.0, step=0.1, label="Strength")
        with gr.Accordion("More", open=False):
            self.model = gr.Dropdown(self._models.names, value=first.name, label="Model")
            self.place = gr.Checkbox(False, label="Keep in the file where it was taken (GPS)")

    # ------------------------------------------------------------ which event does what

    def _connect(self) -> None:
        how = [self.model, self.style, self.strength]
        shown = [self.slider, self.canvas, self.palette, self.remove, self.undo, self.save_hints, self.answers]
        shown += [self.guesses, self.saved, self.notice, self.work, self.which, self.sample, self.upload]

        def on(event: Callable[..., Any], step: Any, inputs: list[Any], outputs: list[Any], **more: Any) -> Any:
            return event(
                step, inputs, outputs, api_visibility="private", **({"show_progress": "minimal"} | _NETWORK | more)
            )

        on(self.upload.upload, self.take_in, [self.upload, *how], shown)
        on(self.sample.click, self.take_sample, how, shown)
        on(self.which.input, self.choose_picture, [self.which, *how], shown)
        for change in (self.style.input, self.strength.release):
            on(change, self.paint, how, shown)
        on(self.model.input, self.choose_model, how, [*shown, self.style])
        for name, tab in zip(
            (COMPARE, COLOURS, ANSWERS, GUESSES),
            (self.compare_tab, self.colours_tab, self.answers_tab, self.guesses_tab),
            strict=True,
        ):
            on(tab.select, self._turning_to(name), how, shown)
        last = {"trigger_mode": "always_last", "show_progress": "hidden"}
        on(self.canvas.select, self.tap, how, shown, **last)
        on(self.look.click, self.look_at, [self.across, self.down, *how], shown, **last)
        on(self.palette.click, self.colour_it, how, shown, **last)
        on(self.remove.click, self.remove_it, how, shown, **last)
        on(self.undo.click, self.take_back, how, shown, trigger_mode="multiple", show_progress="hidden")
        on(self.load_hints.upload, self.take_hints, [self.load_hints, *how], shown)
        on(self.answers.click, self.take_answer, how, [*shown, self.views])
        made = on(self.download.click, self.make_file, [self.place, *how], [self.saved, self.notice, self.download])
        made.success(None, js=_SAVE % "#saved")
        on(
            self.colour_all.click,
            self.make_archive,
            [self.many, self.place, *how],
            [self.archive, self.report, self.colour_all],
            concurrency_id="batch",  # so that those who colour a single picture need not wait for its end
            concurrency_limit=1,
        )

    @property
    def _nothing(self) -> Updates:
        return {self.work: gr.skip()}  # Gradio takes an empty dictionary for a missing value

    def _how(self, model: str, style: str | None, strength: float) -> How:
        colorizer = self._models.get(model)
        lowest, highest = STRENGTHS
        known = style if style in colorizer.styles else colorizer.default_style
        return How(colorizer, known, min(max(lowest, float(strength)), highest))

    def _visit(self, request: gr.Request) -> Visit:
        return self._visits.of(request.session_hash or secrets.token_hex())  # without a key, nothing is shared

    def _answered(self, request: gr.Request, step: Callable[[Visit], Updates]) -> Updates:
        """What a step of the visit changes on the page; where it fails, the line that says why."""
        visit = self._visit(request)
        with visit.turn:
            try:
                return step(visit)
            except Exception as error:
                return {self.notice: notice(line_of(error), wrong=True)}

    def _changed(
        self, request: gr.Request, how: tuple[str, str | None, float], change: Callable[[Picture], object] | None = None
    ) -> Updates:
        """Makes a change of the picture that is shown, and shows the picture anew."""

        def step(visit: Visit) -> Updates:
            if visit.picture is None:
                return {self.notice: notice("First choose a photograph; after an hour without use it is deleted.")}
            if change is not None:
                change(visit.picture)
            return self._shown(visit, self._how(*how))

        return self._answered(request, step)

    def _shown(self, visit: Visit, how: How) -> dict[Any, Any]:
        """The picture that is shown, seen from the side that is shown."""
        picture = visit.picture
        assert picture is not None
        folder = picture.gray.parent
        colour = picture.painted(how, folder / "colour.jpg")
        updates: dict[Any, Any] = {
            self.work: gr.update(visible=True),
            self.sample: gr.update(visible=False),
            self.slider: (str(picture.gray), str(folder / "colour.jpg")),
            self.canvas: _saved(picture.dotted(colour), folder / "dots.jpg"),
            self.palette: self._palette(picture, how),
            self.remove: gr.update(visible=picture.chosen is not None),
            self.undo: gr.update(interactive=bool(picture.past)),
            self.save_hints: gr.update(value=str(picture.hints_file()), interactive=bool(picture.hints)),
            self.saved: gr.update(visible=False),
            self.notice: notice(picture.warning(how)),
        }
        if visit.view == ANSWERS:
            try:
                visit.answers = picture.answers(how)
            except ColorizeError as error:
                visit.answers, updates[self.notice] = [], notice(str(error))
            updates[self.answers] = _answers(visit.answers)
        if visit.view == GUESSES:
            if how.colorizer.has_distribution:
                updates[self.guesses] = _saved(picture.guessed(how), folder / "guesses.jpg")
            else:
                updates |= {
                    self.guesses: None,
                    self.notice: notice(f"{how.colorizer.name} does not know how sure it is."),
                }
        return updates

    def _palette(self, picture: Picture, how: How) -> str:
        if not how.colorizer.takes_hints:
            return f"<p>{html.escape(how.colorizer.name)} takes no colours from you; choose another model.</p>"
        if picture.place is None:
            return f"<p>{_TAP}</p>"
        swatches = [
            f'<button type="button" data-choice="{_hex(belief.colour)}">'
            f'<i style="background:{_hex(belief.colour)}"></i>{belief.name} {belief.probability:.0%}</button>'
            for belief in picture.believed(how)[:SWATCHES]
        ]
        own = picture.hints[picture.chosen].rgb if picture.chosen is not None else (200, 60, 90)
        swatches.append(f'<label><input type="color" value="{_hex(own)}">another colour</label>')
        return f'<p>What colour is it there?</p><div class="swatches">{"".join(swatches)}</div>'

    # ------------------------------------------------------------ events of one picture

    def take_in(self, files: list[str] | None, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """Photographs were chosen, dropped or taken."""

        def step(visit: Visit) -> Updates:
            failures = visit.take_in([Path(file) for file in files or ()])
            return {**self._of_visit(visit, self._how(model, style, strength), failures), self.upload: None}

        return self._answered(request, step)

    def take_sample(self, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """The sample was asked for."""

        def step(visit: Visit) -> Updates:
            path = visit.folder / "flower.jpg"
            sample_photograph().save(path, quality=95)
            return self._of_visit(visit, self._how(model, style, strength), visit.take_in([path]))

        return self._answered(request, step)

    def _of_visit(self, visit: Visit, how: How, failures: list[str]) -> dict[Any, Any]:
        labels = visit.labels()
        updates = self._shown(visit, how) if visit.picture else {}
        if failures:
            updates[self.notice] = notice("\n".join(failures), wrong=True)
        if labels:
            updates[self.which] = gr.update(choices=labels, value=labels[visit.current], visible=len(labels) > 1)
        return updates

    def choose_picture(self, label: str, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """Another of the visitor's pictures was chosen."""

        def step(visit: Visit) -> Updates:
            visit.current = visit.labels().index(label)
            return self._shown(visit, self._how(model, style, strength))

        return self._answered(request, step)

    def paint(self, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """Style or strength was changed."""
        return self._changed(request, (model, style, strength)) if self._has_picture(request) else self._nothing

    def choose_model(self, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """Another model was chosen."""
        try:
            how = self._how(model, style, strength)
        except ColorizeError as error:
            return {self.notice: notice(str(error), wrong=True)}
        styles = gr.update(choices=list(how.colorizer.styles), value=how.style)
        return {**self.paint(model, str(how.style), strength, request), self.style: styles}

    def turn_to(self, view: str, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """Another side of the picture was turned to."""
        visit = self._visit(request)
        visit.view = view
        return self.paint(model, style, strength, request) if view in (ANSWERS, GUESSES) else self._nothing

    def _turning_to(self, view: str) -> Callable[..., Updates]:
        def turn(model: str, style: str, strength: float, request: gr.Request) -> Updates:  # Gradio reads the types
            return self.turn_to(view, model, style, strength, request)

        return turn

    def _has_picture(self, request: gr.Request) -> bool:
        return self._visit(request).picture is not None

    def tap(self, event: gr.SelectData, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """The picture was tapped."""
        x, y = event.index

        def look(picture: Picture) -> None:
            height, width = picture.levels.shape
            picture.look_at(x / width, y / height)

        return self._changed(request, (model, style, strength), look)

    def look_at(
        self, across: float, down: float, model: str, style: str, strength: float, request: gr.Request
    ) -> Updates:
        """A place was given in per cent."""
        return self._changed(
            request, (model, style, strength), lambda picture: picture.look_at(across / 100, down / 100)
        )

    def colour_it(self, event: gr.EventData, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """A colour was chosen for the place that is looked at."""
        how = (model, style, strength)
        size = self._how(*how).colorizer.size
        return self._changed(request, how, lambda picture: picture.colour_it(str(event.choice), size))

    def remove_it(self, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """The hint that is looked at is to go."""
        return self._changed(request, (model, style, strength), Picture.remove)

    def take_back(self, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """The last change is to be taken back."""
        return self._changed(request, (model, style, strength), Picture.undo)

    def take_hints(self, file: str, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """A file of hints was uploaded."""
        return self._changed(request, (model, style, strength), lambda picture: picture.load_hints(Path(file)))

    def take_answer(self, event: gr.EventData, model: str, style: str, strength: float, request: gr.Request) -> Updates:
        """An answer was tapped: its hint is kept, and the picture compared."""

        def step(visit: Visit) -> Updates:
            assert visit.picture is not None
            visit.picture.take_up(visit.answers[int(event.choice)].hints)
            visit.view = COMPARE
            return {**self._shown(visit, self._how(model, style, strength)), self.views: gr.update(selected=COMPARE)}

        return self._answered(request, step)

    def make_file(self, place: bool, model: str, style: str, strength: float, request: gr.Request) -> Iterator[Updates]:
        """The picture is to be downloaded."""
        yield {
            self.notice: notice("Colouring the full size …"),
            self.download: gr.update(interactive=False),
            self.saved: gr.update(visible=False),  # where this fails, an older file is not handed out for it
        }

        def step(visit: Visit) -> Updates:
            picture = visit.picture
            assert picture is not None
            how = self._how(model, style, strength)
            path = picture.coloured_file(how, place)
            return {
                self.saved: gr.update(value=str(path), label=f"Save {path.name}", visible=True),
                self.notice: notice(picture.warning(how)),
            }

        yield {**self._answered(request, step), self.download: gr.update(interactive=True)}

    # ------------------------------------------------------------ events of many pictures

    def make_archive(
        self, files: list[str] | None, place: bool, model: str, style: str, strength: float, request: gr.Request
    ) -> Iterator[Updates]:
        """Many pictures are to be coloured."""
        if not files:
            yield {self.report: notice("First choose photographs.")}
            return
        visit = self._visit(request)
        yield {
            self.report: progress(0, len(files)),
            self.colour_all: gr.update(interactive=False),
            self.archive: gr.update(visible=False),
        }
        try:
            for batch in visit.colour_all([Path(file) for file in files], self._how(model, style, strength), place):
                yield {self.report: progress(batch.done + len(batch.failed), batch.total)}
            report = f"{batch.done} of {batch.total} coloured." + "".join(f"\n{line}" for line in batch.failed)
            if batch.archive is not None:
                yield {self.archive: gr.update(value=str(batch.archive), visible=True)}
        except Exception as error:
            report = line_of(error)
        yield {self.report: notice(report, wrong="\n" in report), self.colour_all: gr.update(interactive=True)}


def line_of(error: Exception) -> str:
    """What a visitor is told of an error; one that nobody expected is printed in full where the server runs."""
    if isinstance(error, ColorizeError):
        return str(error)
    traceback.print_exception(error)
    return "Something went wrong here; try again, or another picture."


def notice(text: str, wrong: bool = False) -> str:
    """HTML of lines for a visitor, whatever they hold; nothing where there are none."""
    if not text:
        return ""
    return f"<p{' class=wrong' if wrong else ''}>{html.escape(text).replace(chr(10), '<br>')}</p>"


def _answers(answers: list[Answer]) -> str:
    """HTML of answers, a button each; the pictures are in it, and in no file that others could ask for."""
    buttons = []
    for number, answer in enumerate(answers):
        small, buffer = answer.picture.copy(), io.BytesIO()
        small.thumbnail((ANSWER_SIDE, ANSWER_SIDE))
        small.save(buffer, "JPEG", quality=88)
        content = base64.b64encode(buffer.getvalue()).decode()
        buttons.append(
            f'<button type="button" data-choice="{number}"><img alt="" src="data:image/jpeg;base64,{content}">'
            f"<span>{answer.name}, {answer.probability:.0%}</span></button>"
        )
    where = "<p>What is the colour in the ring? Tap the one that you like.</p>" if len(buttons) > 1 else ""
    return f'{where}<div class="answers">{"".join(buttons)}</div>' if buttons else ""


def progress(done: int, total: int) -> str:
    """HTML of how far a batch is."""
    return f'<p><label>{done} of {total} <progress max="{total}" value="{done}"></progress></label></p>'


def _saved(image: Any, path: Path) -> str:
    image.save(path, quality=90, subsampling=0)
    return str(path)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def theme() -> Any:
    """Large letters of the visitor's own system, so that no font is loaded."""
    fonts = ["system-ui", "sans-serif"]
    plain = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"], text_size="lg", primary_hue="teal")
    dark_enough = dict.fromkeys(("button_primary_background_fill", "color_accent"), "*primary_700")  # for white letters
    dark = {
        "button_primary_background_fill_dark": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
    }
    return plain.set(**dark_enough, **dark, body_text_color_subdued="*neutral_600")
