"""Small synthetic flowers: pictures to learn from where no data set can be had (a class without network, CI).

Every picture is a meadow under a sky, with soil at the bottom and one to three flowers. Six families of flowers differ
in the number and form of their petals and in brightness, and each has its own hue: colour follows from what a gray
picture still shows, so that a network can learn it.
"""

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Family:
    """How one family of flowers looks. Colours are RGB in [0, 1].

    Attributes:
        petals: Fewest and most petals.
        sharpness: Exponent of the petal outline: under 1 broad and round, over 1 thin and pointed.
        depth: How far the outline falls back between two petals, as a share of the flower's radius.
        petal: Colour of the petals.
        centre: Colour of the disc in the middle.
        centre_radius: Radius of the disc, as a share of the flower's radius.
    """

    petals: tuple[int, int]
    sharpness: float
    depth: float
    petal: Colour
    centre: Colour
    centre_radius: float


FAMILIES = {
    "daisy": Family((13, 19), 1.4, 0.75, (0.97, 0.96, 0.90), (0.93, 0.72, 0.12), 0.26),
    "sunflower": Family((16, 24), 2.0, 0.45, (0.98, 0.76, 0.10), (0.27, 0.15, 0.07), 0.48),
    "poppy": Family((4, 4), 0.35, 0.30, (0.86, 0.13, 0.09), (0.10, 0.08, 0.09), 0.20),
    "violet": Family((5, 5), 0.60, 0.60, (0.47, 0.24, 0.68), (0.96, 0.88, 0.35), 0.14),
    "cosmos": Family((8, 8), 0.45, 0.40, (0.93, 0.52, 0.70), (0.88, 0.66, 0.16), 0.18),
    "cornflower": Family((9, 11), 3.0, 0.85, (0.24, 0.38, 0.86), (0.20, 0.16, 0.45), 0.22),
}
SKY_TOP, SKY_HORIZON = (0.52, 0.73, 0.94), (0.86, 0.93, 0.98)
MEADOW_FAR, MEADOW_NEAR = (0.53, 0.67, 0.33), (0.22, 0.42, 0.14)
SOIL = (0.33, 0.23, 0.15)
STEM = (0.20, 0.45, 0.16)


def synthetic_flowers(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Draws colour pictures of flowers.

    The same seed gives the same pictures, and a shorter series is the beginning of a longer one.

    Args:
        count: How many pictures, at least 1.
        size: Pixels a side.
        seed: Of everything that is random in them.

    Returns:
        (count, size, size, 3) uint8, RGB.
    """
    return np.stack([_picture(np.random.default_rng([seed, index]), size) for index in range(count)])


def _picture(rng: np.random.Generator, size: int) -> np.ndarray:
    fine = 2 * size  # drawn at twice the size and averaged over 2×2 pixels, which smooths every edge
    y, x = np.mgrid[0:fine, 0:fine].astype(np.float32) / fine
    canvas = _meadow(rng, y, x)
    for _ in range(rng.integers(1, 4)):
        _plant(rng, canvas, y, x)
    canvas = canvas.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))
    return np.rint(canvas.clip(0, 1) * 255).astype(np.uint8)


def _meadow(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    horizon = rng.uniform(0.15, 0.40) + 0.03 * np.sin(rng.uniform(4, 9) * x + rng.uniform(0, 6))
    soil_line = rng.uniform(0.85, 0.95) + 0.02 * np.sin(rng.uniform(9, 20) * x + rng.uniform(0, 6))
    sky = _blend(SKY_TOP, SKY_HORIZON, (y / horizon).clip(0, 1))
    meadow = _blend(MEADOW_FAR, MEADOW_NEAR, ((y - horizon) / (1 - horizon)).clip(0, 1))
    blades = 0.10 * np.sin(rng.uniform(60, 90) * (x + 0.25 * y) + rng.uniform(0, 6)) * rng.normal(1, 0.4, y.shape)
    soil = np.broadcast_to(np.array(SOIL, np.float32), meadow.shape) * (1 + 0.25 * rng.normal(0, 1, y.shape))[..., None]
    canvas = np.where((y < horizon)[..., None], sky, meadow * (1 + blades)[..., None])
    return np.where((y > soil_line)[..., None], soil, canvas).astype(np.float32)


def _plant(rng: np.random.Generator, canvas: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
    family = FAMILIES[rng.choice(list(FAMILIES))]
    centre_y, centre_x = rng.uniform(0.22, 0.68), rng.uniform(0.18, 0.82)
    radius = rng.uniform(0.13, 0.27)
    edge = 1.5 / len(y)  # half the width of an outline's soft edge, in picture heights

    bend = rng.uniform(-0.15, 0.15)
    stem_x = centre_x + bend * (y - centre_y) ** 2
    _paint(canvas, STEM, np.where(y > centre_y, 0.012 - np.abs(x - stem_x), -1), edge)
    for side in (-1, 1):
        leaf_y = centre_y + radius + rng.uniform(0.05, 0.2)
        along = (x - centre_x) * side - 0.07
        across = y - leaf_y + 0.5 * along
        _paint(canvas, STEM, 0.03 - np.hypot(0.35 * along, across), edge, shade=1 + 3 * across)

    dy, dx = (y - centre_y), (x - centre_x) * rng.uniform(0.85, 1.2)
    distance, angle = np.hypot(dy, dx), np.arctan2(dy, dx) + rng.uniform(0, 6)
    petals = rng.integers(family.petals[0], family.petals[1] + 1)
    outline = np.abs(np.cos(angle * petals / 2)) ** family.sharpness
    reach = radius * (1 - family.depth + family.depth * outline)
    tint = np.array(family.petal) * rng.uniform(0.92, 1.04)
    shade = 0.72 + 0.20 * outline + 0.16 * (distance / radius)
    _paint(canvas, tint, reach - distance, edge, shade)
    disc = radius * family.centre_radius
    _paint(canvas, family.centre, disc - distance, edge, shade=1.1 - 0.3 * distance / disc)


def _blend(start: Colour, end: Colour, share: np.ndarray) -> np.ndarray:
    share = share[..., None]
    return np.array(start, np.float32) * (1 - share) + np.array(end, np.float32) * share


def _paint(
    canvas: np.ndarray, colour: Colour | np.ndarray, inside: np.ndarray, edge: float, shade: np.ndarray | float = 1.0
) -> None:
    """Paints `colour` times `shade` where `inside`, the distance to the outline, is positive; changes `canvas`."""
    cover = (0.5 + 0.5 * inside / edge).clip(0, 1)[..., None]
    paint = np.array(colour, np.float32) * np.broadcast_to(shade, inside.shape)[..., None]
    canvas += cover * (paint - canvas)
