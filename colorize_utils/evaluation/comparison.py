"""The submission's question, which of its models colours best: recipes at the same scale, on one scoreboard.

Each recipe is trained once for each seed, at one scale and on the same pictures, and every run is scored on the same
test pictures; the results are the mean over seeds and the spread. The submission's three recipes then differ in nothing
but their idea; `distribution` keeps its own means against overfitting, such as augmentation and dropout.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from colorize_utils.checkpoints import load_generator
from colorize_utils.errors import TrainingError
from colorize_utils.evaluation.realism import Gallery
from colorize_utils.inference import Colorizer
from colorize_utils.metrics import Predictor, scoreboard
from colorize_utils.recipes import Recipe

SWITCHES: dict[str, dict[str, Any]] = {
    "no-adversary": {"lambda_adv": 0.0},
    "no-sigmoid": {"discriminator_sigmoid": False},
    "keep-luminance": {"keep_luminance": True},
    "bounded": {"bounded": True},
}
"""What can be changed of a recipe, each alone: flaws of the submission mended, and its adversary left out."""


def alike(recipe: Recipe, **scale: Any) -> Recipe:
    """A recipe at the scale of a comparison.

    Its learning rate falls to 0, because a short run would otherwise end at full steps, before it has settled. A
    critic's batch is twice the generator's.

    Args:
        recipe: The recipe.
        scale: New values, by field.

    Returns:
        The variant.

    Raises:
        ValueError: An option would have no effect, or a value is out of its range.
    """
    changed = replace(recipe, decay=True, **scale)
    return replace(changed, critic_batch_size=2 * changed.batch_size) if recipe.adversary == "critic" else changed


@dataclass(frozen=True)
class Compared:
    """A line of the comparison.

    Attributes:
        name: The recipe and how its predictions are made, or the baseline.
        seeds: How many runs were scored, one for each seed; 1 for a baseline.
        means: Field of `Score`, or "realism", the accuracy of a classifier (realism.py) → mean over the runs. Realism
            is missing where the pictures are too few for it.
        spreads: The same → half of the difference between the highest and the lowest run.
        seconds: Of training, the mean over the runs; None for a baseline, which is not trained.
    """

    name: str
    seeds: int
    means: dict[str, float]
    spreads: dict[str, float]
    seconds: float | None


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        folder: Where it lies.
        seconds: How long its training took.
    """

    folder: Path
    seconds: float


def require_run_of(recipe: Recipe, folder: Path) -> None:
    """Refuses a folder that holds a run of another recipe, even where only one field differs.

    Args:
        recipe: The recipe that is to be trained there.
        folder: The run's folder; one without a run is accepted.

    Raises:
        TrainingError: The folder holds a run of another recipe.
        CheckpointError: Its checkpoint cannot be read.
    """
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
    """Scores the best checkpoint of every run, and the baselines, on the same pictures.

    A recipe that predicts a distribution has a line for each style, any other one line as it was trained and one with
    luminance kept.

    Args:
        runs: Of each recipe, by its name.
        baselines: Predictors that are scored beside them, by name.
        test: Batches (colour (B, 3, H, W), gray (B, 1, H, W)) in [0, 1]; read once.
        device: The networks' device, such as "cpu"; None chooses the fastest.
        progress: Shows a progress bar.

    Returns:
        The lines, baselines first.

    Raises:
        CheckpointError: A run has no checkpoint that can be read.
        DeviceError: This machine does not have the device.
        ValueError: There are no pictures.
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
    gallery = Gallery()
    scores = {score.name: asdict(score) for score in scoreboard(predictors, test, progress, gallery.add)}
    for name in tqdm(scores, "realism", unit="predictor", disable=not progress):
        if (realism := gallery.realism(name)) is not None:
            scores[name]["realism"] = realism.accuracy
    return [_compared(label, [scores[key] for key in keys], seconds) for label, keys in groups.items()]


def _ways(recipe: str, colorizer: Colorizer) -> Iterator[tuple[str, Predictor]]:
    if colorizer.has_distribution:
        for style in colorizer.styles:
            yield f"{recipe}, {style}", colorizer.predictor(style=style)
    else:
        yield recipe, colorizer.predictor(keep_luminance=False)
        yield f"{recipe}, luminance kept", colorizer.predictor()


def _compared(label: str, scores: list[dict[str, Any]], seconds: Mapping[str, float]) -> Compared:
    fields = [field for field in scores[0] if field not in ("name", "pictures")]
    values = {field: [score[field] for score in scores] for field in fields}
    trained = [seconds[score["name"]] for score in scores if score["name"] in seconds]
    return Compared(
        label,
        len(scores),
        {field: sum(numbers) / len(numbers) for field, numbers in values.items()},
        {field: (max(numbers) - min(numbers)) / 2 for field, numbers in values.items()},
        sum(trained) / len(trained) if trained else None,
    )


def format_comparison(lines: Sequence[Compared]) -> str:
    """The comparison as a Markdown table; ± is the spread, where there are several runs.

    Realism is the share of a classifier's judgements that are right, 50 % of them being perfect.
    """
    columns = [
        ("PSNR dB", "psnr", ".2f"),
        ("SSIM", "ssim", ".3f"),
        ("MAE", "mae", ".4f"),
        ("MSE", "mse", ".4f"),
        ("CIEDE2000", "ciede2000", ".2f"),
        ("colourfulness ratio", "colourfulness_ratio", ".2f"),
        ("realism", "realism", ".0%"),
    ]
    titles = ["prediction", *(title for title, _, _ in columns), "training s", "ms a picture"]
    table = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for line in lines:
        cells = [line.name]
        for _, field, form in columns:
            if field not in line.means:
                cells.append("")
                continue
            spread = f" ± {line.spreads[field]:{form}}" if line.seeds > 1 else ""
            cells.append(f"{line.means[field]:{form}}{spread}")
        cells.append("" if line.seconds is None else f"{line.seconds:.0f}")
        cells.append(f"{line.means['milliseconds']:.1f}")
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)
