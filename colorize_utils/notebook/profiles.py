"""Profiles, the scales at which a notebook runs a recipe: in full, for a class, or as a smoke test.

A profile changes a recipe's scale (pixels, width, epochs, pictures a step, learning rate) and nothing of its idea: the
losses, their weights and every switch but the decay stay as they are.
"""

import os
from dataclasses import dataclass, replace

from colorize_utils.recipes import Recipe

PROFILES = ("full", "class", "smoke")
VARIABLE = "COLORIZE_PROFILE"  # the environment variable that overrides what a notebook says


@dataclass(frozen=True)
class Profile:
    """A recipe at a scale, and the pictures to run it on.

    Attributes:
        name: One of `PROFILES`.
        recipe: The recipe, changed to the profile's scale.
        data: A source for `data.load_splits`; None for the real flowers.
        count: How many flowers, where they are synthetic.
        test_pictures: How many test pictures are scored, chosen by a seed; None for all.
        save_minutes: Minutes between saves, which is how much work an interrupted run loses. A full-size run on a
            mounted Drive is copied there every 40 minutes (runs.py), and can lose that much if its machine is lost.
    """

    name: str
    recipe: Recipe
    data: str | None = None
    count: int = 200
    test_pictures: int | None = None
    save_minutes: float = 5.0


def choose_profile(name: str, recipe: Recipe, device_type: str = "cpu") -> Profile:
    """Makes a recipe's profile of a name.

    - full: the recipe as the submission has it, for a night on a GPU.
    - class: narrower networks on fewer pixels, with a larger learning rate that falls to 0, because a short run has no
      time for small steps: about five minutes on a free GPU, ten to twenty on two CPU cores.
    - smoke: seconds, on synthetic flowers; shows that every cell runs, and little else.

    Args:
        name: "full", "class" or "smoke"; the environment variable `COLORIZE_PROFILE`, where set, is used instead.
        recipe: The recipe in full.
        device_type: "cuda" for a GPU; everything else gets the scale for a CPU.

    Returns:
        The profile.

    Raises:
        ValueError: There is no profile of that name.
    """
    name = os.environ.get(VARIABLE) or name
    wasserstein = recipe.adversary == "critic"
    if name == "full":
        return Profile(name, recipe)
    if name == "class":
        quick = replace(recipe, learning_rate=1e-3, decay=True)
        if device_type == "cuda":
            quick = replace(quick, size=128, width=0.25 if wasserstein else 0.5, batch_size=16, epochs=30)
        else:
            quick = replace(quick, size=64, width=0.125 if wasserstein else 0.25, epochs=20)
        if wasserstein:  # 64 pictures for each of the critic's updates would make an epoch take four times as long
            quick = replace(quick, critic_batch_size=2 * quick.batch_size, epochs=recipe.epochs)
        return Profile(name, quick, test_pictures=1000, save_minutes=1.0)
    if name == "smoke":
        tiny = replace(recipe, size=32, width=1 / 16, epochs=2, batch_size=8, learning_rate=1e-3)
        if wasserstein:
            tiny = replace(tiny, critic_batch_size=8)
        return Profile(name, tiny, data="generated", count=50)
    raise ValueError(f"no profile {name!r}; there are {', '.join(PROFILES)}")
