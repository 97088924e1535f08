import numpy as np
from PIL import Image
from sklearn.neighbors import KNeighborsRegressor

from colorize_utils.data.synthetic import FAMILIES, synthetic_flowers


def test_the_same_seed_gives_the_same_pictures():
    few, many = synthetic_flowers(3, 32, seed=7), synthetic_flowers(5, 32, seed=7)
    np.testing.assert_array_equal(few, many[:3])
    assert (synthetic_flowers(3, 32, seed=8) != few).mean() > 0.5
    assert few.shape == (3, 32, 32, 3)
    assert few.dtype == np.uint8


def test_colour_follows_from_what_a_gray_picture_shows():
    """Chroma predicted from a pixel's gray surroundings and height beats the best constant on unseen pictures."""

    def features(pictures):
        gray = np.stack([np.asarray(Image.fromarray(picture).convert("L"), np.float32) for picture in pictures])
        shifts = [np.roll(gray, (dy, dx), (1, 2)) for dy in (-4, 0, 4) for dx in (-4, 0, 4)]
        height = np.broadcast_to(8.0 * np.arange(32)[:, None], gray.shape)
        return np.stack([*shifts, height], axis=-1).reshape(-1, 10), (pictures - gray[..., None]).reshape(-1, 3)

    known, chroma = features(synthetic_flowers(40, 32, seed=0))
    unknown, truth = features(synthetic_flowers(10, 32, seed=1))
    model = KNeighborsRegressor(8).fit(known[::4], chroma[::4])
    learned = np.square(model.predict(unknown) - truth).mean()
    constant = np.square(chroma.mean(0) - truth).mean()
    assert learned < 0.5 * constant


def test_petal_families_have_hues_of_their_own():
    import colorsys

    vivid = {name: colorsys.rgb_to_hsv(*family.petal) for name, family in FAMILIES.items()}
    hues = sorted(hue for hue, saturation, _ in vivid.values() if saturation > 0.2)
    assert len(hues) >= 5
    assert min(np.diff([*hues, hues[0] + 1])) > 0.03
