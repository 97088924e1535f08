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


def picture_of(page: Page, figure, path: Path) -> Image.Image:
    """The two pictures, one over the other, as they look; kept where COLORIZE_SCREENSHOTS says."""
    figure.locator("div").screenshot(path=path)
    if "COLORIZE_SCREENSHOTS" in os.environ:
        shutil.copy(path, os.environ["COLORIZE_SCREENSHOTS"])
        page.screenshot(path=Path(os.environ["COLORIZE_SCREENSHOTS"]) / f"page-{path.name}")
    return Image.open(path).convert("RGB")
