"""How far colour bleeds over edges: the chroma error beside the originals' chroma edges, minus that far from any.

    python tests/benchmarks/sharpness.py FOLDER [MODEL …] [--json FILE]

FOLDER holds colour photographs; they are colorized at their full size. An edge is where the original's chroma changes
by at least `EDGE` levels of 255 a pixel, after a blur that takes away noise. The error is the distance between the two
chromas, red and blue minus luma, in levels. A network whose colours are wrong everywhere has no excess; one whose
colours bleed has.
"""

import argparse
import json
from pathlib import Path

import measure
import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from colorize_utils.checkpoints import DEFAULT
from colorize_utils.data.pictures import is_picture
from colorize_utils.inference import Colorizer

BLUR = 2.0  # standard deviation, in pixels
EDGE = 6.0  # levels a pixel
NEAR, FAR = 8, 16  # pixels: errors up to NEAR from an edge, beside those beyond FAR


def chroma(colour: np.ndarray) -> np.ndarray:
    """Red and blue minus luma, (2, H, W), in levels of 255."""
    red, green, blue = colour.astype(np.float32).transpose(2, 0, 1)
    luma = (19595 * red + 38470 * green + 7471 * blue) / 65536
    return np.stack([red - luma, blue - luma])


def distances(planes: np.ndarray) -> np.ndarray:
    """The distance of each pixel to the next chroma edge, (H, W), infinite where there is none."""
    smooth = gaussian_filter(planes, (0, BLUR, BLUR))
    edges = np.sqrt(sum(np.square(slope).sum(axis=0) for slope in np.gradient(smooth, axis=(1, 2)))) >= EDGE
    return distance_transform_edt(~edges) if edges.any() else np.full(edges.shape, np.inf)


def errors(original: Image.Image, colorizer: Colorizer, style: str) -> tuple[float, float] | None:
    """Mean error near edges, and far from them; None where a photograph has too few pixels of one kind."""
    true = chroma(np.asarray(original))
    distance = distances(true)
    near, far = distance <= NEAR, distance > FAR
    if min(near.mean(), far.mean()) < 0.01:
        return None
    answer = chroma(np.asarray(colorizer.colorize(original.convert("L"), style=style)))
    error = np.sqrt(np.square(answer - true).sum(axis=0))
    return float(error[near].mean()), float(error[far].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=[DEFAULT])
    parser.add_argument("--style", default="safe")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    originals = [Image.open(path).convert("RGB") for path in sorted(options.folder.rglob("*")) if is_picture(path)]
    results, rows = {}, []
    for model in options.models or [DEFAULT]:
        colorizer = Colorizer.from_checkpoint(model, "cpu")
        found = [pair for original in originals if (pair := errors(original, colorizer, options.style))]
        near, far = np.mean(found, axis=0)
        results[model] = {"photographs": len(found), "near": near, "far": far, "excess": near - far}
        rows.append((model, near, far, near - far))
    title = f"Chroma error in levels, {len(found)} of {len(originals)} photographs, {options.style}"
    measure.table(title, ("", "near edges", "far from them", "excess"), rows)
    measure.save(options.json, json.loads(json.dumps(results)))


if __name__ == "__main__":
    main()
