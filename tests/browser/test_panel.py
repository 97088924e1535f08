"""The last cell as a person uses it: JupyterLab in a real browser. `make browser-test` runs it.

A notebook runs from top to bottom in its smoke profile; then a gray photograph is uploaded, compared, made stronger and
downloaded. With COLORIZE_SCREENSHOTS set to a folder, what was seen is kept there.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
from browsers import SECONDS
from PIL import Image
from playwright.sync_api import Page, expect

from colorize_utils.data import sample_photograph

ROOT = Path(__file__).parent.parent.parent


def chroma(picture: Image.Image) -> float:
    """The mean distance between the largest and the smallest of a pixel's three levels."""
    return float(np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=2).mean())


def test_upload_compare_and_download(page: Page, lab, folder, tmp_path):
    photograph = sample_photograph()
    photograph.save(tmp_path / "dahlia.png")
    shutil.copy(ROOT / "notebooks" / "GAN-L1.ipynb", folder)
    page.goto(lab("GAN-L1.ipynb"))

    # Restart and run all: 37 cells, the last of which shows a colorized photograph before anybody uploads one.
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=60 * SECONDS)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    cell = page.locator(".jp-CodeCell").last
    expect(cell.locator("figure img")).to_have_count(2, timeout=120 * SECONDS)
    expect(page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")).to_have_count(0)
    before = cell.locator("figure").first
    before.scroll_into_view_if_needed()

    # Upload: the picture comes back, gray beside colour.
    button = cell.get_by_role("button", name=re.compile("Upload pictures"))
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(tmp_path / "dahlia.png")
    expect(cell.get_by_text("1 of 1 colorized.")).to_be_visible(timeout=60 * SECONDS)
    figure = cell.locator("figure", has_text="dahlia.png")
    figure.scroll_into_view_if_needed()
    expect(figure).to_contain_text("640×427")

    # The slider: at its right end all is gray, at its left end all in colour.
    slider = figure.get_by_role("slider")
    shown = {}
    for position in ("100", "50", "0"):
        slider.fill(position)
        shown[position] = picture_of(page, figure, tmp_path / f"slider-{position}.png")
    assert chroma(shown["100"]) < 1
    assert chroma(shown["0"]) > 5
    halved = np.asarray(shown["50"])
    assert chroma(Image.fromarray(halved[:, : int(0.45 * halved.shape[1])])) < 1
    assert chroma(Image.fromarray(halved[:, int(0.55 * halved.shape[1]) :])) > 5

    # Download: the file is whole, in colour, and has the luminance that was given.
    with page.expect_download() as download:
        cell.get_by_role("link", name="Download dahlia-colorized.png").click()
    download.value.save_as(tmp_path / "downloaded.png")
    assert download.value.suggested_filename == "dahlia-colorized.png"
    returned = Image.open(tmp_path / "downloaded.png")
    np.testing.assert_array_equal(np.asarray(returned.convert("L")), np.asarray(photograph))
    assert chroma(returned) > 5

    # A colour for the place in the ring, the dahlia's middle: it spreads over the flower, and the file has it.
    ringed = cell.locator("img[alt*='with the colours that were given']")
    expect(ringed).to_be_visible()
    cell.locator(".widget-colorpicker input[type=text]").fill("#d03060")
    before = ringed.get_attribute("src")
    cell.get_by_role("button", name="Set colour").click()
    expect(ringed).not_to_have_attribute("src", before, timeout=30 * SECONDS)
    cell.get_by_role("button", name="Full size").click()
    links = cell.get_by_role("link", name="Download dahlia-colorized.png")
    expect(links).to_have_count(2, timeout=30 * SECONDS)
    with page.expect_download() as download:
        links.last.click()
    download.value.save_as(tmp_path / "pink.png")
    kept(page, "notebook-colours.png")
    pink = Image.open(tmp_path / "pink.png")
    np.testing.assert_array_equal(np.asarray(pink.convert("L")), np.asarray(photograph))
    was, now = (np.median(middle(image), axis=(0, 1)) for image in (returned, pink))
    assert now[0] - now[1] > 40 and now[2] - now[1] > 10, now  # red and some blue above green: pink
    assert was[2] - was[1] < 0, was  # it was yellow or orange

    # Answers: several, of which one is taken up; and the map of where it guesses.
    cell.get_by_role("button", name="Answers").click()
    answers = cell.locator("button", has_text=re.compile(r"^\d: .*%$"))
    expect(answers.first).to_be_visible(timeout=30 * SECONDS)
    kept(page, "notebook-answers.png")
    answers.first.click()
    expect(ringed).to_be_visible(timeout=30 * SECONDS)
    cell.get_by_role("button", name="Where it guesses").click()
    expect(cell.locator("img[alt*='where the model guesses']")).to_be_visible(timeout=30 * SECONDS)
    kept(page, "notebook-guesses.png")

    # Chroma strength 0 leaves gray.
    handle = cell.locator(".widget-slider .noUi-handle").first
    handle.focus()
    for _ in range(10):
        handle.press("ArrowLeft")
    expect(cell.locator(".widget-slider .widget-readout").first).to_have_text("0.00")
    handle.blur()
    page.wait_for_timeout(3 * SECONDS)
    with page.expect_download() as download:
        cell.get_by_role("link", name="Download dahlia-colorized.png").click()
    download.value.save_as(tmp_path / "gray.png")
    assert chroma(Image.open(tmp_path / "gray.png")) == 0

    # Save writes it beside the notebook.
    cell.get_by_role("button", name="Save to colorized/").click()
    expect(cell.get_by_text("1 saved in colorized.")).to_be_visible()
    assert (tmp_path / "alone" / "colorized" / "dahlia-colorized.png").is_file()


def middle(image: Image.Image) -> np.ndarray:
    """The middle of a picture, a fifth of its height and width: (h, w, 3)."""
    width, height = image.size
    return np.asarray(image.crop((2 * width // 5, 2 * height // 5, 3 * width // 5, 3 * height // 5))).astype(int)


def kept(page: Page, name: str) -> None:
    """Keeps what the page looks like, where COLORIZE_SCREENSHOTS says."""
    if "COLORIZE_SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["COLORIZE_SCREENSHOTS"]) / name)


def picture_of(page: Page, figure, path: Path) -> Image.Image:
    """The two pictures, one over the other, as they look; kept where COLORIZE_SCREENSHOTS says."""
    figure.locator("div").screenshot(path=path)
    if "COLORIZE_SCREENSHOTS" in os.environ:
        shutil.copy(path, os.environ["COLORIZE_SCREENSHOTS"])
    kept(page, f"page-{path.name}")
    return Image.open(path).convert("RGB")
