"""From image files to a Collection: a memory-mapped array of images and a table of records."""

import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from plankton_study.images.catalogue import CatalogueEntry, catalogue_entry
from plankton_study.images.decoding import (
    DECODING_ERRORS,
    PreparedImage,
    prepare_image,
    why_unreadable,
)
from plankton_study.images.instruments.raw_files import advice_on
from plankton_study.images.reading.readers import READERS
from plankton_study.images.reading.records import ImageFiles, number_of
from plankton_study.images.reading.said import collecting, say
from plankton_study.images.sources.locate import locate
from plankton_study.images.synthetic import writing
from plankton_study.images.synthetic.parameters import PARAMETERS
from plankton_study.run.cache import digest, keep, module_digests
from plankton_study.run.errors import StudyError
from plankton_study.run.files import read_json, require_space, write_json
from plankton_study.run.progress import progress
from plankton_study.run.schema import DataSet, ImageSettings
from plankton_study.run.study import Study

#: modules whose code turns image files into the arrays of a collection
SHAPED_BY = ("images.collection", "images.decoding", "images.reading.records")
#: images queued per worker at a time, so that decoded images do not fill the memory
QUEUED_PER_WORKER = 256
DEFAULT_SYNTHETIC_IMAGES = 3600
#: a larger share of borders that contradict the polarity stops the study
CONTRADICTING_SHARE = 0.05
#: shorter side of an image whose border is not the organism itself, px
SMALLEST_JUDGED = 8


@dataclass(frozen=True)
class Collection:
    """The images of one set, and a table of records about them.

    Attributes:
        name: name of the set in the profile.
        images: (N, R, R) uint8, memory-mapped, dark organism on light background.
        records: N rows: id, taxon, time (UTC or NaT), sample, site, instrument, object ("" if it
            is not known), width and height (px, of the original), digest (of the file).
        digest: hash of images and records; part of the cache key of everything made from them.
        entry: the catalogue entry, with the profile's changes.
        refused: ids of the files that could not be read.
        said: what was decided, joined or left out in reading the images, one sentence each.
    """

    name: str
    images: np.ndarray
    records: pd.DataFrame
    digest: str
    entry: CatalogueEntry
    refused: tuple[str, ...]
    said: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)


def load_collection(study: Study, name: str) -> Collection:
    """Return one set of the profile as a Collection; the first call reads its images.

    If the data folder has prepared images of the set (see `pack_collection`), these are opened.

    Raises:
        StudyError: the set cannot be found or downloaded, holds no images, or has too many broken
            files.
    """
    packed = _packed_folder(study.data, study, name) if study.data else None
    if packed and packed.is_dir():
        return _open_packed(study, name, packed)
    with collecting() as said:
        source = _find_source(study, name)
    folder = _prepare_images(study, source, said)
    return _open_collection(name, folder, source.entry, said)


def open_original(study: Study, name: str, image_id: str) -> Image.Image:
    """Return an original image of a set, before any preparation.

    Args:
        study, name: the set.
        image_id: an id from the collection's records.

    Raises:
        StudyError: the set has no such image.
    """
    with collecting():  # it was said when the set was read
        source = _find_source(study, name)
    rows = source.records.index[source.records["id"] == image_id]
    if len(rows) == 0:
        raise StudyError(f"{name} has no image {image_id!r}: use an id of its records")
    return Image.open(io.BytesIO(source.files.read(rows[0])))


def pack_collection(study: Study, name: str, data: Path) -> Path:
    """Write the prepared images of a set to a data folder, for a machine without the image files.

    Args:
        study, name: the set.
        data: the folder that will be the data folder there.

    Returns:
        The folder of the set in it.

    Raises:
        StudyError: the data folder already has prepared images of this set.
    """
    folder = _packed_folder(data, study, name)
    if folder.exists():
        raise StudyError(f"{folder} is there already: remove it, or name another folder")
    with collecting() as said:
        source = _find_source(study, name)
    prepared = _prepare_images(study, source, said)
    shutil.copytree(prepared, folder)
    return folder


def _packed_folder(data: Path, study: Study, name: str) -> Path:
    """Return where the prepared images of a set lie in a data folder, such as pwssc.64px."""
    return data / f"{name}.{study.profile.images.size}px"


def _open_packed(study: Study, name: str, folder: Path) -> Collection:
    """Open prepared images.

    Raises:
        StudyError: they were prepared in another way.
    """
    config = _set_config(study, name)
    entry = catalogue_entry(config.source or name, config.entry)
    origin = read_json(folder / "origin.json")
    differing = [
        what
        for what, is_equal in {
            "polarity": origin["inputs"]["polarity"] == entry.polarity,
            "crop": origin["inputs"]["crop"] == entry.crop,
            "code": origin["code"] == module_digests(SHAPED_BY),
        }.items()
        if not is_equal
    ]
    if differing:
        raise StudyError(
            f"the images in {folder} were prepared with another {' and '.join(differing)}: "
            "pack them again with this profile and this revision of the code"
        )
    return _open_collection(name, folder, entry)


class _Source(NamedTuple):
    """The location of a set's images, and their records before they are decoded."""

    place: Path | str
    entry: CatalogueEntry
    records: pd.DataFrame
    files: ImageFiles


def _find_source(study: Study, name: str) -> _Source:
    config = _set_config(study, name)
    source = config.source or name
    entry = catalogue_entry(source, config.entry)
    if entry.reader == "synthetic":
        place = _draw_synthetic_images(study, config.images or DEFAULT_SYNTHETIC_IMAGES)
    else:
        downloads = study.cache / "downloads"
        place = locate(source, entry, study.data, downloads, study.profile.hub)
    records, files = READERS[entry.reader](place, entry)
    if records.empty:
        raise StudyError(
            f"{place} holds no images for the set {name!r}: {_what_to_do(place, entry)}"
        )
    return _Source(place, entry, records, files)


def _what_to_do(place: Path | str, entry: CatalogueEntry) -> str:
    """Return what may be wrong with a set that holds no images."""
    check = f"check that its files are what the reader {entry.reader!r} expects"
    return advice_on(Path(place)) or check


def _set_config(study: Study, name: str) -> DataSet:
    sets = study.profile.sets | study.profile.transfers
    if name not in sets:
        raise StudyError(
            f"the profile {study.profile.name} has no set {name!r}, only {', '.join(sets)}: "
            "use one of these"
        )
    return sets[name]


def _draw_synthetic_images(study: Study, images: int) -> Path:
    inputs = {"images": images, "seed": 0, "parameters": digest(PARAMETERS)}
    draw = partial(writing.write_images, images=images, seed=0)
    return keep(study, "synthetic", inputs, writing.SHAPED_BY, draw)


def _prepare_images(study: Study, source: _Source, said: list[str]) -> Path:
    """Return the folder of the decoded images; the first call decodes them.

    Args:
        study: provides the size of the images.
        source: the images.
        said: what the reader said, which is printed with the first decoding.
    """
    settings = study.profile.images
    table = source.records.to_csv(index=False).encode()
    inputs = {
        "records": digest(table, source.files.fingerprint),
        "size": settings.size,
        "polarity": source.entry.polarity,
        "crop": source.entry.crop,
    }

    def decode(folder: Path) -> None:
        for message in said:
            print(message)
        label = f"images of {source.place}"
        _Decoder(source.records, source.files, settings, source.entry, label).run(folder)

    return keep(study, "collection", inputs, SHAPED_BY, decode)


def _open_collection(
    name: str, folder: Path, entry: CatalogueEntry, said: Iterable[str] = ()
) -> Collection:
    about = read_json(folder / "about.json")
    records = pd.read_parquet(folder / "records.parquet")
    # each broken file leaves an unused row at the end of the array
    images = np.load(folder / "images.npy", mmap_mode="r")[: len(records)]
    refused = tuple(about["refused"])
    all_said = (*said, *about["said"])
    return Collection(name, images, records, about["digest"], entry, refused, all_said)


class _Decoder:
    """Decodes all images of a set into a folder, and reports broken and doubtful files."""

    def __init__(
        self,
        records: pd.DataFrame,
        files: ImageFiles,
        settings: ImageSettings,
        entry: CatalogueEntry,
        label: str,
    ) -> None:
        self.records = records
        self.files = files
        self.settings = settings
        self.polarity = entry.polarity
        self.crop = entry.crop
        self.label = label

    def run(self, folder: Path) -> None:
        """Write images.npy, records.parquet and about.json."""
        size = self.settings.size
        shape = (len(self.records), size, size)
        require_space(folder, int(np.prod(shape)))
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
        readable = np.zeros(len(self.records), bool)
        broken: dict[str, str] = {}
        facts, contradicting, of_several_frames = [], [], []
        inverted = 0
        for row, decoded in self._decode_all():
            if isinstance(decoded, str):
                broken[self.records["id"][row]] = decoded
                continue
            image, file_digest = decoded
            if self._contradicts_polarity(image):
                contradicting.append(self.records["id"][row])
            if image.frames > 1:
                of_several_frames.append(self.records["id"][row])
            inverted += self.polarity == "by_border" and image.has_dark_ground
            images[len(facts)] = image.pixels
            readable[row] = True
            facts.append((image.width, image.height, file_digest))
        images.flush()
        with collecting() as said:
            self._report_broken(broken)
            self._report_polarity(contradicting)
            self._report_frames(of_several_frames)
            if self.polarity == "by_border":
                say(
                    f"{inverted} of {len(facts)} {self.label} lie on a dark ground and are inverted"
                )
        for message in said:
            print(message)
        records = self.records[readable].reset_index(drop=True)
        records = records.join(pd.DataFrame(facts, columns=["width", "height", "digest"]))
        records.to_parquet(folder / "records.parquet", index=False)
        about = {
            "digest": _collection_digest(records, images[: len(records)]),
            "refused": sorted(broken),
            "said": said,
        }
        write_json(folder / "about.json", about)

    def _decode_all(self) -> Iterator[tuple[int, tuple[PreparedImage, str] | str]]:
        """Yield row numbers in order, each with its image or the reason why it is unreadable."""
        workers = os.cpu_count() or 1
        queued = QUEUED_PER_WORKER * workers
        count = len(self.records)
        with ThreadPoolExecutor(workers) as pool, progress(f"reading {self.label}", count) as bar:
            for start in range(0, count, queued):
                rows = range(start, min(start + queued, count))
                for row, decoded in zip(rows, pool.map(self._decode, rows), strict=True):
                    bar.update()
                    yield row, decoded

    def _decode(self, row: int) -> tuple[PreparedImage, str] | str:
        content = b""
        try:
            content = self.files.read(row)
            image = prepare_image(content, self.settings.size, self.polarity, self.crop)
        except DECODING_ERRORS as error:
            return why_unreadable(error, content)
        return image, hashlib.sha256(content).hexdigest()

    def _contradicts_polarity(self, image: PreparedImage) -> bool:
        if self.polarity == "by_border" or min(image.width, image.height) < SMALLEST_JUDGED:
            return False
        return image.has_dark_ground != (self.polarity == "light_on_dark")

    def _report_polarity(self, contradicting: list[str]) -> None:
        if not contradicting:
            return
        found_on = "a light" if self.polarity == "light_on_dark" else "a dark"
        other = "dark_on_light" if self.polarity == "light_on_dark" else "light_on_dark"
        found = (
            f"{len(contradicting)} of {len(self.records)} {self.label} seem to lie on {found_on} "
            f"ground, the first is {contradicting[0]!r}, but the polarity is {self.polarity}"
        )
        if len(contradicting) > CONTRADICTING_SHARE * len(self.records):
            raise StudyError(
                f'{found}: set entry.polarity = "{other}", or "by_border" for a mixed set'
            )
        say(found)

    def _report_frames(self, of_several: list[str]) -> None:
        if of_several:
            say(
                f"{number_of(len(of_several), 'file')} of several pages or frames: only the first "
                f"is used; one such file is {of_several[0]!r}"
            )

    def _report_broken(self, broken: dict[str, str]) -> None:
        descriptions = [f"{name} ({reason})" for name, reason in broken.items()]
        share = self.settings.broken_share
        if len(broken) > share * len(self.records):
            raise StudyError(
                f"{len(broken)} of {len(self.records)} {self.label} cannot be read, "
                f"the first is {descriptions[0]}: repair or remove them, "
                f"or raise images.broken_share (now {share:g})"
            )
        for description in descriptions:
            say(f"left out, cannot be read: {description}")


class _TextHash:
    """A file that only hashes the text that is written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, text: str) -> None:
        self.hash.update(text.encode())


def _collection_digest(records: pd.DataFrame, images: np.ndarray) -> str:
    """Return the digest of the table as CSV, followed by all pixels.

    The table is hashed row by row, since the text of all rows is larger than the table. Objects
    count only if any is known.
    """
    text_hash = _TextHash()
    if not records["object"].any():
        records = records.drop(columns="object")
    records.to_csv(text_hash, index=False)
    text_hash.hash.update(images.reshape(-1))
    return text_hash.hash.hexdigest()[:20]
