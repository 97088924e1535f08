"""The submission's question, which of its models colours best: recipes at the same scale, on one scoreboard.

Each recipe is trained once for each seed, at one scale and on the same pictures, and every run is scored on the same
test pictures; what is reported is the mean over seeds and how far they lie apart. The submission's three then differ in
nothing but their idea; `distribution` keeps what it has against learning by heart.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from colorize_utils.checkpoints import load_generator
from colorize_utils.errors import TrainingError
from colorize_utils.inference import Colorizer
from colorize_utils.metrics import Predictor, Score, scoreboard
from colorize_utils.recipes import Recipe


def alike(recipe: Recipe, **scale: Any) -> Recipe:
    """A recipe at the scale of a comparison: `scale` replaces its fields of that name. The learning rate falls to 0,
    because a short run ends in the middle of things otherwise, and a critic takes two batches' worth of pictures."""
    changed = replace(recipe, decay=True, **scale)
    return replace(changed, critic_batch_size=2 * changed.batch_size) if recipe.adversary == "critic" else changed


@dataclass(frozen=True)
class Compared:
    """A line of the comparison: means over `seeds` runs, and the spread, half of what lies between the lowest and the
    highest of them, by the fields of `Score`. seconds: of training, a run's mean; None for what is not trained."""

    name: str
    seeds: int
    means: dict[str, float]
    spreads: dict[str, float]
    seconds: float | None


@dataclass(frozen=True)
class Run:
    """A run's folder, and the seconds that its training took."""

    folder: Path
    seconds: float


def require_run_of(recipe: Recipe, folder: Path) -> None:
    """Raises TrainingError where `folder` holds a run of another recipe, be it by its learning rate alone."""
    if not (folder / "last.safetensors").is_file():
        return
    stored = Recipe.from_dict(load_generator(folder / "last.safetensors").metadata["recipe"])
    if stored != recipe:
        ours, theirs = recipe.as_dict(), stored.as_dict()
        changes = ", ".join(
            f"{name} {theirs[name]!r} not {ours[name]!r}" for name in ours if ours[name] != theirs[name]
        )
        raise TrainingError(f"{folder} holds another run ({changes}); choose another --output")


def compare(
    runs: Mapping[str, Sequence[Run]],
    baselines: Mapping[str, Predictor],
    test: Iterable[tuple[Tensor, Tensor]],
    device: str | None = None,
    progress: bool = False,
) -> list[Compared]:
    """Scores the best checkpoint of each of a recipe's runs, as it was trained and with luminance kept.

    runs: of every recipe, by its name. baselines: what else is scored on the same pictures.
    """
    predictors, seconds = dict(baselines), {}
    groups: dict[str, list[str]] = {name: [name] for name in baselines}
    for recipe, some in runs.items():
        for run in some:
            colorizer = Colorizer.from_checkpoint(run.folder / "best.safetensors", device)
            for label, predictor in _ways(recipe, colorizer):
                key = f"{label} {run.folder}"
                predictors[key] = predictor
                groups.setdefault(label, []).append(key)
                seconds[key] = run.seconds
    scores = {score.name: score for score in scoreboard(predictors, test, progress)}
    return [_compared(label, [scores[key] for key in keys], seconds) for label, keys in groups.items()]


def _ways(recipe: str, colorizer: Colorizer) -> Iterator[tuple[str, Predictor]]:
    if colorizer.has_distribution:
        for style in colorizer.styles:
            yield f"{recipe}, {style}", colorizer.predictor(style=style)
    else:
        yield recipe, colorizer.predictor(keep_luminance=False)
        yield f"{recipe}, luminance kept", colorizer.predictor()


def _compared(label: str, scores: list[Score], seconds: Mapping[str, float]) -> Compared:
    fields = [field for field in asdict(scores[0]) if field not in ("name", "pictures")]
    values = {field: [getattr(score, field) for score in scores] for field in fields}
    trained = [seconds[score.name] for score in scores if score.name in seconds]
    return Compared(
        label,
        len(scores),
        {field: sum(numbers) / len(numbers) for field, numbers in values.items()},
        {field: (max(numbers) - min(numbers)) / 2 for field, numbers in values.items()},
        sum(trained) / len(trained) if trained else None,
    )


def format_comparison(lines: Sequence[Compared]) -> str:
    """The comparison as a Markdown table; ± is the spread."""
    columns = [
        ("PSNR dB", "psnr", ".2f"),
        ("SSIM", "ssim", ".3f"),
        ("MAE", "mae", ".4f"),
        ("MSE", "mse", ".4f"),
        ("CIEDE2000", "ciede2000", ".2f"),
        ("colourfulness ratio", "colourfulness_ratio", ".2f"),
    ]
    titles = ["prediction", *(title for title, _, _ in columns), "training s", "ms a picture"]
    table = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for line in lines:
        cells = [line.name]
        for _, field, form in columns:
            spread = f" ± {line.spreads[field]:{form}}" if line.seeds > 1 else ""
            cells.append(f"{line.means[field]:{form}}{spread}")
        cells.append("" if line.seconds is None else f"{line.seconds:.0f}")
        cells.append(f"{line.means['milliseconds']:.1f}")
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)
