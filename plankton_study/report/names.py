"""Files to take away: the names of images as tables, for EcoTaxa, and as contact sheets."""

import io
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from plankton_study.questions.naming.names import NAMED, Names
from plankton_study.report.formatting import csv_text
from plankton_study.report.style import drawn_name, montage
from plankton_study.run.files import write_file

#: images of a taxon on either side of a contact sheet
PER_SIDE = 6
TAXA_PER_PAGE = 12
#: longer names would leave no room for the images
MOST_LETTERS = 36
#: type of the columns of a table for EcoTaxa
TEXT, NUMBER = "[t]", "[f]"
BYTE_ORDER_MARK = "\ufeff"


def ecotaxa_table(names: pd.DataFrame) -> pd.DataFrame:
    """Return names as EcoTaxa imports them, with the status "predicted".

    The object is that of an export from EcoTaxa, so that "import > update" finds it; of other
    images it is the path without its ending. Further columns become free columns of the object.
    An object with several images gets the name of the first. Images that more likely show another
    taxon than the named one are left out, so they stay without a name there.

    Args:
        names: from `names_table`.

    Returns:
        The rows of the table; the first holds the types of the columns.
    """
    without_ending = names["image"].map(lambda path: str(PurePosixPath(path).with_suffix("")))
    table = pd.DataFrame(
        {
            "img_file_name": names["image"],
            "object_id": names["object"].where(names["object"].ne(""), without_ending),
            "object_annotation_category": names["taxon"],
            "object_annotation_status": "predicted",
            "object_probability": names["probability"],
            "object_second_taxon": names["second taxon"],
            "object_second_probability": names["second probability"],
            "object_another_taxon": names["another taxon"],
            "object_unknown": names["unknown"],
        }
    )
    if names["sample"].ne("").all():
        table["sample_id"] = names["sample"]
    is_likely = names["probability"] >= names["another taxon"]
    is_further = names[["sample"]].assign(object=table["object_id"]).duplicated()
    table = table[is_likely & ~is_further]
    is_number = table.dtypes.map(pd.api.types.is_numeric_dtype)
    types = pd.DataFrame([np.where(is_number, NUMBER, TEXT)], columns=table.columns)
    return pd.concat([types, table.astype(object)], ignore_index=True)


def save_names(folder: Path, names: Names, table: pd.DataFrame, abundances: pd.DataFrame) -> None:
    """Write names.csv, ecotaxa.tsv, abundances.csv and contact_sheet.pdf.

    Args:
        folder: the folder to write to.
        names: the images.
        table: their names, from `names_table`.
        abundances: the table of `estimate_abundances`.
    """
    write_file(folder / "names.csv", csv_text(table))
    write_file(folder / "abundances.csv", csv_text(abundances.round(4)))
    # with the mark EcoTaxa reads it as UTF-8, otherwise as Latin-1
    tsv = BYTE_ORDER_MARK + csv_text(ecotaxa_table(table), separator="\t")
    write_file(folder / "ecotaxa.tsv", tsv)
    write_file(folder / "contact_sheet.pdf", contact_sheet_pdf(names))


# --- contact sheets


def short_name(taxon: str) -> str:
    """Return the name of a taxon as it is drawn, without the end of a long one."""
    return drawn_name(taxon if len(taxon) <= MOST_LETTERS else f"{taxon[: MOST_LETTERS - 1]}…")


def taxa_by_frequency(names: Names) -> list[str]:
    """Return the taxa that name any image, the most frequent first."""
    return pd.Series(names.taxa(NAMED)).value_counts().index.tolist()


def contact_sheet(names: Names, taxa: list[str]) -> Figure:
    """Draw the surest images of some taxa on the left, the least sure ones on the right.

    Args:
        names: the images.
        taxa: one row each.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7, 0.55 * len(taxa) + 0.5), squeeze=False)
    by_taxon = _surest_first(names, taxa)
    surest = [positions[:PER_SIDE] for positions in by_taxon.values()]
    least_sure = [positions[::-1][:PER_SIDE] for positions in by_taxon.values()]
    _draw_side(axes[0, 0], names, surest, "surest")
    _draw_side(axes[0, 1], names, least_sure, "least sure")
    labels = [f"{short_name(taxon)} ({len(by_taxon[taxon])})" for taxon in taxa]
    side = names.splits.collection.images.shape[1] + 1
    heights = (np.arange(len(taxa)) + 0.5) * side
    axes[0, 0].set_yticks(heights, labels, fontsize=7)
    axes[0, 1].set_yticks([])
    return figure


def _surest_first(names: Names, taxa: list[str]) -> dict[str, np.ndarray]:
    """Return taxon → the positions of the images with this name, the most probable first."""
    by_confidence = np.argsort(-names.confidence(NAMED), kind="stable")
    in_order = names.taxa(NAMED)[by_confidence]
    return {taxon: by_confidence[in_order == taxon] for taxon in taxa}


def _draw_side(ax: Axes, names: Names, rows: list[np.ndarray], title: str) -> None:
    """Draw one row of images for each array of positions; missing images stay white."""
    images = names.splits.collection.images
    side = images.shape[1]
    tiles = np.full((len(rows), PER_SIDE, side, side), 255, np.uint8)
    for tile_row, positions in zip(tiles, rows, strict=True):
        tile_row[: len(positions)] = images[names.images.rows[positions]]
    ax.imshow(montage(tiles.reshape(-1, side, side), PER_SIDE), cmap="gray", vmin=0, vmax=255)
    ax.set_xticks([])
    ax.set_title(title, fontsize=8)


def contact_sheet_pdf(names: Names) -> bytes:
    """Return the contact sheets of all taxa that name any image, as a PDF of several pages."""
    taxa = taxa_by_frequency(names)
    content = io.BytesIO()
    with PdfPages(content, metadata={"CreationDate": None}) as pages:
        for start in range(0, len(taxa), TAXA_PER_PAGE):
            figure = contact_sheet(names, taxa[start : start + TAXA_PER_PAGE])
            pages.savefig(figure)
            plt.close(figure)
    return content.getvalue()
