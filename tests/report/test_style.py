"""The look of figures, and pictures made of many images."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from plankton_study.report.style import (
    drawn_name,
    encoder_looks,
    label_row,
    line_looks,
    montage,
    show_grey,
    show_images,
)


def grey_images(number: int) -> np.ndarray:
    return np.stack([np.full((2, 2), value, np.uint8) for value in range(number)])


def test_montage_tiles_row_by_row():
    sheet = montage(grey_images(3), 2)
    assert sheet.shape == (5, 5)
    assert sheet[0, 0] == 0 and sheet[0, 3] == 1 and sheet[3, 0] == 2
    assert sheet[4, 4] == 255 and sheet[0, 2] == 255, "gaps and missing images are white"


def test_images_are_shown_without_axes_and_with_their_title():
    figure, ax = plt.subplots()
    show_images(ax, grey_images(4), 2, "four")
    assert ax.get_title(loc="left") == "four" and not ax.axison
    assert ax.images[0].get_array().shape == (5, 5)
    plt.close(figure)


def test_a_row_without_axes_has_a_label():
    figure, ax = plt.subplots()
    show_grey(ax, grey_images(1)[0])
    label_row(ax, "noisy")
    assert [text.get_text() for text in ax.texts] == ["noisy"] and not ax.axison
    plt.close(figure)


@pytest.mark.parametrize("number", [1, 8, 40])
def test_lines_look_different_from_each_other(number):
    looks = line_looks(number)
    assert len(looks) == number
    assert len({(look["color"], look["marker"]) for look in looks}) == number


def test_an_encoder_looks_the_same_whatever_else_a_figure_shows():
    looks = encoder_looks(["diffusion", "random U-Net", "SimCLR", "MAE"])
    assert looks["diffusion"]["color"] == "black"
    colours = [looks[name]["color"] for name in ("random U-Net", "SimCLR", "MAE")]
    assert len(set(colours)) == 3


# --- names of taxa


@pytest.mark.parametrize(
    ("taxon", "drawn"),
    [
        ("arrow_worm", "arrow worm"),
        ("cost $5 to $9", r"cost \$5 to \$9"),
        ("Größe_ø", "Größe ø"),
        ("浮游生物", "FuYouShengWu"),
        ("планктон", "планктон"),
    ],
)
def test_names_of_taxa_are_drawn_as_they_are_or_transliterated(taxon, drawn):
    assert drawn_name(taxon) == drawn


@pytest.mark.parametrize("taxon", ["$a_b$", "$", "$\\frac{$", "浮游 $x$", "a & b % c # ^"])
def test_no_name_of_a_taxon_breaks_a_figure_or_draws_boxes(taxon):
    figure, ax = plt.subplots()
    ax.set_title(drawn_name(taxon))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of missing glyphs
        figure.canvas.draw()
    shown = ax.title.get_text().replace(r"\$", "$")
    assert shown.count("$") == taxon.count("$")
    plt.close(figure)
