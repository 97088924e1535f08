"""How far a hint spreads: whether the flower takes the colour that one place of it is given, and nothing else does.

    python tests/benchmarks/spread.py --data FOLDER [MODEL …] [--json FILE]

FOLDER holds Flowers-102 as `train` takes it. The flowers of twelve validation photographs were outlined by hand
(outlines.json, at 256×256). Each is given one hint, in each of five colours. Two numbers are taken: the median, over
the outline's pixels, of the CIEDE2000 between the colour that a pixel has and the one that it was to have, which is the
hint's chroma as far as the pixel's luminance allows; and by how much chroma outside the outline changed, as a share of
how much it changed inside.
"""

import argparse
import json
from pathlib import Path

import measure
import numpy as np
import torch
from PIL import Image, ImageDraw

from colorize_utils.checkpoints import DEFAULT
from colorize_utils.colour import merge, unit
from colorize_utils.data import load_splits
from colorize_utils.inference import Colorizer, Hint
from colorize_utils.inference.hints import chroma_at
from colorize_utils.metrics import ciede2000_of_pixels

OUTLINES = Path(__file__).with_name("outlines.json")
COLOURS = ("#c82828", "#e6b41e", "#8c3cc8", "#3c64dc", "#f08cb4")  # red, yellow, purple, blue, pink
SIZE = 256


def spread(colorizer: Colorizer, gray: np.ndarray, outline: list[list[int]], hint: Hint) -> tuple[float, float]:
    """The two numbers of one hint: gray is (256, 256) uint8."""
    mask = Image.new("1", gray.shape[::-1])
    ImageDraw.Draw(mask).polygon([tuple(point) for point in outline], fill=1)
    inside = np.asarray(mask)
    plain, hinted = (np.asarray(colorizer.colorize(gray, hints=hints)) for hints in ([], [hint]))
    levels = np.arange(256)
    chromas = 255 * np.array([chroma_at(hint.rgb, level) for level in levels], np.float32)  # (256, 2)
    wanted = merge(levels.astype(np.uint8), chromas.T)[gray]  # (H, W, 3)
    pair = [unit(torch.from_numpy(colours.copy())).permute(2, 0, 1)[None] for colours in (hinted, wanted)]
    difference = ciede2000_of_pixels(*pair)[0].numpy()
    change = [colours.astype(float) - gray[..., None] for colours in (hinted, plain)]
    moved = np.linalg.norm(change[0] - change[1], axis=2)
    return float(np.median(difference[inside])), float(moved[~inside].mean() / moved[inside].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[DEFAULT])
    parser.add_argument("--data")
    parser.add_argument("--radius", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pictures = load_splits(options.data, SIZE, progress=False).val
    results, rows = {}, []
    for model in options.models or [DEFAULT]:
        colorizer = Colorizer.from_checkpoint(model, "cpu", progress=False)
        found = []
        for flower in json.loads(OUTLINES.read_text()):
            _, gray = pictures[[list(pictures.names).index(f"val/{flower['picture']}")]]
            levels = (255 * gray[0, 0]).round().byte().numpy()
            hints = [Hint(*flower["hint"], colour, options.radius) for colour in COLOURS]
            found.append([spread(colorizer, levels, flower["outline"], hint) for hint in hints])
        numbers = np.array(found)  # (flowers, colours, 2)
        results[model] = numbers.tolist()
        rows.append((model, *np.median(numbers, axis=(0, 1)), *(numbers < (10, 0.2)).mean(axis=(0, 1))))
        for flower, own in zip(json.loads(OUTLINES.read_text()), numbers, strict=True):
            rows.append((f"val/{flower['picture']}", *np.median(own, axis=0), *(own < (10, 0.2)).mean(axis=0)))
    titles = ("", "CIEDE2000 inside", "change outside", "share below 10", "share below 0.2")
    measure.table("One hint in the flower, medians over five colours", titles, rows)
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
