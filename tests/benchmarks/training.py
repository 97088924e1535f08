"""Training steps: the submission's way beside `Trainer`, every step from the literal side's state.

    python tests/benchmarks/training.py [--json FILE]

GAN-L1 at 128×128, batch 8, full width; WGAN the same at a quarter of the width, 64 pictures a critic update.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import replace

import literal
import measure
import torch

from colorize_utils.data import Splits, generator_for, load_splits
from colorize_utils.devices import choose_precision
from colorize_utils.machine import keep_freed_memory
from colorize_utils.recipes import GAN_L1, WGAN_GP, Recipe
from colorize_utils.training import Trainer

BATCH = 8
COMPARED = 6  # steps


def same_state(trainer: Trainer, theirs: literal.GAN | literal.WGAN) -> None:
    for name in ("generator", "discriminator"):
        getattr(trainer, name).load_state_dict(getattr(theirs, name).state_dict())
    for name in ("optimizer_g", "optimizer_d"):  # the moments alone: how Adam computes is each side's own affair
        ours, moments = getattr(trainer, name), copy.deepcopy(getattr(theirs, name).state_dict()["state"])
        ours.load_state_dict({"state": moments, "param_groups": ours.state_dict()["param_groups"]})


def gradients(optimizer: torch.optim.Adam, before: dict) -> torch.Tensor:
    """What a step's gradients were, flat, from Adam's first moment: m ← β₁ m + (1 − β₁) g."""
    beta = optimizer.param_groups[0]["betas"][0]
    found = []
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        moment = before["state"][index]["exp_avg"] if before["state"] else torch.zeros_like(parameter)
        found.append(((optimizer.state[parameter]["exp_avg"] - beta * moment) / (1 - beta)).flatten())
    return torch.cat(found)


def pictures(recipe: Recipe) -> Splits:
    return load_splits("generated", recipe.size, count=2 * recipe.critic_batch_size, cache=None)


def literal_model(recipe: Recipe) -> literal.GAN | literal.WGAN:
    torch.manual_seed(0)
    channels = round(64 * recipe.width)
    if recipe.adversary == "critic":
        return literal.WGAN(channels, "cpu", pictures(recipe).train, recipe.critic_batch_size, recipe.n_critic)
    return literal.GAN(channels, "cpu")


def literal_step(recipe: Recipe) -> Callable[[], object]:
    model, (real, gray) = literal_model(recipe), pictures(recipe).train[:BATCH]
    return lambda: model.step(real, gray, generator_for(0))


def trainers_step(recipe: Recipe, precision: str) -> Callable[[], object]:
    keep_freed_memory()  # as `train` does
    splits = pictures(recipe)
    trainer, (real, gray) = Trainer(recipe, splits, torch.device("cpu"), precision), splits.train[:BATCH]
    return lambda: trainer.step(real, gray, generator_for(0))


def differences(recipe: Recipe) -> tuple[float, float]:
    """How losses and gradients of one fp32 step differ, each step from the literal side's state; `COMPARED`'s medians.

    Medians, because rounding may turn the sign of a gradient near 0, and Adam's first steps are ±α whatever the
    gradient's size: what follows such a step in the same turn differs more. For the same reason a critic is compared
    after one update, not two.
    """
    recipe = replace(recipe, n_critic=1)
    splits, theirs = pictures(recipe), literal_model(recipe)
    trainer, (real, gray) = Trainer(recipe, splits, torch.device("cpu"), "fp32"), splits.train[:BATCH]
    losses, relative = [], []
    for number in range(COMPARED):
        same_state(trainer, theirs)
        before = {name: copy.deepcopy(getattr(theirs, name).state_dict()) for name in ("optimizer_g", "optimizer_d")}
        ours = trainer.step(real, gray, generator_for(number))
        expected = torch.tensor(theirs.step(real, gray, generator_for(number)))
        losses.append((ours - expected).abs().max().item())
        pairs = [[gradients(getattr(side, name), before[name]) for side in (trainer, theirs)] for name in before]
        relative.append(max(((ours - expected).norm() / expected.norm()).item() for ours, expected in pairs))
    return statistics.median(losses), statistics.median(relative)


def compare(recipe: Recipe, options, machine: dict) -> dict:
    losses, relative = differences(recipe)
    sides = {"literal step": (literal_step, (recipe,))}
    sides |= {f"Trainer.step, {name}": (trainers_step, (recipe, name)) for name in ("fp32", "bf16")}
    medians = measure.alternate(sides, options.rounds, options.toy)
    medians["limit in fp32"] = measure.limit(trainers_step(recipe, "fp32"), machine)
    title = f"{recipe.name}, {recipe.size}×{recipe.size}, batch {BATCH}, width {recipe.width:g}"
    rows = [(name, value, medians["literal step"] / value) for name, value in medians.items()]
    measure.table(title, ("", "seconds", "× literal"), rows)
    print(f"\nauto trains in {choose_precision(torch.device('cpu'), recipe.adversary == 'discriminator')}")
    print(f"\nlosses differ by {losses:.1e}, gradients by {relative:.1e} of their norm (medians of {COMPARED} steps)")
    return {"seconds": medians, "losses": losses, "gradients": relative}


def main() -> None:
    options = measure.options(__doc__)
    machine = measure.limits(toy=options.toy)
    results = {"machine": measure.describe(machine)}
    size, widths = (32, (1 / 16, 1 / 16)) if options.toy else (128, (1.0, 0.25))
    for recipe, width in zip((GAN_L1, WGAN_GP), widths, strict=True):
        scaled = replace(recipe, size=size, width=width, batch_size=BATCH)
        if options.toy and recipe.adversary == "critic":
            scaled = replace(scaled, critic_batch_size=12)
        results[recipe.name] = compare(scaled, options, machine)
    measure.save(options.json, results)


if __name__ == "__main__":
    main()
