"""`compare`: recipes trained at the same scale, with several seeds."""

import argparse
from pathlib import Path

from colorize_utils.cli.options import RECIPE_HELP, add_data_options, at_least
from colorize_utils.recipes import RECIPES

DESCRIPTION = (
    "Train recipes at the same scale, once for each seed, and score them on the same test pictures. "
    "Runs that exist already are used; unfinished ones go on where they stopped."
)
SCALE = {"size": 64, "width": 0.25, "batch_size": 8, "epochs": 10, "learning_rate": 1e-3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `compare` to its parser."""
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="which (default: gan-l1 gan-mse wgan)")
    add_data_options(parser)
    parser.add_argument("--seeds", type=at_least(1), default=3, help="runs of each, from --seed on (default: 3)")
    parser.add_argument(
        "--switches",
        nargs="+",
        default=[],
        metavar="NAME",
        help="also train each recipe with one thing changed: no-adversary, no-sigmoid, keep-luminance or bounded",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/compare"), help="(default: runs/compare)")
    for name, value in SCALE.items():
        text = f"{RECIPE_HELP[name]} (default: {value:g})"
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, help=text)
    parser.add_argument("--limit", type=at_least(1), help="score LIMIT test pictures alone, chosen by a seed")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Trains and scores the recipes that are to be compared, and prints a table; returns the exit status."""
    chosen = list(dict.fromkeys(options.recipes)) or ["gan-l1", "gan-mse", "wgan"]
    if unknown := [name for name in chosen if name not in RECIPES]:
        parser.error(f"no recipe {unknown[0]!r}; there are {', '.join(sorted(RECIPES))}")

    from colorize_utils.data import load_splits, make_loader
    from colorize_utils.evaluation.comparison import SWITCHES, Run, alike, compare, format_comparison, require_run_of
    from colorize_utils.evaluation.realism import LEAST
    from colorize_utils.metrics import gray_baseline, mean_chroma_baseline
    from colorize_utils.training import Interrupted, train

    if unknown := [name for name in options.switches if name not in SWITCHES]:
        parser.error(f"no switch {unknown[0]!r}; there are {', '.join(SWITCHES)}")
    try:
        recipes = {}
        for name in chosen:
            recipes[name] = alike(RECIPES[name], **{field: getattr(options, field) for field in SCALE})
            for switch in options.switches:
                recipes[f"{name}-{switch}"] = recipes[name].with_options(**SWITCHES[switch])
    except ValueError as error:
        parser.error(str(error))
    progress = not options.quiet
    splits = load_splits(options.data, options.size, count=options.count, progress=progress)
    runs: dict[str, list[Run]] = {}
    for seed in range(options.seed, options.seed + options.seeds):
        for name, recipe in recipes.items():
            folder = options.output / f"{name}-{seed}"
            require_run_of(recipe, folder)
            try:
                history = train(
                    recipe,
                    splits,
                    folder,
                    resume=True,
                    device=options.device,
                    seed=seed,
                    save_minutes=1,
                    progress=progress,
                )
            except Interrupted as stop:  # `compare` has no --resume: it always goes on
                raise Interrupted(stop.kept, "give the same command again") from None
            run = Run(folder, sum(history["seconds"]))
            print(f"{folder}: validation PSNR {max(history['psnr']):.2f} dB, {run.seconds:.0f} s", flush=True)
            runs.setdefault(name, []).append(run)
    test = splits.test.sample(options.limit)
    baselines = {"gray": gray_baseline, "gray + mean chroma": mean_chroma_baseline(make_loader(splits.train, 64))}
    lines = compare(runs, baselines, make_loader(test, 64), options.device, progress)
    shape = f"{options.size}×{options.size}, width {options.width:g}, {options.epochs} epochs"
    print(f"\n{len(test)} test pictures; {shape}; ± is half of the range over the {options.seeds} seeds\n")
    print(format_comparison(lines))
    if "realism" not in lines[0].means:
        print(f"\nrealism: too few pictures, it takes {LEAST}")
    return 0
