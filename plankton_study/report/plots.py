"""Plots that several notebooks draw: estimates with intervals, and maps of cells."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from plankton_study.features.interface import Cell
from plankton_study.report.results import NOT_IN_PROFILE
from plankton_study.report.style import MARKERS, Look, Looks

#: families of encoders, which have the same marker in every figure
FAMILIES = (
    "self-supervised",
    "labels",
    "diffusion, then labels",
    "nothing",
    "elsewhere",
    "diffusion",
)
#: colour of the chosen cell or layer
CHOSEN = "#d62728"
#: colour of what is no encoder of the profile, and of legends of markers
NEUTRAL = "0.35"
#: size of the titles of panels, which stand close together, pt
TITLE = 8
#: share of the space between two lines of a panel that points may take
SPREAD = 0.7


def plot_estimates(
    table: pd.DataFrame, xlabel: str, looks: Looks, legend: str | None = None
) -> Figure:
    """Draw estimates with their intervals, in percent or points.

    Each encoder has its colour, and each kind a marker.

    Args:
        table: columns panel; encoder, one line each; kind, one marker each; estimate; and
            optionally filled (bool), false for hollow points.
        xlabel: x label of all panels.
        looks: from `style.encoder_looks`; what it lacks is drawn in grey.
        legend: title of the legend.
    """
    panels = table["panel"].unique()
    names = list(table["encoder"].unique())
    width = max(len(panels), 1)
    figure, axes = plt.subplots(
        1,
        width,
        figsize=(1.9 + 1.75 * width, 1.3 + 0.26 * len(names)),
        sharex=True,  # so that panels can be compared
        sharey=True,
        squeeze=False,
    )
    markers = _markers_of_kinds(table)
    for ax, panel in zip(axes[0], panels, strict=False):
        _draw_panel(ax, table[table["panel"] == panel], names, looks, markers)
        ax.set_title(panel, fontsize=TITLE)
    # one label in the middle: that of a panel would be wider than the panel
    axes[0, width // 2].set_xlabel(xlabel, x=width % 2 / 2)
    if table.empty:
        axes[0, 0].set(title=NOT_IN_PROFILE)
        axes[0, 0].set_axis_off()
        figure.set_label(NOT_IN_PROFILE)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)  # the first name at the top
    handles = [
        plt.Line2D([], [], color=NEUTRAL, marker=mark, linestyle="", label=kind)
        for kind, mark in markers.items()
    ]
    place = {"loc": "outside lower center", "ncol": 4, "frameon": False}
    figure.legend(handles=handles, title=legend, **place)
    return figure


def _markers_of_kinds(table: pd.DataFrame) -> dict[str, str]:
    """Return kind → marker; families of encoders have the same one in every figure."""
    kinds = list(table["kind"].unique())
    known = FAMILIES if set(kinds) <= set(FAMILIES) else kinds
    markers = dict(zip(known, cycle(MARKERS)))
    return {kind: markers[kind] for kind in kinds}


def _draw_panel(
    ax: Axes, table: pd.DataFrame, names: list[str], looks: Looks, markers: dict[str, str]
) -> None:
    for name, points in table.groupby("encoder", sort=False):
        colour = looks[name]["color"] if name in looks else NEUTRAL
        offsets = SPREAD * ((np.arange(len(points)) + 0.5) / len(points) - 0.5)
        for offset, point in zip(offsets, points.to_dict("records"), strict=True):
            estimate = point["estimate"]
            y = names.index(name) + offset
            face = colour if point.get("filled", True) else "white"
            ax.plot([100 * estimate.low, 100 * estimate.high], [y, y], color=colour)
            mark = markers[point["kind"]]
            ax.plot(100 * estimate.value, y, mark, color=colour, markersize=4, mfc=face)
    if len(table) and all(estimate.is_difference for estimate in table["estimate"]):
        ax.axvline(0, color="0.5", linewidth=0.8)


def plot_differences(differences: pd.DataFrame, looks: Looks) -> Figure:
    """Draw the paired differences of `compare.differences`, with one panel per metric.

    Filled points have a corrected p below 0.05.
    """
    table = differences.rename(columns={"metric": "panel", "learnt from": "kind"})
    table["filled"] = differences["p_holm"] < 0.05
    xlabel, legend = "diffusion minus the other (points)", "the other encoder learnt from"
    return plot_estimates(table, xlabel, looks, legend)


def plot_cells(
    ax: Axes,
    table: pd.DataFrame,
    column: str,
    chosen: Cell | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw a value of every cell as a heatmap: layers in order of execution, over timesteps.

    Beside each row a bar is as long as the layer's maps are wide, so the rows draw the network.

    Args:
        ax: the axes.
        table: columns layer, timestep, order, resolution and `column`, a share of 1.
        column: the value to draw, in percent.
        chosen: the cell to mark with a frame.
        limits: limits of the colours, in percent; None: those of the table.
    """
    table = table.sort_values("order", kind="stable")
    sides = table.groupby("layer", sort=False)["resolution"].first()
    grid = 100 * table.pivot_table(column, "layer", "timestep").loc[sides.index]
    low, high = limits or (None, None)
    colours = {"cmap": "viridis", "vmin": low, "vmax": high, "cbar": False}
    sns.heatmap(grid, ax=ax, annot=True, fmt=".0f", annot_kws={"size": 7}, **colours)
    ax.set(xlabel="timestep", ylabel="layer, in order of execution")
    ax.tick_params(axis="y", rotation=0)
    if chosen:
        corner = grid.columns.get_loc(chosen.timestep), grid.index.get_loc(chosen.layer)
        frame = Rectangle(corner, 1, 1, fill=False, edgecolor=CHOSEN, linewidth=2, clip_on=False)
        ax.add_patch(frame)
    beside = ax.inset_axes((1.02, 0, 0.2, 1), sharey=ax)
    draw_layers(beside, sides, chosen.layer if chosen else None, upright=True)


def draw_layers(
    ax: Axes, sides: pd.Series, chosen: str | None = None, upright: bool = False
) -> None:
    """Draw the layers of a network as bars that are as long as the side of their maps.

    Args:
        ax: axes without ticks.
        sides: layer → side of its maps, px; in order of execution.
        chosen: the layer to highlight.
        upright: whether the network runs from top to bottom instead of from left to right.
    """
    colours = [CHOSEN if layer == chosen else "0.75" for layer in sides.index]
    places = np.arange(len(sides)) + 0.5
    if upright:
        ax.barh(places, sides, left=-sides / 2, height=0.7, color=colours)
    else:
        ax.bar(places, sides, bottom=-sides / 2, width=0.7, color=colours)
    changes = sides.ne(sides.shift())  # the first bar of each width is labelled
    for place, side in zip(places[changes], sides[changes], strict=True):
        at = (0, place) if upright else (place, 0)
        ax.text(*at, str(side), ha="center", va="center", fontsize=6)
    ax.set_axis_off()


def draw_curve(ax: Axes, places: pd.Series, estimates: pd.Series, look: Look, name: str) -> None:
    """Draw estimates as a line, with their intervals as bars.

    Args:
        ax: where to draw.
        places: x of each estimate.
        estimates: `intervals.Estimate` of each place, as shares of 1; they are drawn in percent.
        look: colour, marker and dashes of the line, from `style.encoder_looks`.
        name: entry in the legend.
    """
    percent = 100 * pd.DataFrame(estimates.tolist())
    ax.plot(places, percent["value"], label=name, markersize=4, **look)
    ax.vlines(places, percent["low"], percent["high"], color=look["color"], alpha=0.4)


def grid_axes(
    number: int, columns: int, width: float, height: float, empty: str = NOT_IN_PROFILE
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of panels, and the panels.

    Args:
        number: number of panels. If it is 0, the figure has one empty panel that says why.
        columns: panels per row; the rest of the last row stays empty.
        width, height: size of a panel, inches.
        empty: title of the empty panel.
    """
    columns = max(columns, 1)
    rows = max(-(-number // columns), 1)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    panels = list(axes.flat)
    for ax in panels[number:]:
        ax.set_axis_off()
    if number == 0:
        panels[0].set(title=empty)
        figure.set_label(NOT_IN_PROFILE)
    return figure, panels[:number]


def shared_legend(figure: Figure, ax: Axes, columns: int) -> None:
    """Draw the legend of one panel below all panels."""
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower center",
        ncol=columns,
        frameon=False,
        fontsize=7,
        handlelength=3,  # so that dashes are visible
    )
