"""From image files to a Collection: one memory-mapped array beside one table of records."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from plankton_study import readers, sources
from plankton_study.profile import StudyError
from plankton_study.progress import progress
from plankton_study.store import digest, keep, need_room, write_json
from plankton_study.study import Study


@dataclass(frozen=True)
class Collection:
    """Images of one set and what is known about each.

    Attributes:
        name: the set's name in the profile.
        images: (N, R, R) uint8, memory-mapped, dark organism on light ground.
        records: N rows: id, taxon, time (UTC, NaT if unknown), sample, site, instrument, width, height (px), digest.
        digest: hash of images and records; what is built on the collection is keyed by it.
        entry: the set's catalogue entry, with the profile's changes.
        refused: ids of the files that could not be read.
    """

    name: str
    images: np.ndarray
    records: pd.DataFrame
    digest: str
    entry: sources.CatalogueEntry
    refused: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.records)


def collection(study: Study, name: str) -> Collection:
    """Return one set of the profile as a Collection, reading its images on the first call.

    Raises:
        StudyError: the set cannot be found or downloaded, holds no images, or has too many broken files.
    """
    if name not in study.profile.sets:
        raise StudyError(f"the profile {study.profile.name} has no set {name!r}, only {', '.join(study.profile.sets)}")
    config = study.profile.sets[name]
    source = config.source or name
    entry = sources.entry(source, config.entry)
    if entry.reader == "synthetic":
        place = _draw(study, config.images or 3600)
    else:
        place = sources.locate(source, study.data, study.cache / "downloads", entry, hub=study.profile.hub)
    records, read = readers.READERS[entry.reader](place, entry)
    if records.empty:
        raise StudyError(f"{place} holds no images for the set {name!r}: see what its reader {entry.reader!r} expects")
    what = {
        "records": digest(records.to_csv(index=False).encode(), getattr(read, "fingerprint", "")),
        "size": study.profile.images.size,
        "polarity": entry.polarity,
    }
    share = study.profile.images.broken_share
    folder = keep(
        study, "collection", what, ["data", "readers"], lambda to: _decode(to, records, read, what, share, str(place))
    )
    return _open(folder, name, entry)


def _open(folder: Path, name: str, entry: sources.CatalogueEntry) -> Collection:
    records = pd.read_parquet(folder / "records.parquet")
    about = json.loads((folder / "about.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Collection(name, images, records, about["digest"], entry, tuple(about["refused"]))


def _draw(study: Study, images: int) -> Path:
    from plankton_study import synthetic

    what = {"images": images, "seed": 0}
    return (
        keep(study, "synthetic", what, ["synthetic"], lambda to: synthetic.write(to / "images", images, 0)) / "images"
    )


# Decoding


def prepare(content: bytes, size: int, invert: bool) -> tuple[np.ndarray, int, int]:
    """Decode one image file to a square of grey values.

    The longer side decides: the border's median pads the shorter one, so that nothing is cropped or stretched,
    and Pillow's antialiased bilinear filter resizes.

    `content` are the bytes of an image file, `invert` says that it shows a light organism on dark ground.

    Returns:
        (size, size) uint8, dark on light; original width and height, px. OSError if the bytes are no whole image.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            deep = np.asarray(image, dtype=np.float64)
            image = Image.fromarray((deep * (255 / max(deep.max(), 1))).clip(0, 255).astype(np.uint8))
        grey = np.asarray(image.convert("L"))
    height, width = grey.shape
    side = max(height, width)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    square = np.full((side, side), np.uint8(np.median(border)))
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = grey
    small = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))
    return (255 - small if invert else small), width, height


def _decode(
    folder: Path, records: pd.DataFrame, read: readers.Read, what: dict[str, Any], share: float, place: str
) -> None:
    size, invert = what["size"], what["polarity"] == "light_on_dark"

    def one(row: int) -> tuple[np.ndarray, int, int, str] | str:
        try:
            content = read(row)
            return *prepare(content, size, invert), hashlib.sha256(content).hexdigest()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's ways to fail
            return f"{type(error).__name__}: {error}".splitlines()[0]

    need_room(folder, 2 * len(records) * size * size)
    images = np.lib.format.open_memmap(folder / "decoded.npy", "w+", np.uint8, (len(records), size, size))
    facts, broken = [], {}
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool, progress(f"reading images of {place}", len(records)) as bar:
        for rows in _chunks(len(records), 256 * workers):  # bounded: a pool's queue would hold every image
            for row, result in zip(rows, pool.map(one, rows)):
                bar.update()
                if isinstance(result, str):
                    broken[records["id"][row]] = result
                    facts.append((0, 0, ""))
                else:
                    images[row] = result[0]
                    facts.append(result[1:])
    if len(broken) > share * len(records):
        name, reason = next(iter(broken.items()))
        raise StudyError(
            f"{len(broken)} of {len(records)} images of {place} cannot be read, the first is {name} ({reason}): "
            f"mend or remove them, or raise images.broken_share (now {share:g})"
        )
    for name, reason in broken.items():
        print(f"left out, cannot be read: {name} ({reason})")
    records = records.assign(**dict(zip(("width", "height", "digest"), zip(*facts))))
    kept = (records["digest"] != "").to_numpy()
    records = records[kept].reset_index(drop=True)
    final = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (len(records), size, size))
    total = hashlib.sha256(records.to_csv(index=False).encode())
    for part in _chunks(len(records), 4096):
        final[part.start : part.stop] = images[np.flatnonzero(kept)[part.start : part.stop]]
        total.update(final[part.start : part.stop].tobytes())
    final.flush()
    (folder / "decoded.npy").unlink()
    records.to_parquet(folder / "records.parquet", index=False)
    write_json(folder / "about.json", {"digest": total.hexdigest()[:20], "refused": sorted(broken)})


def _chunks(total: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, total)) for start in range(0, total, size))
