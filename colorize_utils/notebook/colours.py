"""Colours that somebody gives at places of an uploaded picture, answers, and where the model guesses, in a notebook.

What the page of `serve` does by taps, with plain widgets: a place is two sliders, a colour a field. Only what
ipywidgets 7.7 (Colab) and 8 have in common is used. Every step is a method of `app.picture.Picture`.
"""

import base64
import html
import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from colorize_utils.app.picture import How, Picture
from colorize_utils.app.visits import Visit
from colorize_utils.errors import ColorizeError

SHOWN = "max-width:100%;max-height:60vh;display:block;margin:4px 0"
INVITATION = "Give the place in the ring a colour; it spreads to what belongs to it."


class ColoursPanel:
    """A panel for the colours of places.

    Args:
        how: Tells model, style and strength, whenever it is asked.
        link: Makes HTML that saves a file: of its content and name.

    Attributes:
        box: The panel, an ipywidgets box; hidden until pictures are taken in.
        visit: The pictures that were taken in; None before.
    """

    def __init__(self, how: Callable[[], How], link: Callable[[bytes, str], str]):
        import ipywidgets

        self._how, self._link = how, link
        self._folder = tempfile.TemporaryDirectory(prefix="colorize-")
        self._visits = 0
        self.visit: Visit | None = None
        fitting = ipywidgets.Layout(width="auto")
        self.which = ipywidgets.Dropdown(description="Picture", layout=fitting)
        self.across, self.down = (
            ipywidgets.IntSlider(value=50, min=0, max=100, description=label, continuous_update=False)
            for label in ("Across, %", "Down, %")
        )
        self.likely = ipywidgets.Dropdown(description="Likely", layout=fitting)
        self.colour = ipywidgets.ColorPicker(value="#c83c5a", description="Colour", layout=fitting)
        labels = "Set colour", "Remove", "Undo", "Answers", "Where it guesses", "Full size"
        self.set, self.remove, self.undo, self.answers, self.guesses, self.file = (
            ipywidgets.Button(description=label, layout=fitting) for label in labels
        )
        self.status, self.shown, self.saved = (ipywidgets.HTML() for _ in range(3))
        self.choices = ipywidgets.HBox([], layout=ipywidgets.Layout(flex_flow="row wrap"))
        rows: list[list[Any]] = [
            [self.which, self.across, self.down],
            [self.likely, self.colour, self.set, self.remove, self.undo],
            [self.answers, self.guesses, self.file],
        ]
        wrapping = ipywidgets.Layout(flex_flow="row wrap")
        boxes = [ipywidgets.HBox(row, layout=wrapping) for row in rows]
        self.box = ipywidgets.VBox([self.status, self.shown, *boxes, self.choices, self.saved])
        self.box.layout.display = "none"

        self.which.observe(self._step(self._choose), names="value")
        for slider in (self.across, self.down):
            slider.observe(self._step(self._look), names="value")
        self.likely.observe(self._take_likely, names="value")
        self.set.on_click(self._step(lambda picture: picture.colour_it(self.colour.value, self._how().colorizer.size)))
        self.remove.on_click(self._step(Picture.remove))
        self.undo.on_click(self._step(Picture.undo))
        self.answers.on_click(self._step(self._answer, shows=False))
        self.guesses.on_click(self._step(self._guess, shows=False))
        self.file.on_click(self._step(self._save, shows=False))

    def take(self, uploads: Mapping[str, bytes]) -> None:
        """Takes pictures in, in place of those before.

        Args:
            uploads: Name → content of each file; what cannot be read is left out.
        """
        self._visits += 1
        here = Path(self._folder.name) / str(self._visits)
        self.visit = Visit(here)
        files = []
        for number, (name, content) in enumerate(uploads.items()):
            name = Path(name).name or "picture"
            file = here / "uploads" / str(number) / name[-100:]
            file.parent.mkdir(parents=True)
            file.write_bytes(content)
            files.append(file)
        self.visit.take_in(files)
        labels = self.visit.labels()
        self.which.options = labels
        self.show()
        self._step(self._look)(None)

    def show(self) -> None:
        """Shows the picture anew, where model, style or strength has changed."""
        there = self.visit is not None and self.visit.picture is not None
        self.box.layout.display = "" if there and self._how().colorizer.takes_hints else "none"
        self._step(lambda _: None)(None)

    # ------------------------------------------------------------ steps

    def _step(self, change: Callable[[Picture], object], shows: bool = True) -> Callable[[object], None]:
        """An event that changes the picture, and shows it anew; an error becomes a line."""

        def happen(_: object) -> None:
            if self.visit is None or self.visit.picture is None:
                return
            picture = self.visit.picture
            self.choices.children, self.saved.value, self.status.value = (), "", INVITATION
            try:
                change(picture)
                if shows:
                    self._show(picture)
            except ColorizeError as error:
                self.status.value = html.escape(str(error))
            except Exception as error:  # ipywidgets would drop it silently
                self.status.value = html.escape(f"{type(error).__name__}: {error}")

        return happen

    def _show(self, picture: Picture) -> None:
        how = self._how()
        colour = picture.painted(how, picture.gray.with_name("colour.jpg"))
        self.shown.value = _img(picture.dotted(colour), f"{picture.name}, with the colours that were given")
        found = [
            (f"{belief.name}, {belief.probability:.0%}", "#{:02x}{:02x}{:02x}".format(*belief.colour))
            for belief in picture.believed(how)
        ]
        self.likely.options = [("what the model thinks likely there", ""), *found]
        self.remove.disabled, self.undo.disabled = picture.chosen is None, not picture.past

    def _choose(self, picture: Picture) -> None:
        assert self.visit is not None
        if self.which.value in (labels := self.visit.labels()):
            self.visit.current = labels.index(self.which.value)
            self._show(self.visit.pictures[self.visit.current])

    def _look(self, picture: Picture) -> None:
        picture.look_at(self.across.value / 100, self.down.value / 100)

    def _take_likely(self, change: Mapping[str, str]) -> None:
        if change["new"]:
            self.colour.value = change["new"]

    def _answer(self, picture: Picture) -> None:
        import ipywidgets

        def taking(hints: Any) -> Callable[[object], None]:
            return self._step(lambda picture: picture.take_up(hints))

        self.shown.value, buttons = "", []
        for number, answer in enumerate(picture.answers(self._how()), 1):
            small = answer.picture.copy()
            small.thumbnail((400, 400))
            label = f"{number}: {answer.name}, {answer.probability:.0%}"
            self.shown.value += f'<figure style="display:inline-block;margin:4px">{_img(small, label)}{label}</figure>'
            button = ipywidgets.Button(description=label, layout=ipywidgets.Layout(width="auto"))
            button.on_click(taking(answer.hints))
            buttons.append(button)
        self.status.value = "The colour in the ring: which one is it?"
        self.choices.children = tuple(buttons)

    def _guess(self, picture: Picture) -> None:
        self.shown.value = _img(picture.guessed(self._how()), f"{picture.name}, orange where the model guesses")
        self.status.value = "Orange: here the model guesses."

    def _save(self, picture: Picture) -> None:
        path = picture.coloured_file(self._how(), place=True)  # it does not leave the visitor's own machine
        self.saved.value = self._link(path.read_bytes(), path.name)


def _img(image: Image.Image, label: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(label, quote=True)}" style="{SHOWN}" src="data:image/jpeg;base64,{content}">'
