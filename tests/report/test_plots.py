"""Plots that several notebooks draw: what stands where, and what an empty one says."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from plankton_study.features.interface import Cell
from plankton_study.probes.intervals import Estimate
from plankton_study.report.plots import (
    FAMILIES,
    NEUTRAL,
    draw_curve,
    draw_layers,
    grid_axes,
    plot_cells,
    plot_differences,
    plot_estimates,
    shared_legend,
)
from plankton_study.report.results import NOT_IN_PROFILE
from plankton_study.report.style import encoder_looks
from plankton_study.run.profile import read_profile

LOOKS = encoder_looks(["diffusion", "pixels"])


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close("all")


def estimates_table(**more: object) -> pd.DataFrame:
    table = {
        "panel": ["home", "home", "away"],
        "encoder": ["diffusion", "pixels", "diffusion"],
        "kind": ["linear", "linear", "k-NN"],
        "estimate": [
            Estimate(0.5, 0.4, 0.6, 9),
            Estimate(0.2, 0.1, 0.3, 9),
            Estimate(0.3, 0.2, 0.4, 9),
        ],
    }
    return pd.DataFrame(table | more)


def points_of(ax) -> list[tuple[float, float]]:
    """Return x and y of all markers of a panel."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in ax.lines
        if len(line.get_xdata()) == 1
    ]


def test_each_panel_holds_its_estimates_in_percent():
    figure = plot_estimates(estimates_table(), "macro-F1 (%)", LOOKS)
    home, away = figure.axes
    assert (home.get_title(), away.get_title()) == ("home", "away")
    assert points_of(home) == [(50.0, 0.0), (20.0, 1.0)] and points_of(away) == [(30.0, 0.0)]
    assert [label.get_text() for label in home.get_yticklabels()] == ["diffusion", "pixels"]
    interval = home.lines[0]
    assert list(interval.get_xdata()) == [40.0, 60.0]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["linear", "k-NN"]


def test_a_family_has_the_same_marker_in_every_figure():
    def markers_of(*families: str) -> dict[str, object]:
        table = estimates_table(kind=families)
        figure = plot_estimates(table, "macro-F1 (%)", LOOKS, legend="family")
        (legend,) = figure.legends
        assert legend.get_title().get_text() == "family"
        names = [text.get_text() for text in legend.get_texts()]
        handles = [line.get_marker() for line in legend.get_lines()]
        return dict(zip(names, handles, strict=True))

    first = markers_of("labels", "nothing", "self-supervised")
    second = markers_of("self-supervised", "self-supervised", "labels")
    assert all(second[family] == first[family] for family in second)
    assert len(set(first.values())) == 3


def test_an_encoder_has_the_colour_of_all_figures_and_others_are_grey():
    table = estimates_table(panel=["home"] * 3, encoder=["diffusion", "pixels", "a new one"])
    (ax,) = plot_estimates(table, "macro-F1 (%)", LOOKS).axes
    colours = [line.get_color() for line in ax.lines if len(line.get_xdata()) == 1]
    assert colours == [LOOKS["diffusion"]["color"], LOOKS["pixels"]["color"], NEUTRAL]
    assert len(set(map(str, colours))) == 3


@pytest.mark.parametrize("profile", ["demo", "quick", "whoi"])
def test_every_family_of_a_profile_has_a_marker(profile):
    families = {config.family for config in read_profile(profile).encoders.values()}
    assert families <= set(FAMILIES)


def test_panels_share_their_axes():
    home, away = plot_estimates(estimates_table(), "macro-F1 (%)", LOOKS).axes
    assert home.get_xlim() == away.get_xlim() and home.get_ylim() == away.get_ylim()


def test_points_of_one_line_lie_beside_each_other():
    table = estimates_table(panel=["home"] * 3, encoder=["diffusion"] * 3)
    (ax,) = plot_estimates(table, "macro-F1 (%)", LOOKS).axes
    heights = [y for _, y in points_of(ax)]
    assert len(set(heights)) == 3 and max(abs(y) for y in heights) < 0.5


def test_zero_is_drawn_only_among_differences():
    def has_line_at_zero(table: pd.DataFrame) -> bool:
        ax = plot_estimates(table, "points", LOOKS).axes[0]
        return any(list(line.get_xdata()) == [0, 0] for line in ax.lines)

    difference = Estimate(0.1, -0.1, 0.3, 9, p=0.2)
    assert has_line_at_zero(estimates_table(estimate=[difference] * 3))
    assert not has_line_at_zero(estimates_table())


def test_a_plot_without_estimates_says_that_nobody_asked():
    (ax,) = plot_estimates(estimates_table().iloc[:0], "macro-F1 (%)", LOOKS).axes
    assert ax.get_title() == NOT_IN_PROFILE


def test_a_difference_is_filled_where_the_corrected_p_is_small():
    differences = pd.DataFrame(
        {
            "metric": ["macro-F1"] * 2,
            "encoder": ["SimCLR", "pixels"],
            "learnt from": ["self-supervised", "nothing"],
            "estimate": [Estimate(0.1, -0.1, 0.3, 9, p=0.04), Estimate(0.2, 0.1, 0.3, 9, p=0.01)],
            "p_holm": [0.08, 0.02],
        }
    )
    (ax,) = plot_differences(differences, LOOKS).axes
    faces = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() != "None"]
    assert faces[0] == "white" and faces[1] != "white"


def test_cells_are_drawn_in_order_of_execution():
    table = pd.DataFrame(
        {
            "layer": ["up", "down", "up", "down"],
            "timestep": [20, 20, 300, 300],
            "order": [1, 0, 1, 0],
            "resolution": [16, 8, 16, 8],
            "accuracy": [0.4, 0.3, 0.2, 0.1],
        }
    )
    _, ax = plt.subplots()
    plot_cells(ax, table, "accuracy", Cell("up", 300), limits=(0, 50))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["down", "up"]
    assert [text.get_text() for text in ax.texts] == ["30", "10", "40", "20"]
    assert ax.collections[0].get_clim() == (0, 50)
    (frame,) = ax.patches
    assert (frame.get_x(), frame.get_y()) == (1, 1)  # second timestep, second layer
    bars = [patch.get_width() for patch in ax.child_axes[0].patches]
    assert bars == [8, 16]


def test_layers_are_drawn_as_wide_as_their_maps_and_each_new_side_is_named():
    _, ax = plt.subplots()
    sides = pd.Series({"down8": 8, "down4": 4, "mid4": 4, "up8": 8})
    draw_layers(ax, sides, chosen="mid4")
    assert [bar.get_height() for bar in ax.patches] == [8, 4, 4, 8]
    assert [bar.get_y() for bar in ax.patches] == [-4, -2, -2, -4]
    colours = {bar.get_facecolor() for bar in ax.patches}
    assert len(colours) == 2 and ax.patches[2].get_facecolor() != ax.patches[1].get_facecolor()
    assert [text.get_text() for text in ax.texts] == ["8", "4", "8"]


def test_a_curve_has_its_estimates_in_percent_with_their_intervals():
    _, ax = plt.subplots()
    estimates = pd.Series([Estimate(0.2, 0.1, 0.4, 50), Estimate(0.5, 0.4, 0.6, 50)])
    look = {"color": "red", "marker": "o"}
    draw_curve(ax, pd.Series([10, 20]), estimates, look, "diffusion")
    (line,) = ax.lines
    assert line.get_label() == "diffusion"
    np.testing.assert_allclose(line.get_xydata(), [[10, 20], [20, 50]])
    (bars,) = ax.collections
    bottom, top = bars.get_segments()[0]
    np.testing.assert_allclose([bottom, top], [[10, 10], [10, 40]])


@pytest.mark.parametrize(("number", "columns", "rows"), [(1, 1, 1), (5, 2, 3), (3, 0, 3)])
def test_a_grid_has_a_panel_for_each_and_hides_the_rest(number, columns, rows):
    figure, panels = grid_axes(number, columns, 1, 1)
    assert len(panels) == number and all(ax.axison for ax in panels)
    assert len(figure.axes) == rows * max(columns, 1)
    assert sum(not ax.axison for ax in figure.axes) == len(figure.axes) - number


def test_a_grid_without_panels_says_why():
    figure, panels = grid_axes(0, 2, 1, 1, empty="no image has a known time")
    assert panels == [] and figure.axes[0].get_title() == "no image has a known time"


def test_a_shared_legend_names_the_lines_of_one_panel():
    figure, (ax, _) = plt.subplots(1, 2)
    ax.plot([0, 1], [0, 1], label="diffusion")
    shared_legend(figure, ax, columns=2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["diffusion"]
