"""Colorizes a photograph with ONNX Runtime, NumPy and Pillow alone: python forty_lines.py flowers-192.onnx IN OUT."""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

LUMA = np.float32([0.299, 0.587, 0.114])


def resized(plane, width, height, how):
    return np.asarray(Image.fromarray(plane).resize((width, height), how))


def colorized(session, photograph, style="safe"):
    gray = np.asarray(ImageOps.exif_transpose(photograph).convert("L"))  # (H, W), Rec. 601 luma
    about = session.get_modelmeta().custom_metadata_map
    size, side = int(about["size"]), int(about["judged_side"])

    # What the network sees: the area of a square of its working size, at the picture's aspect, sides even.
    scale = size / (gray.shape[0] * gray.shape[1]) ** 0.5
    h, w = (2 * max(1, min(round(scale * length / 2), 2 * size)) for length in gray.shape)
    small = resized(gray, w, h, Image.Resampling.BILINEAR)[None, None] / np.float32(255)
    hints = np.zeros((1, 3, h, w), np.float32)  # red and blue chroma, and 1 where a colour is given: here nowhere
    judged = np.zeros((0, 1, side, side), np.float32)  # pictures to judge, squashed to squares: here none
    ((chroma,),) = session.run([style], {"gray": small, "hints": hints, "judged": judged})  # (2, h/2, w/2)

    # Its chroma on the photograph's own luminance, scaled towards gray where the sum would leave the RGB cube.
    red, blue = (resized(plane, *gray.shape[::-1], Image.Resampling.BICUBIC) for plane in chroma)
    offsets = np.dstack([red, -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1], blue])  # the luma of chroma is 0
    level = gray[..., None] / np.float32(255)
    room = np.where(offsets > 0, 1 - level, level) / np.maximum(np.abs(offsets), 1e-6)
    colour = level + np.minimum(1, room.min(axis=2, keepdims=True)) * offsets
    return Image.fromarray(np.rint(255 * colour.clip(0, 1)).astype(np.uint8))


if __name__ == "__main__":
    model, source, target = sys.argv[1:]
    colorized(onnxruntime.InferenceSession(model), Image.open(source)).save(target)
