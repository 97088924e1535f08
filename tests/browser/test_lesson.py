"""The lesson's slider and game in JupyterLab, in a real browser. `make browser-test` runs it."""

import re

import nbformat
import numpy as np
from playwright.sync_api import Page, expect

from colorize_utils.notebook.race import scrubber_html

SECONDS = 1000  # Playwright counts in milliseconds
LEVELS = {epoch: np.full((16, 16, 3), 25 * epoch, np.uint8) for epoch in range(1, 9)}

GAME = """
import torch
from colorize_utils import data
from colorize_utils.notebook import game
splits = data.load_splits("generated", 32, count=40, cache=None)
exhibition = game.exhibit(*splits.train[:], {"gray": lambda gray: gray.expand(-1, 3, -1, -1)})
played = game.Game(exhibition, seed=1, count=4)
game.game_panel(played)
"""
SCRUBBER = """
import numpy as np
from IPython.display import HTML
from colorize_utils.notebook.race import scrubber_html
HTML(scrubber_html({"GAN-L1": {epoch: np.full((16, 16, 3), 25 * epoch, np.uint8) for epoch in range(1, 9)}}))
"""


def write(path, *cells):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def is_in_window(page: Page, strip, epoch: int) -> bool:
    """Whether the middle of an epoch's frame lies within the strip's window."""
    box, frame = strip.bounding_box(), strip.locator(f"img[alt$='epoch {epoch}']").first.bounding_box()
    middle = frame["x"] + frame["width"] / 2
    return box["x"] < middle < box["x"] + box["width"]


def test_the_saved_notebook_can_be_scrubbed_before_anything_is_run(page: Page, lab, folder):
    """It is not trusted: nobody has run it on this machine, so that Jupyter removes scripts and handlers."""
    page_html = scrubber_html({"GAN-L1": LEVELS, "GAN-MSE": LEVELS})
    shown = nbformat.v4.new_output("execute_result", data={"text/html": page_html}, execution_count=1)
    saved = nbformat.v4.new_code_cell("HTML(…)", outputs=[shown], execution_count=1)
    write(folder / "saved.ipynb", saved)
    page.goto(lab("saved.ipynb"))
    figure = page.locator(".jp-OutputArea figure")
    strip = figure.locator("div").first
    expect(strip).to_be_visible(timeout=60 * SECONDS)
    strip.scroll_into_view_if_needed()
    assert figure.locator("input").get_attribute("oninput") is None  # it really was cleaned
    expect(figure.locator("input")).to_be_hidden()
    assert figure.locator("div img").count() == 16
    assert is_in_window(page, strip, 1) and not is_in_window(page, strip, 2)
    strip.hover()
    page.mouse.wheel(10_000, 0)
    page.wait_for_timeout(1 * SECONDS)
    assert is_in_window(page, strip, 8) and not is_in_window(page, strip, 7)
    rows = [strip.locator(f"img[alt='{name}, epoch 8']").bounding_box() for name in ("GAN-L1", "GAN-MSE")]
    assert rows[0]["y"] + rows[0]["height"] <= rows[1]["y"]  # above each other
    assert abs(rows[0]["x"] - rows[1]["x"]) < 1


def test_the_slider_and_the_game_work_once_their_cells_are_run(page: Page, lab, folder):
    write(folder / "lesson.ipynb", nbformat.v4.new_code_cell(SCRUBBER), nbformat.v4.new_code_cell(GAME))
    page.goto(lab("lesson.ipynb"))
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=60 * SECONDS)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    scrubber, game = page.locator(".jp-CodeCell").nth(0), page.locator(".jp-CodeCell").nth(1)
    expect(game.get_by_text("Flower 1 of 4")).to_be_visible(timeout=120 * SECONDS)
    expect(page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")).to_have_count(0)

    slider, strip = scrubber.get_by_role("slider"), scrubber.locator("figure div").first
    expect(slider).to_be_visible()
    for place in (0, 5, 7, 2):
        slider.fill(str(place))
        page.wait_for_timeout(300)
        assert is_in_window(page, strip, place + 1)
        assert not is_in_window(page, strip, place + 2 if place < 7 else place)

    game.get_by_role("button", name="painted (p)").click()
    expect(game.get_by_text(re.compile(r"(Right|Wrong): that was .* Flower 2 of 4"))).to_be_visible()
    keys = game.locator(".widget-text input")
    for number in (3, 4):
        keys.press("r")
        expect(game.get_by_text(f"Flower {number} of 4")).to_be_visible()
    keys.press("p")
    expect(game.get_by_text(re.compile(r"[0-4] of 4 right in \d+ seconds"))).to_be_visible()
    expect(game.get_by_text(re.compile(r"Your code: 1-4-4-\d+-[0-9a-f]+-[0-9a-f]{4}"))).to_be_visible()
    expect(game.get_by_role("button", name="real (r)")).to_be_disabled()
