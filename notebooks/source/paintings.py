"""Makes the paintings that the lesson's game comes with, so that it needs no training.

    python notebooks/source/paintings.py runs/class-64-flowers-102

The painters are the best checkpoints of the three notebooks' runs (gan-l1, gan-mse and wgan in that folder) and the
bundled network, in its styles and with drawn answers. The flowers are test pictures: nobody learned from them (the
bundled network learned from validation pictures, too).
"""

import argparse
import os
from pathlib import Path

from colorize_utils import data
from colorize_utils.checkpoints import DEFAULT
from colorize_utils.inference import Colorizer
from colorize_utils.notebook import game

RUNS = {"GAN-L1": "gan-l1", "GAN-MSE": "gan-mse", "WGAN": "wgan"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder that holds the runs gan-l1, gan-mse and wgan")
    parser.add_argument("--data", help="as of train; by default COLORIZE_DATA")
    parser.add_argument("--model", default=DEFAULT, help="the checkpoint that paints in styles and draws answers")
    parser.add_argument("--count", type=int, default=40, help="flowers (40)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (64)")
    parser.add_argument("-o", "--output", type=Path, default=game.SHIPPED)
    options = parser.parse_args()

    splits = data.load_splits(options.data, options.size)
    painters = {
        name: Colorizer.from_checkpoint(options.runs / folder / "best.safetensors").predictor()
        for name, folder in RUNS.items()
    }
    painters |= game.painters_of(Colorizer.from_checkpoint(options.model))
    exhibition = game.exhibit(*splits.test.sample(options.count, seed=1)[:], painters)
    exhibition.save(options.output, quality=80)  # so that a notebook with the package inside can be uploaded
    print(f"{os.path.relpath(options.output)}: {len(exhibition)} flowers by {', '.join(painters)}")


if __name__ == "__main__":
    main()
