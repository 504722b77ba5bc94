"""Bins of the Imaging FlowCytobot: .hdr, .adc and .roi files, read with libifcb."""

import io
from collections import Counter
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
from libifcb import ROIReader
from PIL import Image

from plankton_study.images.catalogue import CatalogueEntry
from plankton_study.images.reading.records import (
    HIDDEN,
    ImageFiles,
    complete_records,
    file_states,
    image_names,
    number_of,
)
from plankton_study.images.reading.said import say
from plankton_study.run.cache import digest
from plankton_study.run.errors import StudyError

#: bins whose indices are kept in memory
OPEN_BINS = 16
PARTS_OF_A_BIN = (".hdr", ".adc", ".roi")
#: of the names of bins, such as D20140117T003426_IFCB014
BIN_PATTERN = r"D(?P<time>\d{8}T\d{6})_(?P<instrument>IFCB\d+)"


def read_ifcb(place: Path, entry: CatalogueEntry) -> tuple[pd.DataFrame, ImageFiles]:
    """Read all images of the bins in a folder, and the labels of those that were sorted.

    An image is named after its bin and its line in the .adc file, such as
    D20140117T003426_IFCB014_00002, and the bin is its sample. It has a label if a class folder
    beside the bins holds an image file of that name; otherwise it is unlabelled.

    Args:
        place: the folder; bins may lie at any depth.
        entry: its `unlabelled` folders give no labels.

    Raises:
        StudyError: there is no bin, a file of one is missing or cannot be read, or an image was
            sorted into two class folders.
    """
    bins = _bins(place)
    labels = _labels(place, entry)
    ids, bin_names, positions = [], [], []
    for name, stem in bins.items():
        for position, number in enumerate(_numbers(stem)):
            ids.append(f"{name}_{number:05d}")
            bin_names.append(name)
            positions.append(position)
    _say_labels(place, labels, set(ids))
    rows = pd.DataFrame({"id": ids, "sample": bin_names}, dtype=object)
    rows["taxon"] = rows["id"].map(labels)
    parts = rows["sample"].str.extract(BIN_PATTERN)
    rows = rows.join(parts[["time", "instrument"]])
    files = [stem.with_suffix(ending) for stem in bins.values() for ending in PARTS_OF_A_BIN]
    fingerprint = digest(file_states(files))
    reader = _BinImages([bins[name] for name in bin_names], positions)
    return complete_records(rows, entry), ImageFiles(reader.read, fingerprint)


def _bins(place: Path) -> dict[str, Path]:
    """Return name → path without ending of each bin, sorted by name."""
    found = [path for path in place.glob("**/*.adc") if not HIDDEN.search(path.name)]
    if not found:
        raise StudyError(
            f"{place} holds no .adc file: name the folder of the bins of an Imaging FlowCytobot"
        )
    for path in found:
        for ending in PARTS_OF_A_BIN:
            if not path.with_suffix(ending).is_file():
                raise StudyError(f"{path} has no {ending} file beside it: put it there")
    repeated = [name for name, count in Counter(path.stem for path in found).items() if count > 1]
    if repeated:
        raise StudyError(f"{place} holds the bin {repeated[0]} more than once: keep one of them")
    return {path.stem: path.with_suffix("") for path in sorted(found, key=lambda path: path.stem)}


def _numbers(stem: Path) -> list[int]:
    """Return the lines of a bin's .adc file that have an image, counted from 1."""
    with closing(_OpenBin(stem)) as opened:
        return [roi.index for roi in opened.images]


class _OpenBin:
    """A bin with its index of images, and its open .roi file."""

    def __init__(self, stem: Path) -> None:
        self.roi_file = stem.with_suffix(".roi").open("rb")
        try:
            header, index = str(stem.with_suffix(".hdr")), str(stem.with_suffix(".adc"))
            self.images = ROIReader(header, index, self.roi_file).rois
        except Exception as error:  # libifcb checks nothing, so a broken file raises anything
            self.roi_file.close()
            raise StudyError(
                f"{stem} cannot be read as a bin of an Imaging FlowCytobot ({error!r}): "
                "bins of the first instruments, whose header does not describe the .adc file, are "
                "not supported: export their images to files"
            ) from None

    def close(self) -> None:
        """Close the .roi file."""
        self.roi_file.close()

    __del__ = close


class _BinImages:
    """The images of all rows, read from their bins.

    Args:
        stems: of each row, its bin.
        positions: of each row, the position of its image in the bin.
    """

    def __init__(self, stems: list[Path], positions: list[int]) -> None:
        self.stems = stems
        self.positions = positions
        self._open = lru_cache(OPEN_BINS)(_OpenBin)
        self._lock = Lock()  # images are decoded by several threads, and a bin has one open file

    def read(self, row: int) -> bytes:
        """Return one image as a PNG file.

        Raises:
            OSError: the .roi file is too short.
        """
        with self._lock:
            image = self._open(self.stems[row]).images[self.positions[row]]
            try:
                pixels = np.array(image.array)
            except ValueError:
                raise OSError("the .roi file ends before it") from None
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG", compress_level=0)
        return content.getvalue()


# --- labels


def _labels(place: Path, entry: CatalogueEntry) -> dict[str, str]:
    """Return name of an image → the class folder that holds a file of that name."""
    labels: dict[str, str] = {}
    for path in image_names(place, "*/**/*"):
        taxon, name = path.split("/")[0], Path(path).stem
        if taxon in entry.unlabelled:
            continue
        if labels.setdefault(name, taxon) != taxon:
            raise StudyError(
                f"{place} has the image {name} in the folders {labels[name]} and {taxon}: "
                "remove one of them"
            )
    return labels


def _say_labels(place: Path, labels: dict[str, str], ids: set[str]) -> None:
    """Say how many images have a label, and which labels are of no image."""
    count = number_of(len(ids & set(labels)), "image")
    say(f"{place}: {count} of {len(ids)} in the bins have a label, from class folders beside them")
    unknown = sorted(set(labels) - ids)
    if unknown:
        say(
            f"{place}: {number_of(len(unknown), 'file')} in class folders left out, named like no "
            f"image of these bins, the first is {unknown[0]!r}"
        )
