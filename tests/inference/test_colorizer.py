import io
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from colorize_utils import checkpoints, palette
from colorize_utils.colour import gray_levels
from colorize_utils.data import pictures
from colorize_utils.data.pictures import to_gray
from colorize_utils.errors import CheckpointError, PictureError
from colorize_utils.inference import STYLES, Colorizer
from colorize_utils.models import DistributionUNet, MeanColour
from colorize_utils.multiscale import MultiscaleUNet


@pytest.fixture
def colorizer(tiny_unet):
    """An untrained network with plenty of chroma, working at 32×32."""
    with torch.no_grad():
        tiny_unet.conv_last.weight.mul_(3)
    return Colorizer(tiny_unet, 32, device="cpu")


def gray_of(image):
    return np.asarray(image.convert("L"))


def encoded(image, format_name, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


# ---------------------------------------------------------------- sizes and luminance


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 1), (1, 500), (700, 3), (31, 33), (32, 32), (257, 64), (640, 427), (12, 9000)]
)
def test_luminance_is_kept_to_the_pixel_at_any_size(colorizer, size):
    levels = np.random.default_rng(size).integers(0, 256, size[::-1], dtype=np.uint8)
    colour = colorizer.colorize(Image.fromarray(levels))
    assert (colour.mode, colour.size) == ("RGB", size)
    np.testing.assert_array_equal(gray_of(colour), levels)


def test_there_is_colour(colorizer, gray_image):
    rgb = np.asarray(colorizer.colorize(gray_image)).astype(int)
    assert (rgb.max(-1) - rgb.min(-1)).mean() > 10


def test_chroma_is_the_networks(colorizer):
    """At the working size nothing is resampled: the result is the network's chroma on the given luma, rounded."""
    levels = np.full((32, 32), 128, np.uint8)
    levels[::2] = 120
    with torch.no_grad():
        raw = colorizer.engine.network(torch.from_numpy(levels)[None, None] / 255)[0].permute(1, 2, 0).double().numpy()
    luma = raw @ np.array([19595, 38470, 7471]) / 65536
    expected = levels[..., None] + 255 * 0.1 * (raw - luma[..., None])
    result = np.asarray(colorizer.colorize(levels, strength=0.1)).astype(float)
    assert np.abs(result - expected).max() <= 1.5


def test_strength_scales_chroma_and_nothing_is_gray(colorizer, gray_image):
    none = np.asarray(colorizer.colorize(gray_image, strength=0))
    np.testing.assert_array_equal(none, np.repeat(np.asarray(gray_image)[..., None], 3, axis=-1))

    def chroma(strength):
        rgb = np.asarray(colorizer.colorize(gray_image, strength=strength)).astype(int)
        return (rgb.max(-1) - rgb.min(-1)).mean()

    assert chroma(0.2) < chroma(0.6) < chroma(1.0)


class Patches(torch.nn.Module):
    """A 'network' with one strong random colour in each cell of 4×4 pixels."""

    def forward(self, gray):
        colour = torch.rand(1, 3, gray.shape[2] // 4, gray.shape[3] // 4, generator=torch.Generator().manual_seed(0))
        return F.interpolate(colour, gray.shape[2:])


def test_chroma_is_enlarged_smoothly():
    """Between a large picture's neighbouring pixels chroma changes by little, although it varies a lot in all."""
    colorizer = Colorizer(Patches(), 32, device="cpu")
    rgb = np.asarray(colorizer.colorize(np.full((1200, 1600), 128, np.uint8), strength=0.5)).astype(int)
    assert np.ptp(rgb[..., 0]) > 60
    assert np.abs(np.diff(rgb, axis=0)).max() <= 8
    assert np.abs(np.diff(rgb, axis=1)).max() <= 8


def test_bands_do_not_show(colorizer, monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (301, 203), dtype=np.uint8)
    whole = np.asarray(colorizer.colorize(levels))
    monkeypatch.setattr("colorize_utils.inference.colorizer._BAND", 1000)
    difference = np.abs(np.asarray(colorizer.colorize(levels)).astype(int) - whole)
    assert difference.max() <= 1  # a matrix product of other shape may round differently
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("size", [(32, 32), (90, 61)])
def test_raw_output_is_the_submissions_clamped(colorizer, size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, size[::-1], dtype=np.uint8))
    gray = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])(image)
    with torch.no_grad():
        fake = colorizer.engine.network(gray[None])
    fake = F.interpolate(fake, size[::-1], mode="bicubic", antialias=True).clamp(0, 1)[0]
    raw = colorizer.colorize(image, keep_luminance=False)
    assert raw.size == size
    assert np.abs(np.asarray(raw) - 255 * fake.permute(1, 2, 0).numpy()).max() <= 1


def test_painter_is_colorize_on_batches(colorizer):
    levels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    predicted = colorizer.predictor()(torch.from_numpy(levels).unsqueeze(1) / 255)
    assert predicted.shape == (3, 3, 32, 32)
    for picture, colour in zip(levels, predicted, strict=True):
        assert torch.equal(colour, transforms.functional.to_tensor(colorizer.colorize(picture)))


@pytest.mark.slow
def test_a_24_megapixel_photograph_needs_less_than_2_gb(tmp_path, tiny_checkpoint):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (400, 600), dtype=np.uint8))
    small.resize((6000, 4000)).save(tmp_path / "large.jpg")
    script = """
import os, resource, sys
from colorize_utils.cli import main
status = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if os.path.exists("/proc/self/status"):  # the other number begins with the memory of the process that started this one
    (peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak)
sys.exit(status)
"""
    arguments = [tmp_path / "large.jpg", "-o", tmp_path / "large.png", "--model", tiny_checkpoint]
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout.split()[-1]) < 2_000_000  # KiB
    large, colour = (Image.open(tmp_path / name) for name in ("large.jpg", "large.png"))
    assert colour.size == (6000, 4000)
    np.testing.assert_array_equal(gray_of(colour), gray_of(large))


# ---------------------------------------------------------------- every kind of picture


def modes():
    """name → (picture as Pillow has it, the 8-bit gray it stands for)."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    rgb = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    gray, colour = Image.fromarray(levels), Image.fromarray(rgb)
    wide = levels.astype(np.uint16) * 257
    bits = Image.fromarray(levels > 127)
    palette = colour.quantize(16)
    return {
        "L": (gray, levels),
        "1": (bits, np.where(levels > 127, 255, 0)),
        "I;16": (Image.fromarray(wide), levels),
        "I": (Image.fromarray(wide.astype(np.int32)), levels),
        "I in 8 bits": (Image.fromarray(levels.astype(np.int32)), levels),
        "F in [0, 1]": (Image.fromarray((levels / 255).astype(np.float32)), levels),
        "F in [0, 255]": (Image.fromarray(levels.astype(np.float32)), levels),
        "F in [0, 65535]": (Image.fromarray(wide.astype(np.float32)), levels),
        "RGB": (colour, gray_of(colour)),
        "P": (palette, gray_of(palette.convert("RGB"))),
        "CMYK": (colour.convert("CMYK"), gray_of(colour.convert("CMYK").convert("RGB"))),
        "YCbCr": (colour.convert("YCbCr"), gray_of(colour.convert("YCbCr"))),
        "HSV": (colour.convert("HSV"), gray_of(colour.convert("HSV").convert("RGB"))),
    }


@pytest.mark.parametrize("name", modes())
def test_modes_without_alpha(colorizer, name):
    image, expected = modes()[name]
    colour = colorizer.colorize(image)
    assert (colour.mode, colour.size) == ("RGB", (30, 20))
    np.testing.assert_array_equal(gray_of(colour), expected)


def test_lab_becomes_the_gray_of_its_colour(colorizer):
    from PIL import ImageCms

    colour = Image.new("RGB", (8, 8), (200, 60, 90))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = ImageCms.profileToProfile(colour, srgb, lab, outputMode="LAB")
    assert np.abs(gray_of(colorizer.colorize(picture)).astype(int) - gray_of(colour)).max() <= 2


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_alpha_is_kept(colorizer, mode):
    rng = np.random.default_rng(0)
    levels, alpha = rng.integers(0, 256, (2, 20, 30), dtype=np.uint8)
    image = Image.merge("LA", (Image.fromarray(levels), Image.fromarray(alpha)))
    if mode == "PA":
        palette = Image.fromarray(levels)
        palette.putpalette([level for level in range(256) for _ in range(3)])
        image = palette.convert("PA")
        image.putalpha(Image.fromarray(alpha))
    elif mode == "La":
        image = image.convert("La")
    elif mode != "LA":
        image = image.convert("RGBA")
        image = image.convert(mode) if mode != "RGBA" else image
    colour = colorizer.colorize(image)
    assert (colour.mode, colour.size) == ("RGBA", (30, 20))
    np.testing.assert_array_equal(np.asarray(colour.getchannel("A")), alpha)
    if mode in ("LA", "RGBA", "PA"):  # premultiplied modes lose luma where they are transparent
        np.testing.assert_array_equal(gray_of(colour.convert("RGB")), levels)


def test_a_transparent_palette_colour_becomes_alpha(colorizer):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 90, 90, 90])
    palette.putpixel((0, 0), 0)
    colour = colorizer.colorize(encoded(palette, "PNG", transparency=0))
    assert colour.mode == "RGBA"
    assert colour.getchannel("A").getextrema() == (0, 255)
    assert gray_of(colour.convert("RGB"))[1, 1] == 90


def test_a_transparent_level_of_16_bits_becomes_alpha(colorizer):
    levels = np.array([[500, 500 * 2], [257 * 90, 500]], np.uint16)
    image = Image.fromarray(levels)
    image.info["transparency"] = 500
    colour = colorizer.colorize(image)
    assert np.asarray(colour.getchannel("A")).tolist() == [[0, 255], [255, 0]]
    assert gray_of(colour.convert("RGB"))[1, 0] == 90


def test_a_mode_that_cannot_be_converted_is_told(colorizer, tmp_path, monkeypatch):
    path = tmp_path / "odd.png"
    path.write_bytes(encoded(Image.new("P", (9, 9)), "PNG"))
    monkeypatch.setattr(pictures, "_to_l", lambda _: (_ for _ in ()).throw(ValueError("conversion not supported")))
    with pytest.raises(PictureError, match=r"odd.png cannot be turned gray .conversion not supported"):
        colorizer.colorize(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(colorizer, orientation):
    levels = np.zeros((24, 40), np.uint8)
    levels[:, :10] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(levels), "PNG", exif=exif)
    turned = {1: levels, 2: levels[:, ::-1], 3: levels[::-1, ::-1], 4: levels[::-1], 5: levels.T}
    turned |= {6: levels.T[:, ::-1], 7: levels.T[::-1, ::-1], 8: levels.T[::-1]}
    colour = colorizer.colorize(content)
    np.testing.assert_array_equal(gray_of(colour), turned[orientation])


def test_half_precision_tensors(colorizer):
    values = torch.rand(20, 30).bfloat16()
    expected = (255 * values.float()).round().byte().numpy()
    np.testing.assert_array_equal(gray_of(colorizer.colorize(values)), expected)


def test_an_rgba_palette_has_alpha(colorizer):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 90, 90, 90, 255], "RGBA")
    palette.putpixel((0, 0), 0)
    colour = colorizer.colorize(palette)
    assert colour.mode == "RGBA"
    assert colour.getchannel("A").getextrema() == (0, 255)


def test_a_dark_picture_of_16_bits_stays_dark(colorizer, tmp_path):
    levels = np.full((20, 30), 200, np.uint16)
    Image.fromarray(levels).save(tmp_path / "dark.png")
    (tmp_path / "dark.pgm").write_bytes(b"P5 30 20 65535\n" + levels.astype(">u2").tobytes())
    for path in tmp_path.glob("dark.*"):
        assert gray_of(colorizer.colorize(path)).max() == 1, path


def test_files_of_many_formats(colorizer, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    image = Image.fromarray(levels)
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray((levels / 255).astype(np.float32)).save(tmp_path / "float.tiff")
    for name in ("a.png", "b.tif", "c.bmp", "d.pgm", "e.gif"):
        image.save(tmp_path / name)
    image.save(tmp_path / "f.webp", lossless=True)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(gray_of(colorizer.colorize(path)), levels, err_msg=path.name)
        np.testing.assert_array_equal(gray_of(colorizer.colorize(str(path))), levels)
        np.testing.assert_array_equal(gray_of(colorizer.colorize(path.read_bytes())), levels)


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("dtype", ["uint8", "bool", "uint16", "float32", "float64"])
def test_arrays_and_tensors(colorizer, wrap, dtype):
    levels = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    values, expected = {
        "uint8": (levels, levels),
        "bool": (levels > 99, np.where(levels > 99, 255, 0)),
        "uint16": (levels.astype(np.uint16) * 257, levels),
        "float32": ((levels / 255).astype(np.float32), levels),
        "float64": (levels / 255, levels),
    }[dtype]
    np.testing.assert_array_equal(gray_of(colorizer.colorize(wrap(values))), expected)
    leading = values[None] if wrap is torch.from_numpy else values[..., None]  # a channel of its own
    np.testing.assert_array_equal(gray_of(colorizer.colorize(wrap(leading))), expected)


def test_arrays_with_channels(colorizer):
    channels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    expected = gray_of(Image.fromarray(channels[..., :3].copy()))
    colour = colorizer.colorize(channels)
    np.testing.assert_array_equal(gray_of(colour.convert("RGB")), expected)
    np.testing.assert_array_equal(np.asarray(colour.getchannel("A")), channels[..., 3])
    tensor = torch.from_numpy(channels[..., :3].copy()).permute(2, 0, 1)
    np.testing.assert_array_equal(gray_of(colorizer.colorize(tensor)), expected)
    assert to_gray(channels[..., :2]).alpha.tolist() == channels[..., 1].tolist()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.int64), "must be bool, uint8, uint16 or float, got int64"),
        (np.zeros((2, 2, 5), np.uint8), r"1 to 4 channels.*got \(2, 2, 5\)"),
        (np.zeros((0, 4), np.uint8), "at least one pixel"),
        (np.zeros(4, np.uint8), r"shape \(H, W\)"),
        (np.array([[0.0, 2.0]]), r"floats must lie in \[0, 1\], got 0 … 2"),
        (np.array([[0.0, np.nan]]), r"floats must lie in \[0, 1\]"),
        (torch.zeros(2, 3, 4, 4), r"got \(2, 3, 4, 4\)"),
    ],
)
def test_arrays_that_do_not_fit(colorizer, array, message):
    with pytest.raises(ValueError, match=message):
        colorizer.colorize(array)


# ---------------------------------------------------------------- what goes wrong


def huge_png(width, height):
    """The head of a PNG that claims a size, without the pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bad_files(folder):
    photograph = encoded(Image.effect_noise((200, 200), 50), "JPEG")
    contents = {
        "empty.jpg": (b"", r"is empty \(0 bytes\)"),
        "text.jpg": (b"no picture at all", "is not a picture that can be read"),
        "cut.jpg": (photograph[:1000], "is damaged or cut short"),
        "cut.png": (encoded(Image.effect_noise((200, 200), 50), "PNG")[:3000], "is damaged or cut short"),
        "enormous.png": (huge_png(60_000, 60_000), "more than 178 million pixels; make it smaller"),
        "large.png": (huge_png(15_000, 12_000), "more than 178 million pixels; make it smaller"),
    }
    for name, (content, message) in contents.items():
        (folder / name).write_bytes(content)
        yield name, message
    yield "missing.jpg", "does not exist"
    yield "text.jpg/below.jpg", "does not exist"
    (folder / "folder.jpg").mkdir()
    yield "folder.jpg", "is a folder"


def test_bad_files_get_one_line_that_names_them(colorizer, tmp_path):
    for name, message in bad_files(tmp_path):
        with pytest.raises(PictureError) as error:
            colorizer.colorize(tmp_path / name)
        assert re.search(message, str(error.value)), (name, error.value)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"nothing", encoded(Image.new("L", (99, 99)), "PNG")[:60]])
def test_bad_bytes_are_told_too(colorizer, content):
    with pytest.raises(PictureError, match="the picture is"):
        colorizer.colorize(content)


def test_wide_values_out_of_every_range_are_told(colorizer):
    for values in (np.full((2, 2), -1.0), np.full((2, 2), 1e6), np.full((2, 2), np.nan)):
        with pytest.raises(
            PictureError, match=r"the picture has values in .*; scale them to 0 … 1, 0 … 255 or 0 … 65535"
        ):
            colorizer.colorize(Image.fromarray(values.astype(np.float32)))


def test_sizes_in_memory_are_checked_too(colorizer, monkeypatch):
    with pytest.raises(PictureError, match="no pixels"):
        colorizer.colorize(Image.new("L", (0, 5)))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1_000_000)
    with pytest.raises(PictureError, match="the picture has 1001×1000 pixels, over 1 million; make it smaller"):
        colorizer.colorize(Image.new("L", (1001, 1000)))


def test_a_file_that_may_not_be_read_is_told(colorizer, tmp_path, monkeypatch):
    (tmp_path / "secret.png").write_bytes(encoded(Image.new("L", (9, 9)), "PNG"))
    monkeypatch.setattr(pictures.Image, "open", lambda _: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(PictureError, match=r"secret.png may not be read"):
        colorizer.colorize(tmp_path / "secret.png")


# ---------------------------------------------------------------- styles


class Believes(DistributionUNet):
    """A 'network' that believes three parts in one colour of the palette and one part in another, everywhere."""

    def __init__(self):
        super().__init__(width=1 / 64)

    def forward(self, gray):
        logits = torch.full((len(gray), palette.COLOURS, gray.shape[2] // 2, gray.shape[3] // 2), -1e4)
        logits[:, 20], logits[:, 150] = np.log(0.75), np.log(0.25)
        return logits


@pytest.fixture(params=["one size", "several"])
def distributed(request):
    torch.manual_seed(0)
    network = DistributionUNet(1 / 16) if request.param == "one size" else MultiscaleUNet(1 / 16, sizes=(32, 64))
    with torch.no_grad():
        network.head.weight.mul_(400)  # untrained, it believes in all colours alike
    return Colorizer(network, 32 if request.param == "one size" else 64, device="cpu")


def test_styles_are_the_distributions_annealed_mean_and_its_strength():
    colorizer = Colorizer(MeanColour(Believes()), 32, device="cpu")
    assert colorizer.styles == STYLES
    colours = palette.chromas()[[20, 150]].numpy()
    larger = np.array([0.75, 0.25]) ** (1 / palette.TEMPERATURE)
    mean, strength = larger / larger.sum() @ colours, [0.75, 0.25] @ np.linalg.norm(colours, axis=1)
    indices, shares = palette.encode(torch.from_numpy(mean[None].astype(np.float32)))
    kept = (shares[0] * palette.chromas()[indices[0]].norm(dim=1)).sum().item()
    safe = palette.GAIN * mean
    vivid = min(palette.MOST_GAIN, palette.EMPHASIS * strength / kept) * mean
    levels = np.full((32, 48), 128, np.uint8)
    for style, expected in (("safe", safe), ("vivid", vivid)):
        rgb = np.asarray(colorizer.colorize(levels, strength=0.3, style=style)).astype(float)
        assert np.abs(rgb[..., [0, 2]] - (128 + 255 * 0.3 * expected)).max() <= 1
    default = np.asarray(colorizer.colorize(levels))
    np.testing.assert_array_equal(default, np.asarray(colorizer.colorize(levels, style=colorizer.default_style)))
    weak = [np.asarray(colorizer.colorize(levels, strength=0.3, style=style)) for style in (None, "vivid")]
    assert not np.array_equal(*weak)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (31, 33), (32, 32), (257, 64), (640, 427)])
@pytest.mark.parametrize("style", STYLES)
def test_every_style_keeps_luminance_at_any_size(distributed, size, style):
    levels = np.random.default_rng(size).integers(0, 256, size[::-1], dtype=np.uint8)
    colour = distributed.colorize(Image.fromarray(levels), style=style)
    assert colour.size == size
    np.testing.assert_array_equal(gray_of(colour), levels)


def test_a_picture_and_its_mirror_image_get_the_same_colours(distributed):
    levels = np.random.default_rng(3).integers(0, 256, (64, 64), dtype=np.uint8)
    one, other = (np.asarray(distributed.colorize(np.ascontiguousarray(side))) for side in (levels, levels[:, ::-1]))
    np.testing.assert_array_equal(one, other[:, ::-1])


@pytest.mark.parametrize("distributed", ["one size"], indirect=True)
def test_what_is_shown_in_training_is_nearly_what_people_get(distributed, monkeypatch):
    """`MeanColour` is the safe style, not annealed, without the mirror image and the last rounding."""
    monkeypatch.setattr(palette, "TEMPERATURE", 1.0)
    monkeypatch.setattr(palette, "GAIN", 1.0)
    gray = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(5)) * 0.2 + 0.4
    levels = (255 * gray).round()
    mirrored = torch.cat([levels, levels.flip(-1)]) / 255
    with torch.no_grad():
        logits = distributed.engine.network.networks[0](mirrored)
    logits = (logits[:1] + logits[1:].flip(-1)) / 2
    expected = MeanColour.colour(levels / 255, logits)[0].permute(1, 2, 0).numpy()
    result = np.asarray(distributed.colorize(levels[0, 0].byte().numpy(), style="safe"))
    assert np.abs(result - 255 * expected)[4:-4, 4:-4].max() < 3  # an edge is continued otherwise


def test_raw_output_of_a_distribution_is_squashed_too(distributed):
    levels = np.random.default_rng(4).integers(0, 256, (40, 90), dtype=np.uint8)
    raw = distributed.colorize(levels, keep_luminance=False)
    assert raw.size == (90, 40)
    assert not np.array_equal(gray_of(raw), levels)


def test_a_network_of_one_colour_has_one_style(colorizer, gray_image):
    assert colorizer.styles == ("safe",)
    same = colorizer.colorize(gray_image, style="safe")
    np.testing.assert_array_equal(np.asarray(same), np.asarray(colorizer.colorize(gray_image)))
    with pytest.raises(ValueError, match="no style 'vivid'; try strength"):
        colorizer.colorize(gray_image, style="vivid")
    with pytest.raises(ValueError, match="style must be one of safe, vivid, got 'loud'"):
        colorizer.colorize(gray_image, style="loud")


def test_a_style_is_scored_on_batches(distributed):
    gray = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    predicted = distributed.predictor(style="vivid")(gray)
    assert predicted.shape == (2, 3, 32, 32)
    levels = gray_levels((255 * predicted).round().byte())
    assert torch.equal(levels, (255 * gray).round().byte())


# ---------------------------------------------------------------- damaged checkpoints


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda tensor: tensor * 1e38,  # finite, as long as nothing is multiplied with it
    ],
)
def test_weights_that_no_network_can_have_are_told_in_a_line(tmp_path, tiny_unet, gray_image, damage):
    state = tiny_unet.state_dict()
    state["conv_last.weight"] = damage(state["conv_last.weight"])
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError) as error:
        Colorizer.from_checkpoint(tmp_path / "weights.pth", "cpu").colorize(gray_image)
    assert "weights.pth" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [10**5, 2**70])
def test_a_working_size_beyond_all_memory_is_told(tmp_path, tiny_unet, gray_image, size):
    path = checkpoints.save(tmp_path / "weights.safetensors", tiny_unet, {"size": size})
    with pytest.raises(CheckpointError, match="working size"):
        Colorizer.from_checkpoint(path, "cpu").colorize(gray_image)


def test_metadata_that_nests_without_end_is_told(tmp_path, tiny_unet, gray_image):
    save_file(tiny_unet.state_dict(), tmp_path / "weights.safetensors", metadata={"size": "[" * 100_000})
    with pytest.raises(CheckpointError, match="working size"):
        Colorizer.from_checkpoint(tmp_path / "weights.safetensors", "cpu")
