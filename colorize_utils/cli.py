"""The command line: colorize pictures, train a recipe, evaluate checkpoints.

    python -m colorize_utils photo.jpg            → photo-colorized.jpg
    python -m colorize_utils photos/ -o colour/   → the same names in colour/
    python -m colorize_utils train gan-l1 …
    python -m colorize_utils evaluate …
    python -m colorize_utils compare …
    python -m colorize_utils release NAME CHECKPOINT

Results go to standard output, errors to standard error, one line each. Exit status: 0 all done, 1 something failed,
2 the command was not understood, 130 interrupted. Heavy libraries are imported where they are first needed, so that
`--help` answers at once.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from colorize_utils import __version__
from colorize_utils.errors import ColorizeError
from colorize_utils.recipes import RECIPES, Recipe

RECIPE_HELP = {
    "epochs": "passes over the training pictures",
    "size": "training pictures are size×size",
    "width": "scales every layer; 1 is the original network",
    "batch_size": "pictures a step",
    "learning_rate": "Adam's, of both networks",
    "lambda_rec": "weight of the reconstruction loss",
    "lambda_adv": "weight of the adversarial loss",
    "lambda_dist": "weight of the distribution's cross-entropy (distribution)",
    "n_critic": "critic updates a generator update (wgan)",
    "critic_batch_size": "random pictures a critic update (wgan)",
    "lambda_gp": "weight of the gradient penalty (wgan)",
    "discriminator_sigmoid": "the submission's sigmoid before BCEWithLogits",
    "bounded": "end the generator in a sigmoid",
    "keep_luminance": "learn chroma alone, on the luminance that is given",
    "decay": "let the learning rate fall to 0 over the second half",
    "flip": "mirror about half of the training pictures",
    "augment": "turn, scale, shift and light the training pictures otherwise",
    "dropout": "share of features dropped (U-Nets)",
    "average": "decay of the moving average of weights that is kept; 0 keeps the weights themselves",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (default: this process's) and returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"train": _train, "evaluate": _evaluate, "compare": _compare, "release": _release}
    try:
        if arguments and arguments[0] in commands:
            return commands[arguments[0]](arguments[1:])
        return _colorize(arguments)
    except ColorizeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


# ---------------------------------------------------------------- colorize


def _colorize(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m colorize_utils",
        description="Colorize gray pictures: a file, several, or whole folders.",
        epilog="Other commands: 'train RECIPE', 'evaluate', 'compare' and 'release'; each has a --help. "
        "A picture called train: ./train.",
    )
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="a picture, or a folder of pictures")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="the file to write, or the folder where a folder or several pictures were given; its suffix is the format "
        "(default: NAME-colorized beside the original, in the original's format)",
    )
    parser.add_argument("--model", help="a checkpoint's name (--list-models) or file (default: the bundled one)")
    parser.add_argument("--list-models", action="store_true", help="list the checkpoints that have a name, and stop")
    parser.add_argument("--sample", action="store_true", help="colorize a photograph that comes with scikit-learn")
    parser.add_argument("--strength", type=float, default=1.0, help="0 leaves gray, 1 is the model's chroma (default)")
    parser.add_argument(
        "--style",
        choices=("safe", "vivid"),
        help="safe (default): the mean of what is possible; vivid: stronger colours; for models that have both",
    )
    parser.add_argument("--raw", action="store_true", help="the network's own output, luminance included")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist (never originals)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    parser.add_argument("--int8", action="store_true", help="8-bit arithmetic: quicker on a CPU (needs the extra int8)")
    parser.add_argument("--quiet", action="store_true", help="no progress, no names of written files")
    parser.add_argument("--version", action="version", version=f"colorize_utils {__version__}")
    options = parser.parse_args(arguments)
    if options.list_models:
        return _list_models()
    if not (options.pictures or options.sample):
        parser.error("give a picture or a folder (or --sample, to see one colorized)")
    if options.sample and options.pictures:
        parser.error("--sample takes no pictures")
    if not 0 <= options.strength <= 4:
        parser.error(f"--strength must lie in 0 … 4, got {options.strength:g}")

    from colorize_utils.checkpoints import DEFAULT
    from colorize_utils.folders import colorize_files
    from colorize_utils.inference import Colorizer

    progress = not options.quiet
    colorizer = Colorizer.from_checkpoint(options.model or DEFAULT, options.device, progress, int8=options.int8)
    if options.style not in (None, *colorizer.styles):
        parser.error(f"{colorizer.name} has no style {options.style}: it names a single colour; --strength is for it")
    report = colorize_files(
        colorizer,
        options.pictures or [_sample()],
        options.output,
        overwrite=options.overwrite,
        progress=progress,
        keep_luminance=not options.raw,
        strength=options.strength,
        style=options.style,
    )
    for line in report.failed:
        print(f"error: {line}", file=sys.stderr)
    if len(report.written) == 1 and not options.quiet:
        print(report.written[0])
    elif not options.quiet and (report.written or report.skipped):
        print(f"{len(report.written)} colorized, {len(report.skipped)} already there, {len(report.failed)} failed")
    return 1 if report.failed else 0


def _sample() -> Path:
    """The sample photograph, gray, as a file in the working folder; left as it is where it exists."""
    from colorize_utils.data import sample_photograph
    from colorize_utils.pictures import save_picture

    path = Path("sample-flower.png")
    if not path.exists():
        save_picture(sample_photograph(), path)
    return path


def _at_least(least: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `least` up."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, got {value}")
        return value

    return number


def _list_models() -> int:
    from colorize_utils.checkpoints import CATALOGUE, DEFAULT

    for entry in CATALOGUE.values():
        default = " (default)" if entry.name == DEFAULT else ""
        print(f"{entry.name}{default}: {entry.note}; {entry.architecture}, width {entry.width:g}, ", end="")
        print(f"{entry.size}×{entry.size}; licence: {entry.licence}")
    return 0


# ---------------------------------------------------------------- train


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        help="a folder that holds flowers-102/, a folder of pictures, or 'generated' "
        "(default: $COLORIZE_DATA, else Flowers-102 is downloaded)",
    )
    parser.add_argument("--count", type=_at_least(10), default=200, help="how many generated flowers (default: 200)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of every random choice (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _train(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m colorize_utils train",
        description="Train a recipe. The run lives in a folder: best and last checkpoint, curves, and what it takes to "
        "go on after it was stopped.",
    )
    parser.add_argument("recipe", choices=sorted(RECIPES), help="one of the submission's models, or the one beyond")
    _add_data_options(parser)
    parser.add_argument("--pool", action="store_true", help="deal training and validation split again, nine to one")
    parser.add_argument("--extra", type=Path, help="a folder of more training pictures; a fifth of them stays out")
    parser.add_argument("--drop-gray", action="store_true", help="leave pictures without colour out of training")
    parser.add_argument("--crop", action="store_true", help="crop the middle square; the default squashes to a square")
    parser.add_argument("-o", "--output", type=Path, help="the run's folder (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on where the run in that folder stopped")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="default: auto, by the device"
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks: for long runs on a GPU")
    parser.add_argument("--save-minutes", type=float, default=5.0, help="minutes between saves (default: 5)")
    group = parser.add_argument_group("recipe", "each replaces the recipe's own value")
    for field in fields(Recipe):
        if field.name in RECIPE_HELP:
            flag = "--" + field.name.replace("_", "-")
            if field.type is bool or isinstance(field.default, bool):
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=RECIPE_HELP[field.name])
            else:
                group.add_argument(flag, type=type(field.default), help=RECIPE_HELP[field.name])
    options = parser.parse_args(arguments)
    changes = {name: getattr(options, name) for name in RECIPE_HELP if getattr(options, name) is not None}
    try:
        recipe = replace(RECIPES[options.recipe], **changes)
    except ValueError as error:
        parser.error(str(error))

    from colorize_utils.data import load_splits
    from colorize_utils.plots import plot_history, save_figure
    from colorize_utils.training import train

    splits = load_splits(
        options.data,
        recipe.size,
        pool=options.pool,
        extra=options.extra,
        drop_gray=options.drop_gray,
        crop=options.crop,
        seed=options.seed,
        count=options.count,
        progress=not options.quiet,
    )
    sizes = f"{len(splits.train)} training, {len(splits.val)} validation pictures, {len(splits.skipped)} left out"
    print(f"{recipe.name} at {recipe.size}×{recipe.size}, width {recipe.width:g}: {sizes}", flush=True)
    folder = options.output or Path("runs") / recipe.name

    def report(epoch: int, history: dict, _) -> None:
        latest = {curve: values[-1] for curve, values in history.items()}
        rival = "" if recipe.adversary == "none" else f"discriminator {latest['discriminator_loss']:.4f}  "
        print(
            f"epoch {epoch}/{recipe.epochs}  {rival}generator {latest['generator_loss']:.4f}  "
            f"validation {latest['validation_loss']:.5f}  PSNR {latest['psnr']:.2f} dB  SSIM {latest['ssim']:.3f}  "
            f"{latest['seconds']:.1f} s",
            flush=True,
        )

    history = train(
        recipe,
        splits,
        folder,
        resume=options.resume,
        device=options.device,
        precision=options.precision,
        seed=options.seed,
        save_minutes=options.save_minutes,
        compile=options.compile,
        progress=not options.quiet,
        on_epoch=report,
    )
    save_figure(plot_history(history, title=recipe.name), folder / "curves.png")
    print(f"best checkpoint: {folder / 'best.safetensors'}; curves: {folder / 'curves.png'}")
    return 0


# ---------------------------------------------------------------- evaluate


def _evaluate(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m colorize_utils evaluate",
        description="Score checkpoints, as people use them, beside the trivial answers, all on the same pictures.",
    )
    parser.add_argument("models", nargs="*", help="checkpoints, by name or file (default: the bundled one)")
    _add_data_options(parser)
    parser.add_argument("--split", default="test", choices=("val", "test"), help="which pictures (default: test)")
    parser.add_argument("--size", type=_at_least(11), default=64, help="pictures are scored at size×size (default: 64)")
    parser.add_argument("--limit", type=_at_least(1), help="score the first LIMIT pictures alone")
    parser.add_argument("--raw", action="store_true", help="the networks' own output, luminance included")
    parser.add_argument("--int8", action="store_true", help="8-bit arithmetic: quicker on a CPU (needs the extra int8)")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    parser.add_argument(
        "--report",
        type=Path,
        help="also write a page about the (first) model into this folder: examples, failures, colours, species",
    )
    options = parser.parse_args(arguments)

    from colorize_utils.checkpoints import DEFAULT
    from colorize_utils.data import load_splits, make_loader, species_names
    from colorize_utils.files import written_whole
    from colorize_utils.inference import Colorizer
    from colorize_utils.metrics import format_scores, gray_floor, mean_chroma_floor, scoreboard

    if options.report:
        options.report.mkdir(parents=True, exist_ok=True)  # what cannot be written is told now
    progress = not options.quiet
    models = options.models or [DEFAULT]
    colorizers = {
        model: Colorizer.from_checkpoint(model, options.device, progress, int8=options.int8) for model in models
    }
    splits = load_splits(options.data, options.size, seed=options.seed, count=options.count, progress=progress)
    dataset = getattr(splits, options.split)
    if options.limit is not None:
        dataset = dataset.head(options.limit)
    predictors = {"gray": gray_floor, "gray + mean chroma": mean_chroma_floor(make_loader(splits.train, 64))}
    for model, colorizer in colorizers.items():
        for style in colorizer.styles:
            name = f"{model}, {style}" if len(colorizer.styles) > 1 else model
            predictors[name] = colorizer.predictor(keep_luminance=not options.raw, style=style)
    scores = scoreboard(predictors, make_loader(dataset, 64), progress)
    print(f"{len(dataset)} pictures of the {options.split} split at {options.size}×{options.size}\n")
    print(format_scores(scores))
    if options.json:
        with written_whole(options.json) as temporary:
            temporary.write_text(json.dumps([asdict(score) for score in scores], indent=2), encoding="utf-8")
    if options.report:
        colorizer = colorizers[models[0]]
        ordered = sorted(colorizer.styles, key=lambda style: style != colorizer.default_style)
        styles = {style: colorizer.predictor(not options.raw, style) for style in ordered}
        if len(styles) == 1:
            styles = {"generated": styles["safe"]}
        from colorize_utils.report import report  # and with it matplotlib

        names = species_names(options.data)
        title = f"{colorizer.name}: {options.split} split, {options.size}×{options.size}" + ", raw" * options.raw
        paths = report(options.report, title, dataset, styles, names.get, options.seed, progress)
        print(f"\nreport: {paths[-1]}")
    return 0


# ---------------------------------------------------------------- compare


def _compare(arguments: list[str]) -> int:
    names = sorted(RECIPES)
    parser = argparse.ArgumentParser(
        prog="python -m colorize_utils compare",
        description="Train recipes at the same scale, once for each seed, and score them on the same test pictures. "
        "Runs that are there already are used, and go on where they stopped.",
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="which (default: gan-l1 gan-mse wgan)")
    _add_data_options(parser)
    parser.add_argument("--seeds", type=_at_least(1), default=3, help="runs of each, from --seed on (default: 3)")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/compare"), help="(default: runs/compare)")
    scale = {"size": 64, "width": 0.25, "batch_size": 8, "epochs": 10, "learning_rate": 1e-3}
    for name, value in scale.items():
        help = f"{RECIPE_HELP[name]} (default: {value:g})"
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, help=help)
    parser.add_argument("--limit", type=_at_least(1), help="score LIMIT test pictures alone, chosen by a seed")
    options = parser.parse_args(arguments)
    chosen = list(dict.fromkeys(options.recipes)) or ["gan-l1", "gan-mse", "wgan"]
    if unknown := [name for name in chosen if name not in RECIPES]:
        parser.error(f"no recipe {unknown[0]!r}; there are {', '.join(names)}")

    from colorize_utils.comparison import Run, alike, compare, format_comparison, require_run_of
    from colorize_utils.data import load_splits, make_loader
    from colorize_utils.metrics import gray_floor, mean_chroma_floor
    from colorize_utils.training import train

    try:
        recipes = [alike(RECIPES[name], **{field: getattr(options, field) for field in scale}) for name in chosen]
    except ValueError as error:
        parser.error(str(error))
    progress = not options.quiet
    splits = load_splits(options.data, options.size, count=options.count, progress=progress)
    runs: dict[str, list[Run]] = {}
    for seed in range(options.seed, options.seed + options.seeds):
        for recipe in recipes:
            folder = options.output / f"{recipe.name}-{seed}"
            require_run_of(recipe, folder)
            history = train(
                recipe, splits, folder, resume=True, device=options.device, seed=seed, save_minutes=1, progress=progress
            )
            run = Run(folder, sum(history["seconds"]))
            print(f"{folder}: validation PSNR {max(history['psnr']):.2f} dB, {run.seconds:.0f} s", flush=True)
            runs.setdefault(recipe.name, []).append(run)
    test = splits.test.sample(options.limit)
    floors = {"gray": gray_floor, "gray + mean chroma": mean_chroma_floor(make_loader(splits.train, 64))}
    lines = compare(runs, floors, make_loader(test, 64), options.device, progress)
    shape = f"{options.size}×{options.size}, width {options.width:g}, {options.epochs} epochs"
    print(f"\n{len(test)} test pictures; {shape}; ± is half of what lies between the {options.seeds} seeds' extremes\n")
    print(format_comparison(lines))
    return 0


# ---------------------------------------------------------------- release


def _release(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m colorize_utils release",
        description="Make a run's checkpoint ready to be handed out: write the file, and print its entry for the "
        "catalogue in checkpoints.py.",
    )
    parser.add_argument("name", help="the checkpoint's name in the catalogue")
    parser.add_argument("checkpoint", help="a run's best.safetensors or last.safetensors")
    parser.add_argument("-o", "--output", type=Path, default=Path("dist/weights"), help="(default: dist/weights)")
    parser.add_argument("--exact", action="store_true", help="keep 32 bits a weight; the default is 16")
    options = parser.parse_args(arguments)

    from colorize_utils.checkpoints import release

    entry = release(options.checkpoint, options.name, options.output, half=not options.exact)
    print(f"# {options.output / entry.name}{entry.suffix}")
    print("CatalogueEntry(")
    for field in fields(entry):
        value = getattr(entry, field.name)
        if value != field.default:
            print(f"    {field.name}={value!r},")
    print("),")
    return 0
