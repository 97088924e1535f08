"""Kills a training run with SIGKILL again and again, and checks that nothing is lost.

    python tests/campaigns/kill.py --kills 50 --seed 0
    python tests/campaigns/kill.py --kills 50 --seed 1 --recipe distribution

A tiny network is trained by the command line once without a stop, and once killed at moments that the seed chooses,
most of them within a step or a save, and resumed each time. After every kill the folder must hold a state beside a best
checkpoint, each of them whole, and no worse best than before; in the end weights, optimizers, curves and best
checkpoint must be those of the run that never stopped, to the bit. Ends with one line, and with status 1 where that is
not so.

Takes some minutes, most of them the imports of one process a kill; not part of the tests. POSIX only.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm.auto import tqdm

TINY = ["--data", "generated", "--count", "60", "--size", "32", "--width", "0.0625", "--batch-size", "8"]
SAVE_MINUTES = (0.0, 0.002, 0.01, 60.0)  # after each step; a few times a second; now and then; at an epoch's end alone


def start(recipe: str, folder: Path, epochs: int, save_minutes: float) -> subprocess.Popen:
    arguments = ["train", recipe, *TINY, "--epochs", str(epochs), "--device", "cpu", "--quiet", "--resume"]
    arguments += ["--save-minutes", str(save_minutes), "-o", str(folder)]
    command = [sys.executable, "-m", "colorize_utils", *arguments]
    # One thread: the bits depend on their number, and the machine has other work.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def best_of(folder: Path) -> tuple[float, int] | None:
    """(validation loss, epoch) of the best checkpoint, read whole; None where there is none."""
    path = folder / "best.safetensors"
    if not path.is_file():
        return None
    load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return json.loads(metadata["metrics"])["validation_loss"], json.loads(metadata["epoch"])


def differences(one: object, other: object, where: str = "state") -> list[str]:
    """The places where two nested states are not equal to the bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [where]
        return [line for key in one for line in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [where]
        return [line for place in range(len(one)) for line in differences(one[place], other[place], f"{where}.{place}")]
    return [] if one == other else [where]


def run_of(folder: Path) -> dict:
    """All that a run leaves behind, without its times."""
    state = torch.load(folder / "state.pt", weights_only=True)
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    for curves in (state["history"], history):
        del curves["seconds"]
    del state["epoch_seconds"]
    return {
        "state": state,
        "history": history,
        "last": load_file(folder / "last.safetensors"),
        "best": load_file(folder / "best.safetensors"),
        "best's loss and epoch": best_of(folder),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--recipe", default="gan-l1")
    parser.add_argument("--epochs", type=int, default=300)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="kill-"))
    faults: list[str] = []

    straight = start(options.recipe, root / "straight", options.epochs, 60)
    straight.stdout.readline()  # the pictures are there, training begins
    began = time.monotonic()
    output, _ = straight.communicate()
    if straight.returncode:
        print(output)
        return 1
    longest = 1.5 * (time.monotonic() - began) / options.kills  # seconds to a kill, 0.75 of the run's share in the mean
    expected = run_of(root / "straight")

    kills = runs = 0
    while kills < options.kills:  # a run that is through before that many kills is followed by another
        runs += 1
        folder, best = root / f"killed-{runs}", None
        for _ in tqdm(range(kills, options.kills), desc=f"run {runs}", unit="kill", disable=None):
            process = start(options.recipe, folder, options.epochs, rng.choice(SAVE_MINUTES))
            first = process.stdout.readline()
            time.sleep(rng.uniform(0, longest))
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
            if process.returncode == 0:
                break
            if process.returncode != -signal.SIGKILL:
                faults.append(f"kill {kills}: status {process.returncode}: {(first + output).splitlines()[-1]}")
                break
            kills += 1
            now = best_of(folder)
            state = folder / "state.pt"
            if now is not None and not state.is_file():
                faults.append(f"kill {kills}: a best without a state")
            if state.is_file():
                torch.load(state, weights_only=True)
            if best is not None and (now is None or now[0] > best[0]):
                faults.append(f"kill {kills}: best {best} became {now}")
            best = now
        if faults:
            break
        process = start(options.recipe, folder, options.epochs, 60)
        output, _ = process.communicate()
        if process.returncode:
            faults.append(f"run {runs} does not end: {output.splitlines()[-1]}")
            break
        faults += [f"run {runs}: {line} differs" for line in differences(expected, run_of(folder), options.recipe)]
    if not faults:
        shutil.rmtree(root)
    for line in faults[:20]:
        print(line)
    loss, epoch = expected["best's loss and epoch"]
    verdict = f"{len(faults)} faults (see {root})" if faults else "equal to the bit, best never worse"
    print(f"{kills} kills in {runs} run(s) of {options.recipe}, best {loss:.5f} (epoch {epoch}): {verdict}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
