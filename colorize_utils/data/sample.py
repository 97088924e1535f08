"""The photograph to try things on, which comes with the package."""

from pathlib import Path

from PIL import Image

_FILE = Path(__file__).with_name("sample-flower.png")


def sample_photograph() -> Image.Image:
    """A gray photograph of a flower, a dahlia before dark leaves.

    Returns:
        A picture of 640×427 pixels, mode "L".

    Source:
        CC BY 2.0, flickr.com/photos/vultilion/6056698931; scikit-learn's `flower.jpg`, turned gray.
    """
    with Image.open(_FILE) as image:
        image.load()
    return image
