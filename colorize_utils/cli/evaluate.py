"""`evaluate`: scores of checkpoints on the same pictures, and a page about one checkpoint."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from colorize_utils.cli.options import add_data_options, add_precision_option, at_least

if TYPE_CHECKING:  # with them torch
    from colorize_utils.data import PairDataset
    from colorize_utils.inference import Colorizer

DESCRIPTION = "Score checkpoints, used as people use them, and the baselines on the same pictures."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `evaluate` to its parser."""
    parser.add_argument(
        "models", nargs="*", help="checkpoints, by name, file or hf://OWNER/NAME (default: the bundled one)"
    )
    add_data_options(parser)
    parser.add_argument("--split", default="test", choices=("val", "test"), help="which pictures (default: test)")
    parser.add_argument("--size", type=at_least(11), default=64, help="pictures are scored at size×size (default: 64)")
    parser.add_argument("--limit", type=at_least(1), help="score LIMIT pictures alone, chosen by --seed")
    parser.add_argument("--crop", action="store_true", help="crop the middle square; the default squashes to a square")
    parser.add_argument("--raw", action="store_true", help="the networks' own output, luminance included")
    parser.add_argument(
        "--realism",
        action="store_true",
        help="also how often a small network, trained on half of the pictures, tells paintings from photographs in the "
        "other half: 50 %% is perfect; takes up to a minute for each line",
    )
    parser.add_argument(
        "--degraded",
        action="store_true",
        help="also what becomes of the colours where pictures are degraded to old prints, drawn by --seed",
    )
    add_precision_option(parser)
    group = parser.add_argument_group("instead of scores, of one model")
    group.add_argument(
        "--hints", type=_counts, metavar="N,N,…", help="what so many true hints are worth, such as 0,1,2,5,10,20,50"
    )
    group.add_argument("--answers", type=at_least(2), metavar="N", help="what the best of N answers is worth")
    group.add_argument("--uncertainty", action="store_true", help="whether it is wrong where it says that it guesses")
    group.add_argument(
        "--calibration", type=Path, metavar="FIGURE", help="how often the colours were there that it believes likely"
    )
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    parser.add_argument(
        "--report",
        type=Path,
        help="also write a page about the (first) model into this folder: examples, failures, colours, species",
    )


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 0:
        raise ValueError
    return counts


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Scores checkpoints, and prints a table; returns the exit status."""
    from colorize_utils.checkpoints import DEFAULT
    from colorize_utils.data import load_splits, make_loader, species_names
    from colorize_utils.evaluation.prints import format_prints, score_prints
    from colorize_utils.evaluation.provenance import read_record, remarks, require_unseen
    from colorize_utils.evaluation.realism import LEAST, Gallery
    from colorize_utils.files import atomic_write
    from colorize_utils.inference import Colorizer
    from colorize_utils.machine import keep_freed_memory
    from colorize_utils.metrics import format_scores, gray_baseline, mean_chroma_baseline, scoreboard

    if options.report or options.degraded:
        from colorize_utils.evaluation.report import remembering, write_report  # and with them matplotlib
    if options.report:
        options.report.mkdir(parents=True, exist_ok=True)  # fails now rather than after the scoring
    progress = not options.quiet
    models = options.models or [DEFAULT]
    where = options.device, progress
    colorizers = {model: Colorizer.from_checkpoint(model, *where, precision=options.precision) for model in models}
    if any(str(colorizer.device) == "cpu" for colorizer in colorizers.values()):
        keep_freed_memory()
    records = {model: read_record(model) for model in models}
    how = {"crop": options.crop, "seed": options.seed, "count": options.count, "progress": progress}
    splits = load_splits(options.data, options.size, **how)
    require_unseen(records, splits, options.split)
    dataset = getattr(splits, options.split).sample(options.limit, options.seed)
    if options.hints or options.answers or options.uncertainty or options.calibration:
        if len(models) > 1:
            parser.error("--hints, --answers, --uncertainty and --calibration are about one model; give one")
        if options.realism or options.degraded:
            parser.error("--realism and --degraded belong to the scores: give them without what is instead of scores")
        return _evaluate_choices(colorizers[models[0]], dataset, options)
    predictors = {"gray": gray_baseline, "gray + mean chroma": mean_chroma_baseline(make_loader(splits.train, 64))}
    first, shown = colorizers[models[0]], {}
    for model, colorizer in colorizers.items():
        for style in colorizer.styles:
            predict = colorizer.predictor(keep_luminance=not options.raw, style=style)
            if (options.report or options.degraded) and colorizer is first:  # clean pictures are asked for again
                predict = shown[style] = remembering(predict)
            predictors[f"{model}, {style}" if len(colorizer.styles) > 1 else model] = predict
    gallery = Gallery() if options.realism else None
    scores = scoreboard(predictors, make_loader(dataset, 64), progress, gallery.add if gallery else None)
    rows = [asdict(score) for score in scores]
    shape = f"{options.size}×{options.size}" + ", cropped" * options.crop
    print(f"{len(dataset)} pictures of the {options.split} split at {shape}\n")
    notes = remarks(records, splits, options.split)
    for note in notes:
        print(f"note: {note}")
    if notes:
        print()
    print(format_scores(scores))
    if gallery:
        print("\nhow often paintings are told from photographs: 50 % is perfect; in brackets 95 % confidence\n")
        if len(dataset) < LEAST:
            print(f"too few pictures: it takes {LEAST}")
        for row in rows:
            if (realism := gallery.realism(row["name"], options.seed)) is not None:
                print(f"- {row['name']}: {realism}", flush=True)
                row["realism"] = asdict(realism)
    if options.degraded:
        prints = score_prints(predictors, make_loader(dataset, 64), options.seed, progress)
        print(f"\nold prints, their chroma on the clean luminance, inside the border\n\n{format_prints(prints)}")
        for row, score in zip(rows, prints, strict=True):
            row |= {"clean": asdict(score.clean), "old_prints": asdict(score.old)}
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    if options.report:
        styles = dict(sorted(shown.items(), key=lambda style: style[0] != first.default_style))
        if len(styles) == 1:
            styles = {"generated": styles["safe"]}
        names = species_names(options.data)
        title = f"{first.name}: {options.split} split, {shape}" + ", raw" * options.raw
        notes = remarks({first.name: records[models[0]]}, splits, options.split)
        paths = write_report(options.report, title, dataset, styles, names.get, options.seed, progress, notes)
        print(f"\nreport: {paths[-1]}")
    return 0


def _evaluate_choices(colorizer: "Colorizer", dataset: "PairDataset", options: argparse.Namespace) -> int:
    from colorize_utils.evaluation import choices
    from colorize_utils.files import atomic_write

    progress, found = not options.quiet, {}
    print(f"{colorizer.name}: {len(dataset)} pictures of the {options.split} split at {options.size}×{options.size}")
    if options.hints:
        scores = choices.score_hints(colorizer, dataset, options.hints, options.seed, progress)
        found["hints"] = [asdict(score) for score in scores]
        print(f"\n{choices.format_hints(scores)}")
    if options.answers:
        answers = choices.score_answers(colorizer, dataset, options.answers, progress)
        found["answers"] = [asdict(answers)]
        print(
            f"\nanswers: {answers.answers:.1f} a picture; {answers.psnr:.2f} dB without, {answers.best:.2f} the best; "
            f"CIEDE2000 between two where they differ visibly: {answers.difference:.1f}"
        )
    if options.uncertainty:
        correlation = choices.uncertainty_correlation(colorizer, dataset, progress)
        found["uncertainty"] = [{"rank_correlation": correlation}]
        print(f"\nrank correlation of uncertainty and error within a picture: {correlation:.2f}")
    if options.calibration:
        from colorize_utils.naming import NAMES
        from colorize_utils.plots import plot_calibration, save_figure

        calibration = choices.calibration(colorizer, dataset, options.seed, progress)
        found["calibration"] = [{"error": calibration.error}]
        figure = plot_calibration(calibration.believed, calibration.occurred, calibration.places, NAMES)
        print(f"\n{choices.format_calibration(calibration)}\n")
        print(f"mean difference of belief and occurrence: {calibration.error:.3f}")
        print(f"figure: {save_figure(figure, options.calibration)}")
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return 0
