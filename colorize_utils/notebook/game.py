"""Spot the fake: a class looks at flowers, real and painted, and says which is which.

    fooled = painted flowers that were taken for real / painted flowers that were shown

An `Exhibition` holds the flowers, real and by each painter; `questions` draws what a player sees, by a seed; a `Game`
takes the answers and the time; `code` and `combined` put a class together without a network. `game_panel` is the game
with buttons and keys. ipywidgets is imported only there.

All pictures have the luminance of the photograph, so that colour alone can give a painting away.
"""

import html
import io
import json
import random
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from colorize_utils.errors import DataError
from colorize_utils.evaluation.prints import on_luminance
from colorize_utils.evaluation.realism import LEAST, SIZE, Realism, two_sample_test, wilson_interval
from colorize_utils.files import atomic_write
from colorize_utils.inference import Colorizer

if TYPE_CHECKING:
    import ipywidgets

REAL = "photograph"
QUALITY = 90  # of the JPEG files in an exhibition's file: about 2 KB each at 64×64
SHOWN = 384  # pixels a side of a flower in the game
SHIPPED = Path(__file__).with_name("paintings.npz")  # notebooks/source/paintings.py makes it
KEYS = {"r": True, "p": False}  # real, painted

Painter = Callable[[Tensor], Tensor]
"""Gray (B, 1, H, W) → colour (B, 3, H, W), both in [0, 1]."""


# ---------------------------------------------------------------- the flowers


@dataclass(frozen=True)
class Exhibition:
    """Flowers, as photographs and as each painter painted them.

    Attributes:
        real: (N, H, W, 3) uint8.
        painted: Painter's name → the same flowers, (N, H, W, 3) uint8.
    """

    real: np.ndarray
    painted: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.real)

    def picture(self, question: "Question") -> Image.Image:
        """What a question shows."""
        pictures = self.real if question.is_real else self.painted[question.painter]
        return Image.fromarray(pictures[question.flower])

    def machine(self, seed: int = 0) -> dict[str, Realism]:
        """How well a small network tells each painter's paintings from the photographs (`evaluate --realism`).

        Args:
            seed: As of `two_sample_test`.

        Returns:
            Painter → the result; none for fewer than `realism.LEAST` flowers, which prove nothing.
        """
        if len(self) < LEAST:
            return {}
        real = _small(self.real)
        return {name: two_sample_test(real, _small(pictures), seed) for name, pictures in self.painted.items()}

    def save(self, path: Path, quality: int = QUALITY) -> None:
        """Writes the exhibition to a file, its pictures as JPEG.

        Args:
            path: The file, by custom with the suffix .npz.
            quality: Of the JPEG files, in [0, 100].
        """
        rows = {REAL: self.real, **self.painted}
        arrays: dict[str, Any] = {
            f"{row}-{flower}": _jpeg(picture, quality)
            for row, pictures in enumerate(rows.values())
            for flower, picture in enumerate(pictures)
        }
        names = np.frombuffer(json.dumps([*rows]).encode(), np.uint8)
        with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, names=names, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Exhibition":
        """Reads an exhibition from a file that `save` wrote.

        Args:
            path: The file.

        Returns:
            The exhibition.

        Raises:
            DataError: The file cannot be read, or is none.
        """
        try:
            with np.load(path) as file:
                names = json.loads(bytes(file["names"]))
                count = sum(key.startswith("0-") for key in file.files)
                rows = [
                    np.stack([np.asarray(Image.open(io.BytesIO(file[f"{row}-{flower}"]))) for flower in range(count)])
                    for row in range(len(names))
                ]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no exhibition of painted flowers ({error}); make it anew") from error
        return cls(rows[0], dict(zip(names[1:], rows[1:], strict=True)))


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _small(pictures: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 as the two-sample test takes them, (N, 3, SIZE, SIZE) uint8."""
    if pictures.shape[1:3] != (SIZE, SIZE):
        small = [Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for one in pictures]
        pictures = np.stack([np.asarray(one) for one in small])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def exhibit(real: Tensor, gray: Tensor, painters: Mapping[str, Painter]) -> Exhibition:
    """Has flowers painted.

    Args:
        real: (B, 3, H, W), RGB in [0, 1].
        gray: (B, 1, H, W) in [0, 1], the same flowers.
        painters: By name.

    Returns:
        The exhibition: each painting's chroma on the photograph's luminance.
    """
    painted = {name: _levels(on_luminance(gray, paint(gray))) for name, paint in painters.items()}
    return Exhibition(_levels(real), painted)


def _levels(pictures: Tensor) -> np.ndarray:
    return (255 * pictures).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def shipped_exhibition() -> Exhibition | None:
    """The exhibition that comes with the package, painted by long runs.

    Returns:
        The exhibition; None where none has been made yet.

    Raises:
        DataError: The file cannot be read.
    """
    return Exhibition.load(SHIPPED) if SHIPPED.is_file() else None


def painters_of(colorizer: Colorizer, seed: int = 0) -> dict[str, Painter]:
    """A colorizer's ways to paint: each of its styles, and an answer drawn by its probability.

    Args:
        colorizer: The colorizer.
        seed: Draws the answers.

    Returns:
        Name → painter; no drawn answers where it takes no hints.
    """
    painters: dict[str, Painter] = {
        f"{colorizer.name}, {style}": colorizer.predictor(style=style) for style in colorizer.styles
    }
    if colorizer.takes_hints:
        painters[f"{colorizer.name}, drawn"] = lambda gray: _drawn(colorizer, gray, seed)
    return painters


def _drawn(colorizer: Colorizer, gray: Tensor, seed: int) -> Tensor:
    """One of the answers to each gray picture (B, 1, H, W), each as likely as the network thinks it is."""
    draw = random.Random(seed)
    chosen = []
    for levels in (255 * gray[:, 0]).round().byte().cpu().numpy():
        answers = colorizer.answers(levels, style=colorizer.styles[-1])
        (answer,) = draw.choices(answers, [answer.probability for answer in answers])
        chosen.append(np.asarray(answer.picture.convert("RGB")))
    return torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2) / 255


# ---------------------------------------------------------------- what a player is asked


@dataclass(frozen=True)
class Question:
    """One flower that is shown.

    Attributes:
        flower: Its place in the exhibition.
        painter: Who painted it; `REAL` where nobody did.
    """

    flower: int
    painter: str

    @property
    def is_real(self) -> bool:
        """Whether it is the photograph."""
        return self.painter == REAL


def questions(flowers: int, painters: Sequence[str], count: int, seed: int) -> list[Question]:
    """What a player is shown: half photographs, half paintings, the painters in turn, in random order.

    No flower is shown twice, so that nobody can compare. The same seed asks the same on every machine.

    Args:
        flowers: How many there are.
        painters: Their names, one at least.
        count: How many questions; fewer where there are not enough flowers.
        seed: Decides flowers, painters and order.

    Returns:
        The questions.

    Raises:
        ValueError: There are no painters, or fewer than two flowers.
    """
    if not painters or flowers < 2:
        raise ValueError("the game needs a painter and two flowers at least")
    draw = random.Random(seed)
    shown = draw.sample(range(flowers), min(count, flowers))
    order = draw.sample(list(painters), len(painters))
    half = len(shown) // 2
    asked = [Question(flower, order[turn % len(order)]) for turn, flower in enumerate(shown[:half])]
    asked += [Question(flower, REAL) for flower in shown[half:]]
    draw.shuffle(asked)
    return asked


@dataclass
class Game:
    """A player's game: answers one question after the other.

    Args:
        exhibition: The flowers.
        seed: Decides the questions; the player's number, so that neighbours see different flowers.
        count: How many questions.
        clock: Tells the time in seconds.

    Attributes:
        asked: The questions.
        answers: Whether the player took each flower for real, as far as he has come.
        seconds: From the first question to the last answer so far.

    Raises:
        ValueError: The player's number is negative, or there is nothing to play with.
    """

    exhibition: Exhibition
    seed: int = 0
    count: int = 20
    clock: Callable[[], float] = time.monotonic
    answers: list[bool] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"a player's number is 0 or more, got {self.seed}")
        self.asked = questions(len(self.exhibition), [*self.exhibition.painted], self.count, self.seed)
        self._began: float | None = None

    @property
    def question(self) -> Question | None:
        """What is asked now; None where the game is over. The clock starts when this is first looked at."""
        if self._began is None:
            self._began = self.clock()
        return self.asked[len(self.answers)] if len(self.answers) < len(self.asked) else None

    def answer(self, takes_for_real: bool) -> bool:
        """Answers the question.

        Args:
            takes_for_real: Whether the player takes the flower for a photograph.

        Returns:
            Whether he is right.

        Raises:
            ValueError: The game is over.
        """
        question = self.question
        if question is None or self._began is None:
            raise ValueError("the game is over: all questions are answered")
        self.answers.append(takes_for_real)
        self.seconds = self.clock() - self._began
        return takes_for_real == question.is_real

    @property
    def score(self) -> int:
        """How many answers are right."""
        return sum(said == question.is_real for said, question in zip(self.answers, self.asked, strict=False))

    def code(self) -> str:
        """The answers in a line that can be pasted: number, questions, seconds, answers, and a check against typos."""
        bits = sum(said << place for place, said in enumerate(self.answers))
        body = f"{self.seed}-{len(self.asked)}-{len(self.answers)}-{self.seconds:.0f}-{bits:x}"
        return f"{body}-{_check(body, self.exhibition)}"

    @classmethod
    def from_code(cls, code: str, exhibition: Exhibition) -> "Game":
        """A game from what `code` gave.

        Args:
            code: The line.
            exhibition: The flowers that were shown.

        Returns:
            The game, with its answers.

        Raises:
            ValueError: It is no code, has a typo, or is of other flowers.
        """
        body, _, check = code.strip().lower().rpartition("-")
        parts = body.split("-")
        if len(parts) != 5 or check != _check(body, exhibition):
            raise ValueError("it is no code, has a typo, or is of a game with other flowers")
        seed, count, answered, seconds, bits = (int(part, 16 if place == 4 else 10) for place, part in enumerate(parts))
        answers = [bool(bits >> place & 1) for place in range(answered)]
        return cls(exhibition, seed, count, answers=answers, seconds=float(seconds))


def _check(body: str, exhibition: Exhibition) -> str:
    """Four digits that depend on a code and on which flowers were shown by whom."""
    shown = f"{body} {len(exhibition)} {sorted(exhibition.painted)}".encode()
    return f"{zlib.crc32(exhibition.real.tobytes(), zlib.crc32(shown)) & 0xFFFF:04x}"


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class Fooled:
    """How often flowers of one kind were taken for real.

    Attributes:
        painter: Who painted them; `REAL` for the photographs.
        taken: How many were taken for real.
        shown: Of how many.
    """

    painter: str
    taken: int
    shown: int

    @property
    def interval(self) -> tuple[float, float]:
        """The share's 95 % confidence interval (Wilson's), in [0, 1]."""
        return wilson_interval(self.taken, self.shown)


def fooled(games: Iterable[Game]) -> list[Fooled]:
    """How often each painter fooled people, over one game or many.

    Args:
        games: The games, of one exhibition.

    Returns:
        A line for each painter that was shown, the most successful first; last the photographs.
    """
    counts: dict[str, list[int]] = {}
    for game in games:
        for said, question in zip(game.answers, game.asked, strict=False):
            line = counts.setdefault(question.painter, [0, 0])
            line[0] += said
            line[1] += 1
    lines = [Fooled(painter, *line) for painter, line in counts.items()]
    return sorted(lines, key=lambda line: (line.painter == REAL, -line.taken / line.shown, line.painter))


def combined(codes: str, exhibition: Exhibition) -> tuple[list[Game], list[str]]:
    """A class's games from the codes that its pupils wrote down or sent.

    Args:
        codes: One a line, or with blanks or commas between them; a code that stands there twice counts once.
        exhibition: The flowers that were shown.

    Returns:
        The games, and a line for each code that cannot be used.
    """
    games, problems = [], []
    for code in dict.fromkeys(codes.replace(",", " ").lower().split()):
        try:
            games.append(Game.from_code(code, exhibition))
        except ValueError as error:
            problems.append(f"{code}: {error}")
    return games, problems


def format_fooled(lines: Sequence[Fooled], machine: Mapping[str, Realism] | None = None) -> str:
    """The outcome as a Markdown table.

    Args:
        lines: What `fooled` gives.
        machine: What `Exhibition.machine` gives, for one more column; painters whom nobody has seen yet are there, too.

    Returns:
        The table.
    """
    machine = machine or {}
    rows = ["| painted by | taken for real | share (95 % interval) |", "|---|---|---|"]
    if machine:
        rows = [f"{rows[0]} a machine is right |", f"{rows[1]}---|"]
    for line in lines:
        low, high = (100 * border for border in line.interval)
        share = f"{100 * line.taken / line.shown:.0f} % ({low:.0f}–{high:.0f})"
        row = f"| {line.painter} | {line.taken} of {line.shown} | {share} |"
        rows.append(row + (f" {machine.get(line.painter, '–')} |" if machine else ""))
    unseen = [name for name in machine if name not in {line.painter for line in lines}]
    rows += [f"| {name} | – | – | {machine[name]} |" for name in unseen]
    return "\n".join(rows)


# ---------------------------------------------------------------- the game with buttons


def game_panel(game: Game) -> "ipywidgets.VBox":
    """The game with two buttons and a field that takes the keys r (real) and p (painted).

    Args:
        game: The game, which may have been begun.

    Returns:
        The widget; `game` has the answers.
    """
    import ipywidgets

    picture = ipywidgets.Image(format="png", width=SHOWN, height=SHOWN)
    large = ipywidgets.Layout(width="190px", height="48px")
    real = ipywidgets.Button(description="real (r)", layout=large)
    painted = ipywidgets.Button(description="painted (p)", layout=large)
    keys = ipywidgets.Text(placeholder="click here: keys r and p", layout=ipywidgets.Layout(width="190px"))
    status = ipywidgets.HTML()

    def show(said: str = "") -> None:
        question = game.question
        if question is None:
            picture.layout.display = "none"
            for control in (real, painted, keys):
                control.disabled = True
            lines = html.escape(format_fooled(fooled([game])))
            status.value = (
                f'<div style="font-size:20px;line-height:1.5">{said} {game.score} of {len(game.asked)} right in '
                f"{game.seconds:.0f} seconds.<br>Your code: <b>{game.code()}</b></div><pre>{lines}</pre>"
            )
            return
        buffer = io.BytesIO()
        game.exhibition.picture(question).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC).save(buffer, "PNG")
        picture.value = buffer.getvalue()
        number = len(game.answers) + 1
        status.value = f'<div style="font-size:20px;line-height:1.5">{said} Flower {number} of {len(game.asked)}</div>'

    def answer(takes_for_real: bool) -> None:
        question = game.question
        if question is None:
            return
        right = game.answer(takes_for_real)
        truth = "a photograph" if question.is_real else f"by {html.escape(question.painter)}"
        show(f"{'Right' if right else 'Wrong'}: that was {truth}.")

    def type_key(change: Mapping[str, str]) -> None:
        typed = change["new"].strip().lower()
        if change["new"]:
            keys.value = ""
        if typed[-1:] in KEYS and typed:
            answer(KEYS[typed[-1]])

    real.on_click(lambda _: answer(True))
    painted.on_click(lambda _: answer(False))
    keys.observe(type_key, names="value")
    show()
    return ipywidgets.VBox([picture, ipywidgets.HBox([real, painted, keys]), status])
