"""What belongs to a picture beside its pixels, from the file that was given to the file that is written."""

import hashlib
import io
import os
import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, IptcImagePlugin, TiffImagePlugin, features
from PIL.PngImagePlugin import PngInfo

from colorize_utils import __version__
from colorize_utils.checkpoints import save
from colorize_utils.cli import main
from colorize_utils.data.metadata import DIGITAL_SOURCE_TYPE, Metadata, read_mark
from colorize_utils.data.pictures import save_picture
from colorize_utils.errors import PictureError
from colorize_utils.inference import Colorizer
from colorize_utils.models import UNet, build_generator

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
DC = "{http://purl.org/dc/elements/1.1/}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
TIFF = "{http://ns.adobe.com/tiff/1.0/}"
PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
SOFTWARE, ORIENTATION, X_RESOLUTION, Y_RESOLUTION, UNIT = 0x0131, 0x0112, 0x011A, 0x011B, 0x0128
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="uuid:1931" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 photoshop:Instructions="two&#xA;lines" photoshop:ColorMode="1" tiff:Make="Ernemann"
 Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/negativeFilm"/>
<rdf:Description rdf:about="uuid:1931" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>
<rdf:li xml:lang="x-default">Tante Käthe &amp; der Hund</rdf:li></rdf:Alt></dc:description></rdf:Description>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()
CAPTION = b"\x1c\x02\x78\x00\x07my aunt"  # IPTC 2:120


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tiny_checkpoint):
    return ["--model", str(tiny_checkpoint), "--device", "cpu", "--quiet"]


@pytest.fixture
def photograph():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8))


def run(*arguments):
    return main([str(argument) for argument in arguments])


def exif_of(**entries):
    names = {"description": 0x010E, "orientation": ORIENTATION, "software": SOFTWARE}
    names |= {"x": X_RESOLUTION, "y": Y_RESOLUTION, "unit": UNIT}
    exif = Image.Exif()
    exif.update({names[name]: entry for name, entry in entries.items()})
    return exif


def photoshop_segment(iptc):
    content = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


def full_jpeg(image, **changes):
    options = {"exif": exif_of(x=300, y=300, unit=2).tobytes(), "dpi": (300, 300), "xmp": PACKET}
    options |= {"comment": b"found in the attic", "extra": photoshop_segment(CAPTION)}
    image.save("photo.jpg", **(options | changes))


def written(name):
    """A result as independent readers have it: Pillow takes the packet from the file, the standard library reads it."""
    image = Image.open(name)
    image.load()
    packet = image.info.get("xmp")
    return image, None if packet is None else ET.fromstring(packet.decode().strip("\0"))


def told(root, name):
    """The values of a property of XMP, as attribute or as element."""
    descriptions = root.findall(f"{RDF}RDF/{RDF}Description")
    assert len({description.get(f"{RDF}about") for description in descriptions}) == 1
    attributes = [description.get(name) for description in descriptions if name in description.attrib]
    return attributes + [element.text for description in descriptions for element in description.findall(name)]


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_what_a_format_can_hold_is_kept(model, photograph, suffix):
    full_jpeg(photograph)
    assert run("photo.jpg", "-o", f"colour.{suffix}", *model) == 0
    colour, xmp = written(f"colour.{suffix}")
    if suffix in ("jpg", "png", "tif", "bmp"):
        assert colour.info["dpi"] == pytest.approx((300, 300), abs=0.02)  # PNG and BMP count in metres
    if suffix == "bmp":
        assert xmp is None
        return
    assert [colour.getexif()[tag] for tag in (X_RESOLUTION, Y_RESOLUTION, UNIT)] == [300, 300, 2]
    assert xmp.find(f".//{DC}description//{RDF}li").text == "Tante Käthe & der Hund"
    assert told(xmp, f"{PHOTOSHOP}Instructions") == ["two\nlines"]
    assert told(xmp, f"{TIFF}Make") == ["Ernemann"]
    assert told(xmp, f"{PHOTOSHOP}ColorMode") == []  # which was gray
    if suffix == "jpg":
        assert colour.info["comment"] == b"found in the attic"
    if suffix == "png":
        assert colour.text["Comment"] == "found in the attic"
    if suffix in ("jpg", "tif"):
        assert IptcImagePlugin.getiptcinfo(colour)[2, 120] == b"my aunt"


SOMEWHERE = PACKET.replace(
    b" photoshop:Instructions=",
    b' xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="51,2N" exif:FNumber="8/1" photoshop:City="Dresden"'
    b" photoshop:Instructions=",
)
CITY = b"\x1c\x02\x5a\x00\x07Dresden"  # IPTC 2:90


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_where_a_picture_was_taken_is_left_out_where_that_is_asked_for(model, photograph, suffix):
    exif = exif_of(description="my aunt")
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 2.0, 0.0)})
    exif.get_ifd(0x8769).update({0x829D: 8.0})
    full_jpeg(photograph, exif=exif.tobytes(), xmp=SOMEWHERE, extra=photoshop_segment(CITY + CAPTION))
    assert b"Dresden" in Path("photo.jpg").read_bytes()
    for name, options, kept in (("with", [], True), ("without", ["--no-place"], False)):
        assert run("photo.jpg", "-o", f"{name}.{suffix}", *options, *model) == 0
        colour, xmp = written(f"{name}.{suffix}")
        assert bool(colour.getexif().get_ifd(0x8825)) == kept
        assert (b"Dresden" in Path(f"{name}.{suffix}").read_bytes()) == kept
        assert (told(xmp, "{http://ns.adobe.com/exif/1.0/}GPSLatitude") == ["51,2N"]) == kept
        # What is not about the place stays.
        assert colour.getexif()[0x010E] == "my aunt"
        assert colour.getexif().get_ifd(0x8769)[0x829D] == 8
        assert told(xmp, "{http://ns.adobe.com/exif/1.0/}FNumber") == ["8/1"]
        if suffix in ("jpg", "tif"):
            assert IptcImagePlugin.getiptcinfo(colour)[2, 120] == b"my aunt"


def test_every_page_of_a_file_is_without_its_place(model, photograph):
    exif = exif_of(description="my aunt")
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 2.0, 0.0)})
    photograph.save("photo.tif", save_all=True, append_images=[photograph], exif=exif)
    assert run("photo.tif", "-o", "colour.tif", "--no-place", *model) == 0
    with Image.open("colour.tif") as colour:
        assert colour.n_frames == 2
        assert not any(0x8825 in colour.tag_v2 for page in range(2) if not colour.seek(page))


@pytest.mark.parametrize(
    "broken", [{"xmp": b"<x exif:GPSLatitude='1'"}, {"xmp": b"<!DOCTYPE x><x/>"}, {"iptc": b"Dresden"}]
)
def test_what_cannot_be_searched_for_the_place_is_left_out(broken):
    assert Metadata(**broken).without_place() == Metadata()
    assert Metadata(text={"exif:GPSLatitude": "51/1", "Author": "Käthe"}).without_place().text == {"Author": "Käthe"}


def test_the_density_of_a_jpeg_is_kept_where_it_has_no_exif(model, photograph):
    photograph.save("photo.jpg", dpi=(150, 150))
    for name in ("a.jpg", "a.png", "a.tif"):
        assert run("photo.jpg", "-o", name, *model) == 0
        assert Image.open(name).info["dpi"] == pytest.approx((150, 150), abs=0.02)
    assert run("photo.jpg", "-o", "a.webp", *model) == 0
    assert Image.open("a.webp").getexif()[X_RESOLUTION] == 150


def test_no_density_is_made_up(model, photograph):
    photograph.save("photo.jpg", exif=exif_of(description="my aunt").tobytes())
    for name in ("a.jpg", "a.png", "a.tif"):
        assert run("photo.jpg", "-o", name, *model) == 0
        assert Image.open(name).info.get("jfif_unit", 0) == 0
        assert X_RESOLUTION not in Image.open(name).getexif()


def test_a_tiff_hands_everything_on(model, photograph):
    layout = TiffImagePlugin.ImageFileDirectory_v2()
    layout.update({700: PACKET, 33723: CAPTION, 282: 118.11, 283: 118.11, 296: 3, 270: "my aunt"})
    photograph.save("photo.tif", tiffinfo=layout)
    for suffix in ("tif", "jpg"):
        assert run("photo.tif", "-o", f"colour.{suffix}", *model) == 0
        colour, xmp = written(f"colour.{suffix}")
        exif = colour.getexif()
        assert (float(exif[X_RESOLUTION]), exif[UNIT], exif[0x010E]) == (pytest.approx(118.11), 3, "my aunt")
        assert xmp.find(f".//{DC}description//{RDF}li").text == "Tante Käthe & der Hund"
        assert IptcImagePlugin.getiptcinfo(colour)[2, 120] == b"my aunt"
    assert colour.info["jfif_density"] == (300, 300)


def test_the_texts_of_a_png_and_the_comment_of_a_gif_are_kept(model, photograph):
    texts = PngInfo()
    texts.add_text("Author", "Käthe")
    texts.add_text("Comment", "found in the attic")
    texts.add_itxt("Title", "Ťante", "cs", "Titul")
    photograph.save("photo.png", pnginfo=texts, dpi=(600, 600))
    assert run("photo.png", "-o", "a.png", *model) == run("photo.png", "-o", "a.jpg", *model) == 0
    colour = Image.open("a.png")
    colour.load()
    assert {key: colour.text[key] for key in ("Author", "Comment", "Title")} == {
        "Author": "Käthe",
        "Comment": "found in the attic",
        "Title": "Ťante",
    }
    assert Image.open("a.jpg").info["comment"] == b"found in the attic"
    assert Image.open("a.jpg").info["dpi"] == (600, 600)
    photograph.save("photo.gif", comment=b"from the attic")
    assert run("photo.gif", *model) == 0
    assert written("photo-colorized.png")[0].text["Comment"] == "from the attic"


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_turned_picture_is_turned_once_with_its_resolution(model, photograph, suffix):
    """Some programs write the orientation into XMP, too, and a scanner's resolution may differ across and down."""
    packet = PACKET.replace(b"photoshop:ColorMode", b'tiff:Orientation="6" photoshop:ColorMode')
    for exif in (exif_of(orientation=6, x=300, y=200, unit=2), exif_of(x=300, y=200, unit=2)):
        full_jpeg(photograph, exif=exif.tobytes(), xmp=packet, dpi=(300, 200))
        assert run("photo.jpg", "-o", f"colour.{suffix}", "--overwrite", *model) == 0
        colour, xmp = written(f"colour.{suffix}")
        assert colour.size == (20, 30)
        assert colour.getexif().get(ORIENTATION, 1) == 1
        assert told(xmp, f"{TIFF}Orientation") == []
        assert [colour.getexif()[tag] for tag in (X_RESOLUTION, Y_RESOLUTION)] == [200, 300]
        if suffix != "webp":
            assert colour.info["dpi"] == pytest.approx((200, 300), abs=0.02)


@pytest.mark.parametrize(
    "packet",
    [
        b"not XML at all",
        PACKET[:-100],
        PACKET.replace(b"rdf:RDF", b"rdf:Other"),
        PACKET.replace(b"<x:xmpmeta", b'<!DOCTYPE x [<!ENTITY a "b">]><x:xmpmeta'),
        PACKET.replace("ä".encode(), b"\xe4"),
        b"<a>" * 5000,
        b"\0" * 50,
    ],
)
def test_broken_xmp_costs_neither_the_picture_nor_the_mark(model, photograph, packet):
    full_jpeg(photograph, xmp=packet)
    assert run("photo.jpg", *model) == 0
    _, xmp = written("photo-colorized.jpg")
    assert told(xmp, f"{IPTC}DigitalSourceType") == [DIGITAL_SOURCE_TYPE]
    assert run("photo.jpg", "-o", "bare.jpg", "--no-mark", *model) == 0
    assert "xmp" not in Image.open("bare.jpg").info


def test_what_a_jpeg_has_no_room_for_is_left_out(model, photograph):
    layout = TiffImagePlugin.ImageFileDirectory_v2()
    long = PACKET.replace(b"der Hund", b"der Hund " * 10_000)
    layout.update({700: long, 33723: CAPTION + bytes(70_000), 270: "my aunt"})
    exif = Image.Exif()
    exif[0x010E] = "my aunt"
    exif.get_ifd(0x8769)[0x927C] = os.urandom(70_000)
    photograph.save("long.tif", tiffinfo=layout)
    texts = PngInfo()
    texts.add_text("Comment", "long " * 20_000)
    photograph.save("long.png", pnginfo=texts, exif=exif.tobytes())
    for name in ("long.tif", "long.png"):
        assert run(name, "-o", "colour.jpg", "--overwrite", *model) == 0
        colour, xmp = written("colour.jpg")
        assert colour.getexif()[0x010E] == "my aunt"
        assert told(xmp, f"{IPTC}DigitalSourceType") == [DIGITAL_SOURCE_TYPE]
    assert run("long.tif", "-o", "colour.tif", *model) == 0
    assert len(Image.open("colour.tif").info["xmp"]) > len(long)


def test_webp_keeps_luminance_to_the_pixel(model, photograph):
    alpha = Image.merge("LA", (photograph, photograph.point(lambda level: 255 * (level > 99))))
    for name, image in (("photo.webp", photograph), ("clear.png", alpha)):
        image.save(name, **({"lossless": True} if name.endswith("webp") else {}))
        assert run(name, "-o", "colour.webp", "--overwrite", *model) == 0
        colour = Image.open("colour.webp").convert("RGB")
        np.testing.assert_array_equal(np.asarray(colour.convert("L")), np.asarray(photograph))
        assert np.asarray(colour).std(axis=-1).max() > 0


def test_an_original_that_is_gone_is_a_line(tiny_checkpoint, photograph):
    colorizer = Colorizer.from_checkpoint(tiny_checkpoint, "cpu")
    with pytest.raises(PictureError, match=r"photo.jpg is gone"):
        save_picture(colorizer.colorize(photograph), "a.jpg", "photo.jpg")
    assert not Path("a.jpg").exists()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_does_not_end_the_album(model, photograph, capfd):
    """Its decoder raises another error than Pillow's others."""
    Path("album").mkdir()
    photograph.save("album/b.png")
    photograph.save("album/a.avif")
    content = Path("album/a.avif").read_bytes()
    pixels = content.index(b"mdat") + 4
    Path("album/a.avif").write_bytes(content.replace(b"pitm", b"xxxx"))
    Path("album/c.avif").write_bytes(content[:pixels] + b"\xff" * 20 + content[pixels + 20 :])
    assert run("album", *model) == 1
    assert [line.split()[1] for line in capfd.readouterr().err.splitlines()] == ["album/a.avif", "album/c.avif"]
    assert Path("album-colorized/b.png").exists()


# ---------------------------------------------------------------- the mark


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("with_xmp", [True, False])
def test_results_say_that_their_colours_are_predicted(model, photograph, tiny_checkpoint, suffix, with_xmp):
    full_jpeg(photograph, exif=exif_of(software="EPSON Scan").tobytes(), **({} if with_xmp else {"xmp": b""}))
    assert run("photo.jpg", "-o", f"colour.{suffix}", *model) == 0
    colour, xmp = written(f"colour.{suffix}")
    checkpoint = Colorizer.from_checkpoint(tiny_checkpoint, "cpu").checkpoint[:12]
    software = colour.getexif()[SOFTWARE]
    assert software.startswith("EPSON Scan; colorize_utils ")
    system, version = told(xmp, f"{IPTC}AISystemUsed"), told(xmp, f"{IPTC}AISystemVersionUsed")
    for fact in ("tiny.safetensors", checkpoint, "safe", __version__):
        assert fact in software
        assert fact in system[0] + version[0]
    assert len(system) == len(version) == 1
    assert told(xmp, f"{IPTC}DigitalSourceType") == [DIGITAL_SOURCE_TYPE]


def test_the_checkpoint_of_the_mark_is_its_sha256(tiny_checkpoint):
    digest = hashlib.sha256(Path(tiny_checkpoint).read_bytes()).hexdigest()
    assert Colorizer.from_checkpoint(tiny_checkpoint, "cpu").mark().checkpoint == digest[:12]


def test_a_switch_leaves_the_mark_out(model, photograph):
    full_jpeg(photograph, exif=exif_of(software="EPSON Scan").tobytes())
    for name in ("a.jpg", "a.png", "a.tif", "a.webp"):
        assert run("photo.jpg", "-o", name, "--no-mark", *model) == 0
        colour, xmp = written(name)
        assert colour.getexif()[SOFTWARE] == "EPSON Scan"
        assert told(xmp, f"{IPTC}DigitalSourceType") == ["http://cv.iptc.org/newscodes/digitalsourcetype/negativeFilm"]
        assert b"colorize_utils" not in Path(name).read_bytes()


def test_a_format_that_holds_no_mark_says_nothing(model, photograph):
    full_jpeg(photograph)
    assert run("photo.jpg", "-o", "a.bmp", *model) == 0
    assert b"colorize" not in Path("a.bmp").read_bytes()


def test_a_result_that_is_colorized_again_has_one_mark(model, photograph):
    full_jpeg(photograph, exif=exif_of(software="EPSON Scan").tobytes())
    assert run("photo.jpg", "-o", "once.jpg", *model) == run("once.jpg", "-o", "twice.jpg", *model) == 0
    (once, _), (twice, xmp) = written("once.jpg"), written("twice.jpg")
    assert twice.getexif()[SOFTWARE] == once.getexif()[SOFTWARE]
    assert len(told(xmp, f"{IPTC}AISystemUsed")) == 1


def test_a_model_of_any_name(photograph, tiny_unet):
    name = 'Käthes <best> & "other" \a (1).safetensors'
    save(Path(name), tiny_unet, {"size": 32})
    photograph.save("photo.png")
    assert run("photo.png", "--model", name, "--device", "cpu", "--quiet") == 0
    _, xmp = written("photo-colorized.png")
    (system,) = told(xmp, f"{IPTC}AISystemUsed")
    assert 'Käthes <best> & "other" ? (1).safetensors' in system


def test_pictures_saved_from_python_have_metadata_and_mark(tiny_checkpoint, photograph):
    full_jpeg(photograph)
    colorizer = Colorizer.from_checkpoint(tiny_checkpoint, "cpu")
    save_picture(colorizer.colorize("photo.jpg"), "colour.jpg", "photo.jpg", colorizer.mark())
    colour, xmp = written("colour.jpg")
    assert told(xmp, f"{IPTC}DigitalSourceType") == [DIGITAL_SOURCE_TYPE]
    assert told(xmp, f"{TIFF}Make") == ["Ernemann"]
    assert "tiny.safetensors" in colour.getexif()[SOFTWARE]
    network = Colorizer(UNet(width=1 / 16), 32, device="cpu")  # of no file
    save_picture(network.colorize("photo.jpg"), "colour.png", mark=network.mark())
    assert "predicted by colorizer, style safe" in written("colour.png")[0].getexif()[SOFTWARE]


# ---------------------------------------------------------------- albums of several models


def two_models():
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        network = build_generator("distribution-unet", 1 / 16)
        save(Path(f"{name}.safetensors"), network, {"size": 32})
    return "one.safetensors", "two.safetensors"


def test_an_album_that_was_begun_with_another_model_says_so(photograph, capfd):
    one, two = two_models()
    Path("album").mkdir()
    for name in ("a.jpg", "b.png", "c.tif", "d.webp", "e.png"):
        photograph.save(Path("album") / name)

    def album(model, *options):
        status = run("album", "-o", "out", "--model", model, "--device", "cpu", "--quiet", *options)
        return status, capfd.readouterr().err

    assert album(one) == (0, "")
    Path("out/e.png").unlink()
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    status, line = album(two)
    assert status == 0  # nothing has failed
    assert len(line.splitlines()) == 1
    assert re.search(r"\b4\b", line)
    assert "one.safetensors" in line
    assert {path: path.read_bytes() for path in before} == before
    Path(one).rename("renamed.safetensors")  # the model is known by its content
    status, line = album("renamed.safetensors")
    assert "out/e.png" in line  # the only one by the other
    assert not re.search(r"\b4\b", line)
    assert re.search(r"\b5\b", album(two, "--style", "vivid")[1])
    assert album(two, "--overwrite") == album(two) == (0, "")


def test_results_without_a_mark_are_nobodys(photograph, capfd):
    one, two = two_models()
    Path("album").mkdir()
    photograph.save("album/a.png")
    Path("out").mkdir()
    Path("out/b.png").write_text("something of mine")
    photograph.save("album/b.png")
    assert run("album", "-o", "out", "--model", one, "--device", "cpu", "--quiet", "--no-mark") == 0
    assert run("album", "-o", "out", "--model", two, "--device", "cpu", "--quiet") == 0
    assert capfd.readouterr().err == ""


def test_a_mark_is_read_from_the_head(tiny_checkpoint, photograph):
    """So that a large album is looked through in no time: what stands behind the head may be cut off."""
    colorizer = Colorizer.from_checkpoint(tiny_checkpoint, "cpu")
    large = photograph.resize((600, 400))
    for name in ("a.jpg", "a.png", "a.webp"):
        save_picture(colorizer.colorize(large), name, mark=colorizer.mark())
        assert read_mark(name) == colorizer.mark()
    for name in ("a.jpg", "a.png"):
        Path(name).write_bytes(Path(name).read_bytes()[:4000])
        assert read_mark(name) == colorizer.mark()
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    Path("none.png").write_bytes(buffer.getvalue())
    assert read_mark("none.png") is None
