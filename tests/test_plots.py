import io

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.plots import (
    CURVE_TITLES,
    figure_png,
    plot_calibration,
    plot_grid,
    plot_history,
    plot_pairs,
    plot_progress,
    save_figure,
)

HISTORY = {curve: [3.0, 2.0, 1.5] for curve in CURVE_TITLES}


def test_history_draws_the_seven_curves_of_the_submission():
    figure = plot_history(HISTORY, title="gan-l1")
    axes = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in axes] == [title for title, _ in CURVE_TITLES.values()]
    for axis in axes:
        (line,) = axis.lines
        assert line.get_xdata().tolist() == [1, 2, 3]
        assert line.get_ydata().tolist() == [3.0, 2.0, 1.5]
        assert axis.get_xlabel() == "epoch"


def test_runs_are_compared_in_the_same_axes():
    figure = plot_history(HISTORY, title="gan-l1", others={"gan-mse": HISTORY})
    assert [line.get_label() for line in figure.axes[0].lines] == ["gan-l1", "gan-mse"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["gan-l1", "gan-mse"]


def test_a_curve_that_no_run_has_leaves_its_place_empty():
    alone = HISTORY | {"discriminator_loss": []}
    shown = [axis.get_visible() for axis in plot_history(alone).axes]
    assert shown == [False, *[True] * 7]
    assert all(axis.get_visible() for axis in plot_history(alone, others={"gan-l1": HISTORY}).axes)


def test_an_empty_history_is_drawn_too():
    assert len(plot_history({}).axes) == 8


def test_grid_shows_the_pictures_it_was_given():
    gray, colour = torch.rand(1, 8, 8), torch.rand(3, 8, 8) * 1.5
    figure = plot_grid([(gray, colour, np.zeros((8, 8, 3), np.uint8))], ("gray", "generated", "original"))
    assert [axis.get_title() for axis in figure.axes] == ["gray", "generated", "original"]
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert shown[0].shape == (8, 8)
    np.testing.assert_array_equal(shown[1], (colour.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def test_grid_says_what_is_missing():
    with pytest.raises(ValueError, match="each row needs 2 pictures: a, b"):
        plot_grid([(torch.rand(1, 8, 8),)], ("a", "b"))
    with pytest.raises(ValueError, match="each row needs"):
        plot_grid([], ("a",))


def test_figures_are_saved_whole(tmp_path):
    pictures = torch.rand(2, 3, 16, 16)
    figure = plot_pairs(pictures[:, :1], pictures, pictures)
    path = save_figure(figure, tmp_path / "below" / "grid.png")
    with Image.open(path) as image:
        assert image.size == tuple(round(100 * inches) for inches in figure.get_size_inches())


def test_progress_draws_at_most_eight_snapshots_first_and_last_among_them():
    picture, gray = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    history = {"generator_loss": [1.0] * 30, "discriminator_loss": [1.0] * 30, "psnr": [20.0] * 30}
    figure = plot_progress(history, dict.fromkeys(range(1, 31), picture), gray, picture)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[:3] == ["Generator loss", "Discriminator loss", "Validation PSNR"]
    assert titles[3:5] == ["gray", "epoch 1"]
    assert titles[-2:] == ["epoch 30", "original"]
    assert len(titles) == 3 + 2 + 8
    assert Image.open(io.BytesIO(figure_png(figure, dpi=50))).width == 600


def test_progress_before_the_first_epoch_shows_gray_and_original():
    picture, gray = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    figure = plot_progress({}, {}, gray, picture)
    assert [axis.get_title() for axis in figure.axes if axis.images] == ["gray", "original"]


def test_calibration_has_a_diagram_for_each_colour_and_leaves_out_what_is_rare():
    believed = np.array([[0.1, 0.5, 0.9], [0.1, 0.5, np.nan]])
    occurred = np.array([[0.2, 0.4, 1.0], [0.0, 0.6, np.nan]])
    figure = plot_calibration(believed, occurred, np.array([[50, 30, 3], [20, 40, 0]]), ["pink", "green"])
    pink, green = figure.axes
    assert [pink.get_title(), green.get_title()] == ["pink (83)", "green (60)"]
    assert pink.lines[1].get_xydata().tolist() == [[0.1, 0.2], [0.5, 0.4]]
    assert green.lines[1].get_xydata().tolist() == [[0.1, 0.0], [0.5, 0.6]]
