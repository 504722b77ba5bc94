"""The style of figures, and montages of images."""

from collections.abc import Iterable
from functools import cache
from itertools import cycle, islice

import numpy as np
from anyascii import anyascii
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, get_font

from plankton_study.report.formatting import shown_name

FONT = "DejaVu Sans"  # comes with matplotlib
#: of seaborn's sizes for papers; labels of axes have 8.6 pt then, and those of ticks 7.9 pt
FONT_SCALE = 0.9

MARKERS = "os^DvPX*<>"
#: further colours, which differ from those of seaborn's palette in lightness
DARK = ("#7f7f00", "#1f2f6f", "#7f1d1d", "#005f56")
#: keywords with which lines of an encoder are drawn: colour, marker and dashes
Look = dict[str, object]
#: name of an encoder → its look
Looks = dict[str, Look]

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
        context="paper",
        style="ticks",
        palette="colorblind",
        font=FONT,
        font_scale=FONT_SCALE,
        rc=SETTINGS,
    )


def line_looks(number: int) -> list[dict[str, object]]:
    """Return a colour and a marker for each line of a plot; no two of the first 40 are the same."""
    import seaborn as sns

    palette = sns.color_palette("colorblind")
    colours = [*palette[:6], palette[9], *DARK]  # without grey, and the light pink and yellow
    return [
        {"color": colour, "marker": marker}
        for colour, marker in islice(zip(cycle(colours), cycle(MARKERS)), number)
    ]


def encoder_looks(names: Iterable[str]) -> Looks:
    """Return a colour and a marker for each encoder, the same in every figure of a study.

    Args:
        names: all encoders of the profile, also those that a figure leaves out.
    """
    names = list(names)
    looks = dict(zip(names, line_looks(len(names)), strict=True))
    return looks | {"diffusion": {"color": "black", "marker": "o", "linewidth": 2}}


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


def drawn_name(taxon: str) -> str:
    """Return the name of a taxon as it is drawn in figures.

    Matplotlib takes text between dollar signs for mathematics, and draws a box for a character
    that its font lacks; such characters are transliterated to Latin letters.
    """
    drawable = _drawable_characters()
    letters = [letter if ord(letter) in drawable else anyascii(letter) for letter in taxon]
    return shown_name("".join(letters)).replace("$", r"\$")


@cache
def _drawable_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())
