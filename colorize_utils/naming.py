"""What people call a colour: its name, by the hue in CIE L*a*b*; and that of 8-bit colours."""

import numpy as np

PALE = 10.0  # C*ab, the chroma in CIE L*a*b*, up to which a colour is called white or gray
HUES = {"pink": 20, "red": 50, "orange": 72, "yellow": 105, "green": 190, "blue": 295, "purple": 345}
"""The hue angle in CIE a*b*, in degrees, at which each name ends; from the last one up to 360 it is pink again."""
NAMES = (*HUES, "white or gray")


# From linear sRGB to CIE XYZ, each row divided by the coordinate of the white point, D65 (2° observer).
TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
TO_XYZ /= np.array([[0.95047], [1.0], [1.08883]])


def lab(colours: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65 of a few colours; `metrics.lab` is that of many pictures, in a fraction of the time.

    Args:
        colours: (N, 3) uint8, sRGB (IEC 61966-2-1).

    Returns:
        (N, 3) float64: L* in [0, 100], a* and b*.
    """
    colour = colours / 255
    linear = np.where(colour > 0.04045, ((colour + 0.055) / 1.055) ** 2.4, colour / 12.92)
    xyz = linear @ TO_XYZ.T
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def colour_name(a: float, b: float) -> str:
    """The name, one of `NAMES`, of a colour with this CIE a* and b*."""
    if np.hypot(a, b) <= PALE:
        return NAMES[-1]
    hue = np.degrees(np.arctan2(b, a)) % 360
    return next((name for name, end in HUES.items() if hue < end), "pink")
