"""What people call a colour: its name, by the hue in CIE L*a*b*."""

import numpy as np

PALE = 10.0  # C*ab, the chroma in CIE L*a*b*, up to which a colour is called white or gray
HUES = {"pink": 20, "red": 50, "orange": 72, "yellow": 105, "green": 190, "blue": 295, "purple": 345}
"""The hue angle in CIE a*b*, in degrees, at which each name ends; from the last one up to 360 it is pink again."""
NAMES = (*HUES, "white or gray")


def colour_name(a: float, b: float) -> str:
    """The name, one of `NAMES`, of a colour with this CIE a* and b*."""
    if np.hypot(a, b) <= PALE:
        return NAMES[-1]
    hue = np.degrees(np.arctan2(b, a)) % 360
    return next((name for name, end in HUES.items() if hue < end), "pink")
