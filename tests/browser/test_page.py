"""The web page as people use it: in a browser, with a mouse, a finger or the keyboard alone. `make browser-test`.

With COLORIZE_SCREENSHOTS set to a folder, what was seen is kept there. COLORIZE_TEST_MODEL names a checkpoint to take
in place of the bundled one.
"""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import SECONDS, started
from PIL import Image
from playwright.sync_api import Page, expect

from colorize_utils.checkpoints import DEFAULT
from colorize_utils.colour import LUMA_WEIGHTS
from colorize_utils.data import sample_photograph
from colorize_utils.data.pictures import to_gray
from colorize_utils.inference.hints import Hint, chroma_at

ROOT = Path(__file__).parent.parent.parent
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
TELEPHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
PETAL = (0.42, 0.45)  # a place on the sample's flower, as shares of its width and height
PINK = "#e0409a"
expect.set_options(timeout=30 * SECONDS)


def serve(*options: str, before: tuple[str, ...] = ()) -> tuple[subprocess.Popen, str]:
    """A server, and its address."""
    model = os.environ.get("COLORIZE_TEST_MODEL", DEFAULT)
    command = [*before, sys.executable, "-u", "-m", "colorize_utils", "serve", "--model", model, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        if found := re.search(r"The page is at (\S+)", line):
            return server, found[1]
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def address():
    server, url = serve()
    yield url
    server.terminate()
    assert "deleted" in server.communicate(timeout=30)[0]


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


@pytest.fixture
def open_page(browser, address):
    """Opens the page; when the test ends, nothing may have been asked of anybody else, and no script have failed."""
    contexts, faults = [], []

    def opened(**how) -> Page:
        context = browser.new_context(accept_downloads=True, **how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30 * SECONDS)
        page.on(
            "request", lambda request: request.url.startswith((address, "data:", "blob:")) or faults.append(request.url)
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        expect(page.get_by_role("button", name="Try it with a flower")).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A gray photograph that is larger than what the page shows, with the place where it was taken."""
    path = tmp_path_factory.mktemp("photographs") / "dahlia.jpg"
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 2.0, 0.0)})
    sample_photograph().resize((1600, 1067)).save(path, quality=95, exif=exif)
    return path


def upload(page: Page, *paths: Path) -> None:
    page.locator("input[type=file]:visible, input[type=file]").first.set_input_files(paths)
    expect(page.get_by_role("button", name="Download in full size")).to_be_visible()


def downloaded(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def seen(page: Page, name: str) -> None:
    if "COLORIZE_SCREENSHOTS" in os.environ:
        page.wait_for_timeout(700)  # until what moves has come to rest
        page.screenshot(path=Path(os.environ["COLORIZE_SCREENSHOTS"]) / f"{name}.png", full_page=True)


def faults_of(page: Page) -> list[str]:
    """What axe finds serious or critical."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


def turn_to(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()


def tap(page: Page, place: tuple[float, float]) -> None:
    """Taps a place of the picture, with a finger where there is one."""
    picture = page.locator("#canvas img")
    box = picture.bounding_box()
    at = {"x": place[0] * box["width"], "y": place[1] * box["height"]}
    if page.evaluate("'ontouchstart' in window"):
        picture.tap(position=at)
    else:
        picture.click(position=at)
    expect(page.locator(".swatches button").first).to_be_visible()


def test_a_photograph_comes_back_in_colour(open_page, photograph):
    """Upload, compare, download: the same size and format, its luminance kept, without the place."""
    page = open_page(**DESKTOP)
    seen(page, "desktop-start")
    assert faults_of(page) == []
    upload(page, photograph)
    pictures = page.locator("img:visible")
    expect(pictures.first).to_be_visible()
    page.wait_for_function("[...document.images].every(image => image.complete)")
    seen(page, "desktop-compare")
    assert faults_of(page) == []
    # The slider: what is left of it is gray, what is right of it in colour.
    box = pictures.first.bounding_box()
    for start, share in ((0.5, 0.2), (0.2, 0.7)):
        page.mouse.move(box["x"] + start * box["width"], box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2, steps=8)
        page.mouse.up()
        page.wait_for_timeout(300)
        shot = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")).astype(int)
        chroma = np.ptp(shot, axis=2).mean(axis=0)  # of each column
        width = len(chroma)
        assert chroma[: int((share - 0.1) * width)].max() < 4, share
        assert chroma[int((share + 0.1) * width) : int(0.9 * width)].mean() > 8, share
    name, content = downloaded(page, "Download in full size")
    result = Image.open(io.BytesIO(content))
    assert (name, result.format, result.size) == ("dahlia-colorized.jpg", "JPEG", (1600, 1067))
    assert np.abs(np.asarray(result.convert("L"), int) - to_gray(photograph).gray).mean() < 1.5
    assert np.ptp(np.asarray(result).astype(int), axis=2).mean() > 5
    assert not result.getexif().get_ifd(0x8825)


def chroma_around(content: bytes, place: tuple[float, float]) -> np.ndarray:
    """The mean chroma (red, blue) around a place, in 0 … 255."""
    rgb = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)
    x, y = int(place[0] * rgb.shape[1]), int(place[1] * rgb.shape[0])
    mean = rgb[y - 12 : y + 13, x - 12 : x + 13].mean(axis=(0, 1))
    return mean[[0, 2]] - mean @ np.array(LUMA_WEIGHTS) / 65536


def test_a_petal_gets_the_colour_that_it_had(open_page, photograph):
    """In the file that is downloaded, it is nearer to the pink that was asked for than to what it was, by half."""
    page = open_page(**DESKTOP)
    upload(page, photograph)
    _, before = downloaded(page, "Download in full size")
    turn_to(page, "Colours")
    tap(page, PETAL)
    page.locator(".swatches input[type=color]").fill(PINK)
    expect(page.get_by_role("button", name="Remove")).to_be_visible()
    _, pink = downloaded(page, "Download in full size")
    seen(page, "desktop-hint")
    level = to_gray(photograph).gray[int(PETAL[1] * 1067), int(PETAL[0] * 1600)]
    asked = 255 * np.array(chroma_at(Hint(0, 0, PINK).rgb, float(level)))
    distances = [np.linalg.norm(chroma_around(content, PETAL) - asked) for content in (before, pink)]
    assert distances[1] < distances[0] / 2, distances


def test_a_hint_is_given_saved_removed_and_taken_back(open_page, photograph, tmp_path):
    """Seen in the downloaded file: removed, it is as before; loaded again, as with the hint."""
    page = open_page(**TELEPHONE)
    upload(page, photograph)
    _, before = downloaded(page, "Download in full size")
    turn_to(page, "Colours")
    tap(page, PETAL)
    seen(page, "telephone-colours")
    page.locator(".swatches input[type=color]").fill(PINK)
    expect(page.get_by_role("button", name="Remove")).to_be_visible()
    assert faults_of(page) == []
    _, pink = downloaded(page, "Download in full size")
    assert pink != before
    page.get_by_role("button", name=re.compile("^More: ")).click()
    name, hints = downloaded(page, "Save these colours")
    assert name == "dahlia-hints.json" and json.loads(hints)[0]["colour"] == PINK
    (tmp_path / name).write_bytes(hints)
    # A tap on the hint finds it again, wherever the visitor has been since.
    tap(page, (0.9, 0.1))
    expect(page.get_by_role("button", name="Remove")).to_be_hidden()
    tap(page, (PETAL[0] + 0.01, PETAL[1]))
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("button", name="Remove")).to_be_hidden()
    _, after = downloaded(page, "Download in full size")
    assert after == before
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Save these colours")).to_be_enabled()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    page.locator("input[type=file][accept*=json]").set_input_files(tmp_path / name)
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    _, again = downloaded(page, "Download in full size")
    assert again == pink


def test_one_of_four_answers_is_taken_up_and_guesses_are_shown_on_a_telephone(open_page, photograph):
    page = open_page(**TELEPHONE)
    seen(page, "telephone-start")
    upload(page, photograph)
    seen(page, "telephone-compare")
    turn_to(page, "Answers")
    answers = page.locator("#answers button")
    expect(answers.first).to_be_visible()
    assert 1 <= answers.count() <= 4
    for label in answers.all_inner_texts():
        assert re.fullmatch(r"[\w ]+, \d+%", label.strip())
    seen(page, "telephone-answers")
    assert faults_of(page) == []
    answers.last.tap()
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    turn_to(page, "Guesses")
    expect(page.get_by_alt_text("The gray picture, orange where the model guesses")).to_be_visible()
    seen(page, "telephone-guesses")
    assert faults_of(page) == []
    # Nothing is wider than the telephone.
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_five_pictures_one_of_them_broken(open_page, tmp_path):
    page = open_page(**TELEPHONE)
    turn_to(page, "Many pictures")
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        sample_photograph().resize((160 + number, 120)).save(paths[-1])
    paths[2].write_bytes(b"no picture")
    page.locator("input[type=file]").last.set_input_files(paths)
    page.get_by_role("button", name="Colour all").click()
    report = page.locator("#report")
    expect(report).to_contain_text("4 of 5 coloured.")
    expect(report).to_contain_text("2.png is not a picture that can be read")
    seen(page, "telephone-many")
    assert faults_of(page) == []
    name, content = downloaded(page, "Download all (ZIP)")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert name == "colorized.zip"
        assert archive.namelist() == [f"{number}-colorized.png" for number in (0, 1, 3, 4)]
        assert Image.open(io.BytesIO(archive.read("3-colorized.png"))).size == (163, 120)


def test_a_broken_picture_gives_its_line(open_page, tmp_path):
    page = open_page(**DESKTOP)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.jpg")
    line = page.get_by_role("status").filter(has_text="broken.jpg is not a picture that can be read")
    expect(line).to_be_visible()


def test_the_keyboard_alone_is_enough(open_page):
    """A sample, a place, a colour and the file, by Tab, arrows, Enter and Space."""
    page = open_page(**DESKTOP)

    def go_to(description: str, script: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"(element => element && ({script}))(document.activeElement)"):
                return
        raise AssertionError(f"Tab does not reach {description}")

    go_to("the sample", "element.innerText.includes('Try it with a flower')")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Download in full size")).to_be_visible()
    page.get_by_role(
        "tab", name="Compare", exact=True
    ).focus()  # what was pressed is gone; a browser goes on from there
    go_to("the tab of colours", "element.role === 'tab' && element.innerText.trim() === 'Colours'")
    page.keyboard.press("Enter")
    go_to("more", "element.innerText.startsWith('More: ')")
    page.keyboard.press("Enter")
    expect(page.get_by_role("slider", name="Across")).to_be_visible()  # opening takes a moment
    go_to("across", "element.type === 'range' && element.ariaLabel.includes('Across')")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    go_to("the place", "element.innerText.includes('Look there')")
    page.keyboard.press("Enter")
    expect(page.locator(".swatches button").first).to_be_visible()
    page.keyboard.down("Shift")
    go_to("a swatch", "element.dataset.choice")
    page.keyboard.up("Shift")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Remove")).to_be_visible()
    go_to("the download", "element.id === 'download'")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "flower-colorized.jpg"


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_it_works_without_any_network(tmp_path):
    """Server and browser in a network namespace that has a loopback and no route."""
    inside = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no network namespace, or has no ip")
    script = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from browsers import started
from test_page import serve
server, url = serve("--lan", "--code", "4711")
with started() as browser:
    page = browser.new_page()
    page.goto(url)
    page.get_by_label("The code").fill("4711")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Try it with a flower").click()
    page.get_by_role("button", name="Download in full size").click()
    page.get_by_role("button", name="Save flower-colorized.jpg").wait_for()
    print("offline it works")
server.terminate()
server.wait(30)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [*inside, sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "offline it works" in run.stdout, run.stderr
    assert not list(tmp_path.glob("colorize-*"))
