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
NEAR, FAR = 10.0, 0.2  # bounds of the two numbers that a hint should keep


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


def flowers(data: str) -> list[tuple[str, np.ndarray, dict]]:
    """The outlined photographs: name, gray (256, 256) uint8, and what outlines.json says of it."""
    pictures = load_splits(data, SIZE, progress=False).val
    found = []
    for flower in json.loads(OUTLINES.read_text()):
        name = f"val/{flower['picture']}"
        _, gray = pictures[[list(pictures.names).index(name)]]
        found.append((name, (255 * gray[0, 0]).round().byte().numpy(), flower))
    return found


def measured(colorizer: Colorizer, data: str, radius: float) -> dict[str, np.ndarray]:
    """The two numbers of each of the five hints, (5, 2), by the photograph's name."""
    return {
        name: np.array(
            [spread(colorizer, gray, flower["outline"], Hint(*flower["hint"], colour, radius)) for colour in COLOURS]
        )
        for name, gray, flower in flowers(data)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[DEFAULT])
    parser.add_argument("--data", required=True)
    parser.add_argument("--radius", type=float, default=3.0, help="of the hints, in pixels (default: 3)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for model in options.models or [DEFAULT]:
        found = measured(Colorizer.from_checkpoint(model, "cpu", progress=False), options.data, options.radius)
        rows = {**found, "all": np.concatenate(list(found.values()))}
        titles = (model, "CIEDE2000 inside", "change outside", f"below {NEAR:g}", f"below {FAR:g}")
        measure.table(
            "One hint in the flower, in five colours: medians, and how many of the hints are below a bound",
            titles,
            [(name, *np.median(own, axis=0), *(own < (NEAR, FAR)).mean(axis=0)) for name, own in rows.items()],
        )
        results[model] = {name: own.tolist() for name, own in rows.items()}
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
