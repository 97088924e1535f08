"""fp32 beside bf16 for networks of many sizes on the CPU: the table behind the rule of `auto`, and whether it holds.

    python tests/benchmarks/precision.py [--json FILE]

Both compute in this process, in turns. Weights are random.
"""

import statistics

import measure
import torch

from colorize_utils.devices import has_bf16
from colorize_utils.generator_registry import ARCHITECTURES
from colorize_utils.inference.precision import LEAST_WORK, choose_precision, convolve_in_bf16
from colorize_utils.machine import keep_freed_memory
from colorize_utils.models import build_generator, count_parameters, fuse_batch_norms

LEAST_SECONDS = 0.05  # of a turn: small networks make several pictures in it
WORTHWHILE = 1.1  # what `auto` takes has to gain


def row(architecture: str, width: float, size: int, rounds: int) -> dict:
    torch.manual_seed(0)
    network = build_generator(architecture, width).eval()
    ready = {
        "fp32": fuse_batch_norms(network).to(memory_format=torch.channels_last),
        "bf16": convolve_in_bf16(fuse_batch_norms(network)).to(memory_format=torch.channels_last),
    }
    gray = torch.rand(1, 1, size, size)
    times: dict[str, list[float]] = {name: [] for name in ready}
    with torch.inference_mode():
        for network_ready in ready.values():
            network_ready(gray)
        count = max(1, round(LEAST_SECONDS / measure.seconds(lambda: ready["fp32"](gray))))
        for _ in range(rounds):
            for name, network_ready in ready.items():
                turn = measure.seconds(lambda network=network_ready: [network(gray) for _ in range(count)])
                times[name].append(turn / count)
    medians = {name: statistics.median(values) for name, values in times.items()}
    work = count_parameters(network) * size**2
    auto = choose_precision(network, size, torch.device("cpu"))
    return {"architecture": architecture, "width": width, "size": size, "work": work, **medians, "auto": auto}


def main() -> None:
    options = measure.options(__doc__)
    keep_freed_memory()
    machine = measure.describe(measure.limits(toy=options.toy))
    print(
        f"bf16 in hardware: {'yes' if has_bf16() else 'no'}; auto takes it from {LEAST_WORK:.0e} parameters × pixels on"
    )
    widths, sizes = ((1 / 16,), (32,)) if options.toy else ((1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), (64, 128, 256))
    names = [name for name, entry in ARCHITECTURES.items() if not entry.distribution]
    rows = [row(name, width, size, options.rounds) for name in names for width in widths for size in sizes]
    rows.sort(key=lambda one: one["work"])
    columns = ("generator", "width", "size", "parameters × pixels", "fp32 ms", "bf16 ms", "gain", "auto")
    cells = []
    for one in rows:
        gain = one["fp32"] / one["bf16"]
        wrong = one["auto"] == "bf16" and gain < WORTHWHILE
        verdict = one["auto"] + " (gains too little)" * wrong
        place = (one["architecture"], f"{one['width']:g}", one["size"], f"{one['work']:.1e}")
        cells.append((*place, 1000 * one["fp32"], 1000 * one["bf16"], gain, verdict))
    measure.table("One picture through the network", columns, cells)
    measure.save(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
