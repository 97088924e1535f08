"""An album of 1,000 pictures, as bad as albums are: is all given back that can be, the rest reported, twice the same?

    python tests/campaigns/album.py [--seed 0] [--count 1000]

Names with long equal beginnings, 5 % broken files, TIFFs of ten pages, HEIC and GIF among them, kinds that are not
read, and two files that vanish while the album is colorized. It is colorized twice from the start and once more on top,
by the command line's own code in this process. Exits with 1 where anything is lost or differs. Needs pillow-heif.
"""

import argparse
import contextlib
import hashlib
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pillow_heif
import torch
from PIL import Image

from colorize_utils import cli
from colorize_utils.checkpoints import save
from colorize_utils.inference import Colorizer
from colorize_utils.models import UNet

BEGINNING = (
    "Scans of the albums of my grandmother's sister, bound in green cloth, nineteen hundred and thirty-one, page "
)
VANISHING_SIZE = (61, 43)  # no other picture has it


def build(folder: Path, count: int, rng: np.random.Generator) -> tuple[dict[str, int], set[str], set[str]]:
    """Writes the album; returns results that must come (name → pages), names that are broken, names that vanish."""
    expected, broken, vanishing = {}, set(), set()
    fiftieth = max(1, count // 50)
    special = [kind for kind in ("tif", "heic", "gif") for _ in range(fiftieth)]
    special += ["broken"] * (count // 20) + ["vanishing"] * 2
    kinds = rng.permutation(special + [("jpg", "png")[number % 2] for number in range(count - len(special))])
    folder.mkdir()
    for number, kind in enumerate(kinds):
        size = VANISHING_SIZE if kind == "vanishing" else tuple(int(side) for side in rng.integers(30, 60, 2))
        count_of_pages = {"tif": 10, "gif": 3}.get(kind, 1)
        pages = [Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8)) for _ in range(count_of_pages)]
        suffix = {"broken": "jpg", "vanishing": "jpg"}.get(kind, str(kind))
        path = folder / f"{BEGINNING}{number:04}.{suffix}"
        if kind in ("tif", "gif"):
            pages[0].save(path, save_all=True, append_images=pages[1:])
        elif kind == "heic":
            pillow_heif.from_pillow(pages[0]).save(path)
        else:
            pages[0].save(path)
        if kind == "broken":
            content = path.read_bytes()
            path.write_bytes([b"", b"no picture", content[: len(content) // 3]][number % 3])
            broken.add(path.name)
        elif kind == "vanishing":
            vanishing.add(path.name)
        else:
            expected[path.name + (".png" if kind in ("heic", "gif") else "")] = len(pages)
    for name in ("receipt.pdf", "IMG_1.dng", "notes.txt"):
        (folder / name).write_bytes(b"something")
    return expected, broken, vanishing


def colorize(album: Path, output: Path, model: Path) -> tuple[list[str], dict[str, str]]:
    """The lines on standard error, and each result's digest."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        cli.main([str(album), "-o", str(output), "--model", str(model), "--device", "cpu", "--quiet"])
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.iterdir()}
    return errors.getvalue().splitlines(), digests


def page_count(path: Path) -> int:
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    faults = []
    plain = Colorizer.colorize

    def vanishing_colorize(self, picture, **how):
        colour = plain(self, picture, **how)
        if colour.size == VANISHING_SIZE:
            Path(picture.filename).unlink(missing_ok=True)  # between its reading and its result's writing
        return colour

    Colorizer.colorize = vanishing_colorize
    with TemporaryDirectory() as temporary:
        here = Path(temporary)
        torch.manual_seed(options.seed)
        model = save(here / "tiny.safetensors", UNet(1 / 16), {"size": 32})
        runs = []
        for number in (1, 2):  # the album is built anew, because two of its files are gone
            folder = here / "album"
            expected, broken, vanishing = build(folder, options.count, np.random.default_rng(options.seed))
            output = here / f"out{number}"
            lines, digests = colorize(folder, output, model)
            failed = [line for line in lines if line.startswith("error: ")]
            lost = set(expected) - set(digests)
            faults += [f"run {number}: lost {name}" for name in sorted(lost)]
            faults += [f"run {number}: unexpected {name}" for name in sorted(set(digests) - set(expected))]
            for name in broken | vanishing:
                if sum(name in line for line in failed) != 1:
                    faults.append(f"run {number}: {name} is not on one line")
            faults += [
                f"run {number}: {name} has {page_count(output / name)} pages, not {pages}"
                for name, pages in expected.items()
                if name not in lost and page_count(output / name) != pages
            ]
            if len(failed) != len(broken | vanishing):
                faults.append(f"run {number}: {len(failed)} errors for {len(broken | vanishing)} pictures")
            runs.append((lines, digests))
            if number == 2:
                again, after = colorize(folder, output, model)
                gone = [line for line in lines if not any(name in line for name in vanishing)]
                if after != digests or again != gone:
                    faults.append("a run on top changed something")
            else:
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
        if runs[0] != runs[1]:
            faults.append("the two runs differ")
        pages = sum(expected.values())
        print(f"seed {options.seed}: {options.count} pictures, {len(expected)} can be given back ({pages} pages)")
        print(f"given back {len(runs[0][1])}, reported {len(broken)} broken and {len(vanishing)} vanished")
        for line in runs[0][0][-3:]:
            print(line.replace(str(here), ""))
    print("\n".join(faults) if faults else "nothing lost, nothing silent, twice the same")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
