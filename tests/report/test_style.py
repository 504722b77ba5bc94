"""The look of figures, and pictures made of many images."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from plankton_study.report.style import label_row, line_looks, montage, show_grey, show_images


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
