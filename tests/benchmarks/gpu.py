"""Training on a GPU: pictures a second beside the submission's way, the rate beside the machine's, memory, precision.

    python tests/benchmarks/gpu.py [--seconds 60] [--json FILE]
    python tests/benchmarks/gpu.py --ranks 4        several processes alone, each on a GPU of its own

Needs no network and no data: flowers are drawn. `--toy` goes the same way on a CPU, with tiny networks.
"""

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import literal
import measure
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from colorize_utils.data import PairDataset, Splits, generator_for, load_splits, make_loader
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.metrics import validate
from colorize_utils.ranks import Ranks, joined
from colorize_utils.recipes import GAN_L1, MULTISCALE, WGAN_GP, Recipe
from colorize_utils.training import Trainer, train

PICTURES = 1020  # of the training split, and of the validation split
DRAWN = 60  # different ones among them: what they show is no matter of speed


def rate(step, pictures: int, least_seconds: float) -> float:
    """Pictures a second of steps that take `pictures` each, after ten to warm up."""
    for _ in range(2 if least_seconds < 1 else 10):
        step()
    measure.synchronize()
    start, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - start < least_seconds:
        step()
        steps += 1
        if steps % 10 == 0:
            measure.synchronize()
    measure.synchronize()
    return pictures * steps / (time.perf_counter() - start)


def literal_rate(recipe: Recipe, device: torch.device, files: list[Path], least_seconds: float) -> float:
    """The submission's step in fp32, its loader included: two workers that decode and transform."""
    flowers = literal.Flowers(files, recipe.size)
    loader = DataLoader(flowers, batch_size=recipe.batch_size, shuffle=True, num_workers=2, drop_last=True)
    model = literal.GAN(round(64 * recipe.width), device)

    def endless():
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        real, gray = next(batches)
        model.step(real.to(device), gray.to(device))

    return rate(step, recipe.batch_size, least_seconds)


def resident(drawn: np.ndarray, count: int, device: torch.device) -> Splits:
    pairs = PairDataset(drawn, np.arange(count) % len(drawn)).to(device)
    return Splits(pairs, pairs, pairs)


def trainer_rate(trainer: Trainer, least_seconds: float) -> float:
    """The same of `Trainer.step`, with everything an epoch does for a batch."""
    batch, pictures = trainer.recipe.batch_size, trainer.splits.train
    number = 0

    def step() -> None:
        nonlocal number
        number += 1
        random = generator_for(0, number)
        indices = torch.randperm(len(pictures), generator=random)[:batch].numpy()
        trainer.step(*pictures[indices], random)

    return rate(step, batch, least_seconds)


def peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def speed(options, device: torch.device, results: dict) -> None:
    size, width = (32, 1 / 16) if options.toy else (256, 1.0)
    batches = (8, 16) if options.toy else (8, 16, 32, 64, 128)
    count = 2 * max(batches) if options.toy else PICTURES
    drawn = synthetic_flowers(min(DRAWN, count), size)
    base = replace(GAN_L1, size=size, width=width)
    machine = measure.limits(device.type, torch.bfloat16 if device.type == "cuda" else torch.float32, options.toy)
    results["machine"] = measure.describe(machine, device.type)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{index}.jpg" for index in range(len(drawn))]
        for file, picture in zip(files, drawn, strict=True):
            Image.fromarray(picture).save(file, quality=90)
        theirs = literal_rate(base, device, files, options.seconds / 4)
    splits = resident(drawn, count, device)
    counted, (real, gray) = Trainer(base, splits, device), splits.train[: base.batch_size]
    operations = measure.work(lambda: counted.step(real, gray, generator_for(0)))[0] / base.batch_size

    rows = [("literal, fp32", base.batch_size, theirs, 1.0, "", "")]
    best = 0.0
    for compiled in (False, True) if device.type == "cuda" else (False,):
        for batch in batches:
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            try:
                trainer = Trainer(replace(base, batch_size=batch), splits, device, compiled=compiled)
                ours = trainer_rate(trainer, options.seconds / 4)
            except torch.OutOfMemoryError:
                break
            share = operations * ours / max(machine["matrix_product"], machine["convolution"])
            memory = peak_bytes(device) / batch / 1e9
            name = f"{trainer.precision.name}{', compiled' if compiled else ''}"
            rows.append((name, batch, ours, ours / theirs, f"{100 * share:.0f} %", memory))
            best = max(best, ours)
    columns = ("way", "batch", "pictures/s", "× literal", "of the limit's rate", "GB a picture")
    measure.table(f"GAN-L1 at {size}×{size}, width {width:g}", columns, rows)
    results["gan-l1"] = [dict(zip(columns, row, strict=True)) for row in rows]
    if device.type == "cuda":
        per_picture = rows[-1][-1]
        fits = {f"{room} GB": int(room / per_picture) for room in (15, 78)}
        print(f"\nlargest batch, from the memory of the last line: {fits}")
        results["largest_batch"] = fits

    # A run of the whole recipe, from steady running of its parts.
    at_default = max(row[2] for row in rows[1:] if row[1] == base.batch_size)
    trainer = Trainer(base, splits, device)
    loader = make_loader(splits.val, base.batch_size)
    mse, autocast = torch.nn.functional.mse_loss, trainer.precision.autocast

    def check() -> None:
        validate(trainer.generator, mse, loader, autocast=autocast)

    check()
    validation = measure.seconds(check) * PICTURES / count
    wasserstein = Trainer(replace(WGAN_GP, size=size, width=width), splits, device)
    critic = trainer_rate(wasserstein, options.seconds)
    minutes = {
        "GAN-L1, 350 epochs, its batch size": 350 * (PICTURES / at_default + validation) / 60,
        "GAN-L1, 350 epochs, best batch size": 350 * (PICTURES / best + validation) / 60,
        "WGAN, 21 epochs": 21 * (PICTURES / critic + validation) / 60,
    }
    measure.table("Whole recipes, extrapolated", ("run", "minutes"), list(minutes.items()))
    results["minutes"] = minutes


def precision(options, device: torch.device, results: dict) -> None:
    """Validation PSNR of one short run in each precision."""
    size, epochs = (32, 2) if options.toy else (64, 20)
    splits = load_splits("generated", size, count=50 if options.toy else 1000, cache=None, progress=False)
    width = 1 / 16 if options.toy else 0.25
    recipe = replace(GAN_L1, size=size, width=width, epochs=epochs, learning_rate=1e-3, decay=True)
    rows = []
    for name in ("fp32", "bf16"):
        with TemporaryDirectory() as folder:
            history = train(recipe, splits, folder, device=device, precision=name, progress=False)
        rows.append((name, history["psnr"][-1], max(history["psnr"])))
    measure.table(f"{epochs} epochs at {size}×{size}", ("precision", "last PSNR dB", "best PSNR dB"), rows)
    results["precision"] = {name: {"last": last, "best": best} for name, last, best in rows}


def steps_together(ranks: Ranks, recipe: Recipe, toy: bool, least_seconds: float) -> dict:
    """Pictures a second of steps in several processes, and whether all of them end with equal weights."""
    device = torch.device(str(ranks.device("cpu" if toy else "cuda")) if not ranks.alone else "cpu" if toy else "cuda")
    count = max(64, 2 * recipe.batch_size) if toy else PICTURES
    splits = resident(synthetic_flowers(min(DRAWN, count), recipe.size), count, device)
    torch.manual_seed(0)
    trainer = Trainer(recipe, splits, device, ranks=ranks)

    def step(number: int) -> None:
        random = generator_for(0, number)
        indices = torch.randperm(count, generator=random)[: recipe.batch_size].tolist()
        trainer.step(*trainer.training_batch(indices, random), random)

    warm = 2 if toy else 10
    for number in range(warm):
        step(number)
    measure.synchronize()
    start, steps = time.perf_counter(), 0
    while ranks.any(steps < 2 or time.perf_counter() - start < least_seconds):  # which a run asks after each step, too
        step(warm + steps)
        steps += 1
    measure.synchronize()
    seconds = time.perf_counter() - start
    weights = torch.cat([weights.detach().flatten().cpu() for weights in trainer.generator.parameters()])
    first = ranks.state_of_the_first({"weights": weights})["weights"]
    equal = not ranks.any(not torch.equal(weights, first))
    return {"rate": recipe.batch_size * steps / seconds, "equal": equal, "memory": peak_bytes(device)}


def process(rank: int, count: int, port: int, recipe: Recipe, toy: bool, least_seconds: float, file: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined("cpu" if toy else "cuda") as ranks:
        found = steps_together(ranks, recipe, toy, least_seconds)
        if ranks.first:
            file.write_text(json.dumps(found))


def several(options, results: dict) -> None:
    """The recipes' steps in 1, 2, 4 … processes: with its own batch, and with as many times its pictures."""
    counts = [count for count in (1, 2, 4, 8, 16) if count < options.ranks] + [options.ranks]
    rows = []
    for recipe in (GAN_L1,) if options.toy else (GAN_L1, WGAN_GP, MULTISCALE):
        if options.toy:
            recipe = replace(recipe, size=32, width=1 / 16, batch_size=8)
        alone = 0.0
        for count in counts:
            for batch in dict.fromkeys((recipe.batch_size, count * recipe.batch_size)):
                with TemporaryDirectory() as folder, socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    port = free.getsockname()[1]
                    free.close()
                    file = Path(folder) / "found.json"
                    arguments = (count, port, replace(recipe, batch_size=batch), options.toy, options.seconds / 4, file)
                    torch.multiprocessing.spawn(process, arguments, nprocs=count)
                    found = json.loads(file.read_text())
                alone = alone or found["rate"]
                memory = found["memory"] / 1e9
                rows.append((recipe.name, count, batch, found["rate"], found["rate"] / alone, memory, found["equal"]))
    columns = ("recipe", "processes", "batch", "pictures/s", "× one process", "GB a process", "equal weights")
    measure.table("Several processes", columns, rows)
    results["ranks"] = [dict(zip(columns, row, strict=True)) for row in rows]


def main() -> None:
    options = measure.options(__doc__, seconds=60.0, ranks=0)
    if options.toy:
        options.seconds = 0.1
    device = torch.device("cpu" if options.toy else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here; --toy shows on a CPU that everything runs")
    results: dict = {}
    if options.ranks:
        several(options, results)
        measure.save(options.json, results)
        return
    speed(options, device, results)
    precision(options, device, results)
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
