"""The last cell as a person uses it: JupyterLab in a real browser. `make browser-test` runs it.

A notebook runs from top to bottom in its smoke profile; then a gray photograph is uploaded, compared, made stronger and
downloaded. With COLORIZE_SCREENSHOTS set to a folder, what was seen is kept there.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from browsers import SECONDS, started
from PIL import Image
from playwright.sync_api import Page, expect

from colorize_utils.data import sample_photograph

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab that serves a folder with one notebook, with settings of its own."""
    folder, settings = tmp_path / "alone", tmp_path / "settings"
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / "GAN-L1.ipynb", folder)
    extension = settings / "@jupyterlab"
    for name, values in {
        "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page, seen or not
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        path = extension / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "COLORIZE_PROFILE": "smoke",
        "COLORIZE_RUNS": str(tmp_path / "runs"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += [f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}", "--IdentityProvider.token=flowers"]
    with open(tmp_path / "lab.log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/lab/tree/GAN-L1.ipynb?token=flowers"
    try:
        for _ in range(120):
            time.sleep(0.5)
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def page(lab):
    with started() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
        page.goto(lab)
        yield page


def chroma(picture: Image.Image) -> float:
    """The mean distance between the largest and the smallest of a pixel's three levels."""
    return float(np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=2).mean())


def test_upload_compare_and_download(page: Page, tmp_path):
    photograph = sample_photograph()
    photograph.save(tmp_path / "dahlia.png")

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
