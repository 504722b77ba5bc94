"""The style of figures, and montages of images."""

from itertools import cycle, islice

import numpy as np
from matplotlib.axes import Axes

MARKERS = "os^DvPX*<>"

SETTINGS = {
    "svg.hashsalt": "plankton_study",  # the same bytes on every save
    "svg.fonttype": "path",
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
}


def set_style() -> None:
    """Set the style of every figure."""
    import seaborn as sns

    sns.set_theme(
        context="paper", style="ticks", palette="colorblind", font="DejaVu Sans", rc=SETTINGS
    )


def line_looks(number: int) -> list[dict[str, object]]:
    """Return a colour and a marker for each line of a plot; no two of the first 40 are the same."""
    import seaborn as sns

    palette = sns.color_palette("colorblind")
    colours = palette[:6] + palette[8:]  # without pink and grey
    return [
        {"color": colour, "marker": marker}
        for colour, marker in islice(zip(cycle(colours), cycle(MARKERS)), number)
    ]


def montage(images: np.ndarray, columns: int) -> np.ndarray:
    """Tile images (N, R, R) uint8 row by row into one grey image, with white gaps of 1 px."""
    missing = -len(images) % columns
    padding = ((0, missing), (0, 1), (0, 1))
    tiles = np.pad(images, padding, constant_values=255)
    side = tiles.shape[-1]
    rows = tiles.reshape(-1, columns, side, side).swapaxes(1, 2)
    return rows.reshape(-1, columns * side)[:-1, :-1]


def show_images(ax: Axes, images: np.ndarray, columns: int, title: str = "") -> None:
    """Draw images (N, R, R) uint8 as one montage without axes."""
    show_grey(ax, montage(images, columns))
    ax.set_title(title, fontsize=7, loc="left", pad=2)


def label_row(ax: Axes, text: str) -> None:
    """Write a vertical label to the left of a panel without axes."""
    ax.text(-0.08, 0.5, text, transform=ax.transAxes, rotation="vertical", ha="right", va="center")


def show_grey(ax: Axes, picture: np.ndarray) -> None:
    """Draw a grey image (H, W) uint8 without axes."""
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
    ax.set_axis_off()
