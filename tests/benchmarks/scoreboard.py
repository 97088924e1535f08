"""The scoreboard at 256×256: beside the literal one, which takes every metric on the whole batch, CIEDE2000 in float64.

    python tests/benchmarks/scoreboard.py [--data FOLDER] [--count 320] [--threads 2] [--json FILE]

Photographs of FOLDER's test split (default: $COLORIZE_DATA, else synthetic flowers) under four predictors that cost
nothing, so that what is timed is the scoring. Both sides' tables are compared, every printed digit of them.
"""

import os

import literal
import measure
import torch

from colorize_utils.data import SYNTHETIC, load_splits, make_loader
from colorize_utils.machine import keep_freed_memory
from colorize_utils.metrics import Score, format_scores, gray_baseline, scoreboard

BATCH = 64  # as `evaluate` has it
PREDICTORS = {
    "gray": gray_baseline,
    "tinted": lambda gray: (gray + torch.tensor([0.1, 0.02, -0.1])[:, None, None]).clamp(0, 1),
    "washed out": lambda gray: 0.5 + 0.5 * (gray_baseline(gray) - 0.5),
    "turning": lambda gray: torch.cat([gray, gray.flip(3), gray.flip(2)], dim=1),  # every hue, far from the picture's
}


def ours(data: str, size: int, count: int, threads: int):
    return side(scoreboard, data, size, count, threads)


def theirs(data: str, size: int, count: int, threads: int):
    return side(literal.scoreboard, data, size, count, threads)


def side(score, data: str, size: int, count: int, threads: int):
    torch.set_num_threads(threads)
    keep_freed_memory()  # as `evaluate` does, for both sides
    test = load_splits(data, size, count=10 * count, progress=False).test.sample(count, seed=0)
    batches = list(make_loader(test, BATCH))  # decoded before anything is timed
    return lambda: score(PREDICTORS, batches)


def printed(numbers: list[dict[str, float]]) -> list[str]:
    """The table, without the column that is not the same twice."""
    rows = [Score(name, 0, **row, milliseconds=0.0) for name, row in zip(PREDICTORS, numbers, strict=True)]
    return format_scores(rows).splitlines()


def main() -> None:
    options = measure.options(
        __doc__, data=os.environ.get("COLORIZE_DATA") or SYNTHETIC, count=320, threads=torch.get_num_threads()
    )
    size, count = (32, 4) if options.toy else (256, options.count)
    data = SYNTHETIC if options.toy else options.data
    arguments = (data, size, count, options.threads)
    fields = ("psnr", "ssim", "mae", "mse", "ciede2000", "colourfulness_ratio")
    tables = [
        theirs(*arguments)(),
        [{field: getattr(score, field) for field in fields} for score in ours(*arguments)()],
    ]
    literal_table, our_table = map(printed, tables)
    differences = {
        field: max(abs(one[field] - other[field]) for one, other in zip(*tables, strict=True)) for field in fields
    }
    print("\n".join(our_table))
    print(f"\nevery printed digit equal: {literal_table == our_table}; largest differences: {differences}")
    few = min(count, BATCH)
    sides = {
        "literal scoreboard": (theirs, (data, size, few, options.threads)),
        "scoreboard": (ours, (data, size, few, options.threads)),
    }
    seconds = measure.alternate(sides, options.rounds, options.toy)
    rows = [
        (name, 1000 * took / few / len(PREDICTORS), seconds["literal scoreboard"] / took)
        for name, took in seconds.items()
    ]
    columns = ("", "ms a picture and predictor", "× literal")
    measure.table(f"{few} pictures, {size}×{size}, {options.threads} threads", columns, rows)
    measure.save(
        options.json, {"identical": literal_table == our_table, "differences": differences, "seconds": seconds}
    )


if __name__ == "__main__":
    main()
