"""From image files to a Collection: one memory-mapped array beside one table of records."""

import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image

from plankton_study import readers, sources, synthetic
from plankton_study.profile import StudyError
from plankton_study.progress import progress
from plankton_study.schema import Images
from plankton_study.store import digest, keep, need_room, write_json
from plankton_study.study import Study


@dataclass(frozen=True)
class Collection:
    """Images of one set and what is known about each."""

    name: str  # of the set in the profile
    images: np.ndarray  # (N, R, R) uint8, memory-mapped, dark organism on light ground
    records: pd.DataFrame  # N rows: id, taxon, time (UTC or NaT), sample, site, instrument, width, height (px), digest
    digest: str  # of images and records; what is built on the collection is keyed by it
    entry: sources.CatalogueEntry  # of the catalogue, with the profile's changes
    refused: tuple[str, ...]  # ids of the files that could not be read

    def __len__(self) -> int:
        return len(self.records)


def collection(study: Study, name: str) -> Collection:
    """Return one set of the profile as a Collection, reading its images on the first call.

    Raises: StudyError if the set cannot be found or downloaded, holds no images, or has too many broken files.
    """
    sets, wanted = study.profile.sets | study.profile.transfers, study.profile.images
    if name not in sets:
        raise StudyError(f"the profile {study.profile.name} has no set {name!r}, only {', '.join(sets)}")
    config = sets[name]
    source = config.source or name
    entry = sources.entry(source, config.entry)
    if entry.reader == "synthetic":
        what = {"images": config.images or 3600, "seed": 0, "nature": digest(synthetic.NATURE)}
        place = keep(study, "synthetic", what, ["synthetic"], lambda to: synthetic.write(to, what["images"], seed=0))
    else:
        place = sources.locate(source, entry, study.data, study.cache / "downloads", study.profile.hub)
    records, read = readers.READERS[entry.reader](place, entry)
    if records.empty:
        raise StudyError(f"{place} holds no images for the set {name!r}: see what its reader {entry.reader!r} expects")

    what = {"records": digest(records.to_csv(index=False).encode(), read.fingerprint)}
    what |= {"size": wanted.size, "polarity": entry.polarity}
    decode = partial(_decode, records, read, wanted, entry.polarity == "light_on_dark", f"images of {place}")
    folder = keep(study, "collection", what, ["data", "readers"], decode)
    about, records = json.loads((folder / "about.json").read_text()), pd.read_parquet(folder / "records.parquet")
    images = np.load(folder / "images.npy", mmap_mode="r")[: len(records)]
    return Collection(name, images, records, about["digest"], entry, tuple(about["refused"]))


def prepare(content: bytes, size: int, invert: bool) -> tuple[np.ndarray, int, int]:
    """Decode the bytes of an image file to a square of grey values; `invert` a light organism on dark ground.

    The longer side decides: the border's median pads the shorter one, so that nothing is cropped or stretched,
    and Pillow's antialiased bilinear filter resizes. Grey of 16 or 32 bits is scaled to 8, by each image's own maximum;
    transparent ground becomes white, or black for `invert`. OSError, ValueError: no whole image, or none that is read.
    Returns: (size, size) uint8, dark on light; original width and height, px.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.mode.startswith(("I", "F")):  # 16 or 32 bits
            deep = np.asarray(image, dtype=np.float64)
            image = Image.fromarray((deep * (255 / max(deep.max(), 1))).clip(0, 255).astype(np.uint8))
        if image.mode.startswith("RGB") and ";16" in str(image.tile):  # Pillow would drop half of each colour's bits
            raise ValueError("colours of 16 bits are not read: save it as grey, or with colours of 8 bits")
        if image.has_transparency_data:
            ground = Image.new("RGBA", image.size, "black" if invert else "white")
            image = Image.alpha_composite(ground, image.convert("RGBA"))
        image = image.convert("L")
    grey, side = np.asarray(image), max(image.size)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    square = Image.new("L", (side, side), int(np.median(border)))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    small = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    return (255 - small if invert else small), *image.size


def _decode(records: pd.DataFrame, read: readers.Read, config: Images, invert: bool, what: str, folder: Path) -> None:
    def one(row: int) -> tuple[np.ndarray, int, int, str] | str:
        try:
            content = read(row)
            return *prepare(content, config.size, invert), hashlib.sha256(content).hexdigest()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's ways to fail
            return f"{type(error).__name__}: {error}".splitlines()[0]

    need_room(folder, len(records) * config.size**2)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (len(records), config.size, config.size))
    shapes, digests = np.zeros((len(records), 2), int), []
    whole, broken, workers = np.zeros(len(records), bool), {}, os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool, progress(f"reading {what}", len(records)) as bar:
        for start in range(0, len(records), 256 * workers):  # bounded: a pool's queue would hold every image
            rows = range(len(records))[start : start + 256 * workers]
            for row, result in zip(rows, pool.map(one, rows)):
                bar.update()
                if isinstance(result, str):
                    broken[records["id"][row]] = result
                else:  # whole images lie without gaps; behind them as many rows stay unused as files are broken
                    images[row - len(broken)], shapes[row], whole[row] = result[0], result[1:3], True
                    digests.append(result[3])
    named = [f"{name} ({reason})" for name, reason in broken.items()]
    if len(named) > config.broken_share * len(records):
        many = f"{len(named)} of {len(records)} {what} cannot be read, the first is {named[0]}"
        raise StudyError(f"{many}: mend or remove them, or raise images.broken_share (now {config.broken_share:g})")
    for file in named:
        print(f"left out, cannot be read: {file}")
    images.flush()
    facts = pd.DataFrame(shapes[whole], columns=["width", "height"]).assign(digest=digests)
    records = records[whole].reset_index(drop=True).join(facts)
    records.to_parquet(folder / "records.parquet", index=False)
    total = hashlib.sha256()  # of the table as CSV, taken row by row: the text of all is larger than the table
    records.to_csv(SimpleNamespace(write=lambda text: total.update(text.encode())), index=False)
    total.update(images[: len(records)].reshape(-1))
    write_json(folder / "about.json", {"digest": total.hexdigest()[:20], "refused": sorted(broken)})
