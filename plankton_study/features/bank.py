"""The feature bank: extraction, and one memory-mapped array for each cell."""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from tqdm import tqdm

from plankton_study.features.interface import Cell, Encoder, joined_cells
from plankton_study.images.collection import Collection
from plankton_study.images.splits import Splits
from plankton_study.run.cache import digest, keep
from plankton_study.run.errors import StudyError
from plankton_study.run.files import read_json, require_space, write_json
from plankton_study.run.machine import processes
from plankton_study.run.progress import progress
from plankton_study.run.study import Study

#: modules whose code shapes a bank, in addition to those in the encoder's identity
SHAPED_BY = ("features.bank", "features.interface")
FLOAT_BYTES = 4


@dataclass(frozen=True)
class FeatureBank:
    """Features of some rows of a collection, one memory-mapped array for each cell.

    Attributes:
        folder: folder of the arrays; its name identifies the features.
        rows: sorted rows of the collection.
        cells: the cells that were read.
        layers: see `Encoder`.
    """

    folder: Path
    rows: np.ndarray
    cells: list[Cell]
    layers: pd.DataFrame

    def __getitem__(self, cell: Cell) -> np.ndarray:
        return np.load(_file(self.folder, cell), mmap_mode="r")

    def width(self, cell: Cell) -> int:
        """Return the number of features of a cell."""
        return sum(self[own].shape[1] for own in joined_cells(cell, self.cells))

    def holds(self, rows: np.ndarray) -> bool:
        """Return whether the bank has the features of all these rows."""
        return bool(np.isin(rows, self.rows).all())

    def take(self, cell: Cell, rows: np.ndarray) -> np.ndarray:
        """Return the features of a cell for rows of the collection, (len(rows), C) float32.

        Those of a cell of all layers are joined in the order of the layers.

        Raises:
            KeyError: the bank lacks one of the rows.
        """
        positions = np.searchsorted(self.rows, rows)
        within = np.minimum(positions, len(self.rows) - 1)
        if not np.array_equal(self.rows[within], rows):
            raise KeyError("the bank was extracted for other images")
        parts = [self[own][positions] for own in joined_cells(cell, self.cells)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class JoinedBanks:
    """Features of the same encoder from several banks, read like those of one.

    Attributes:
        banks: they hold the same cells; a row may be in several.
    """

    banks: tuple[FeatureBank, ...]

    def holds(self, rows: np.ndarray) -> bool:
        """Return whether the banks together have the features of all these rows."""
        return bool(np.isin(rows, np.concatenate([bank.rows for bank in self.banks])).all())

    def take(self, cell: Cell, rows: np.ndarray) -> np.ndarray:
        """Return the features of a cell for rows of the collection, see `FeatureBank.take`.

        Raises:
            KeyError: no bank has one of the rows.
        """
        if not self.holds(rows):
            raise KeyError("the banks were extracted for other images")
        features = np.empty((len(rows), self.banks[0].width(cell)), np.float32)
        for bank in self.banks:
            is_here = np.isin(rows, bank.rows)
            features[is_here] = bank.take(cell, rows[is_here])
        return features


#: what features can be taken from
AnyBank = FeatureBank | JoinedBanks


def _file(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell}.npy"


def extract_features(
    study: Study,
    encoder: Encoder,
    splits: Splits,
    rows: np.ndarray,
    cells: list[Cell] | None = None,
    batch_size: int | None = None,
) -> FeatureBank:
    """Return the features of an encoder for some rows; the first call computes them.

    Memory does not grow with the number of images. After an interruption, the next call continues
    with the first unfinished timestep.

    Args:
        study: provides the cache and the settings.
        encoder: the encoder.
        splits: splits whose collection holds the images.
        rows: sorted int64 rows of the collection.
        cells: the cells to read; None: all cells of the encoder. For a cell of all layers, those
            that it joins are read.
        batch_size: images per forward pass; None: the profile's value.
    """
    collection = splits.collection
    requested = cells or encoder.cells
    cells = [own for cell in requested for own in joined_cells(cell, encoder.cells)]
    inputs = {
        "images": collection.digest,
        "rows": digest(rows),
        "encoder": encoder.identity,
        "cells": [str(cell) for cell in cells],
    }
    extraction = Extraction(
        encoder, collection, rows, cells, batch_size or study.profile.features.batch_size
    )
    folder = keep(study, "bank", inputs, SHAPED_BY, extraction.run, resume=True)
    return FeatureBank(folder, rows, cells, encoder.layers)


class Extraction:
    """Writes the features of some rows into a folder, one timestep at a time.

    Under `accelerate launch` each process encodes every n-th batch and writes it to its place in
    the shared files.
    """

    def __init__(
        self,
        encoder: Encoder,
        collection: Collection,
        rows: np.ndarray,
        cells: list[Cell],
        batch_size: int,
    ) -> None:
        self.encoder = encoder
        self.images = collection.images
        self.ids = collection.records["id"].to_numpy()
        self.label = f"features of {collection.name} from {encoder.name}"
        self.rows = rows
        self.cells = cells
        self.batch_size = batch_size
        self.team = processes()
        self.widths: dict[str, int] = {}  # layer → number of features

    def run(self, folder: Path) -> None:
        """Extract the timesteps that the folder does not hold yet."""
        finished_file = folder / "done.json"
        finished = read_json(finished_file) if finished_file.exists() else []
        self._measure_widths(finished)
        require_space(folder, self._expected_bytes())
        timesteps = list(dict.fromkeys(cell.timestep for cell in self.cells))
        work = len(timesteps) * len(self.rows)
        with progress(self.label, work, len(finished) * len(self.rows)) as bar:
            for timestep in timesteps:
                if timestep in finished:
                    continue
                self._extract_timestep(folder, timestep, bar)
                finished.append(timestep)
                if self.team.is_first:
                    write_json(finished_file, finished)

    def _expected_bytes(self) -> int:
        features = sum(self.widths[cell.layer] for cell in self.cells)
        return FLOAT_BYTES * len(self.rows) * features

    def _extract_timestep(self, folder: Path, timestep: int | None, bar: tqdm) -> None:
        cells = [cell for cell in self.cells if cell.timestep == timestep]
        if self.team.is_first:
            self._create_files(folder, cells)
        self.team.wait()
        # plain files, since several machines cannot write to one file through memory maps
        with ExitStack() as opened:
            files = {cell: opened.enter_context(open(_file(folder, cell), "r+b")) for cell in cells}
            first = self.batch_size * self.team.index
            step = self.batch_size * self.team.count
            for start in range(first, len(self.rows), step):
                batch = self._extract_batch(files, cells, start)
                bar.update(batch * self.team.count)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        self.team.wait()

    def _measure_widths(self, finished: list[int | None]) -> None:
        """Encode one image to find the number of features of each layer.

        Args:
            finished: timesteps to read last, so only if they have layers of their own.
        """
        row = self.rows[:1]
        image, ids = self.images[row], list(self.ids[row])
        timesteps = dict.fromkeys(cell.timestep for cell in self.cells)
        for timestep in sorted(timesteps, key=finished.__contains__):
            cells = [cell for cell in self.cells if cell.timestep == timestep]
            unmeasured = [cell for cell in cells if cell.layer not in self.widths]
            if unmeasured:
                for cell, values in self.encoder.encode(image, ids, unmeasured).items():
                    self.widths[cell.layer] = values.shape[1]

    def _create_files(self, folder: Path, cells: list[Cell]) -> None:
        for cell in cells:
            shape = (len(self.rows), self.widths[cell.layer])
            np.lib.format.open_memmap(_file(folder, cell), "w+", np.float32, shape)

    def _extract_batch(self, files: dict[Cell, BinaryIO], cells: list[Cell], start: int) -> int:
        """Encode one batch and write it to its place, counted from the end of each file."""
        rows = self.rows[start : start + self.batch_size]
        features = self.encoder.encode(self.images[rows], list(self.ids[rows]), cells)
        for cell, values in features.items():
            expected = (len(rows), self.widths[cell.layer])
            if values.shape != expected:
                raise StudyError(
                    f"{self.encoder.name} gave {values.shape} features at {cell}, not {expected}"
                )
            bytes_to_end = FLOAT_BYTES * expected[1] * (len(self.rows) - start)
            files[cell].seek(-bytes_to_end, os.SEEK_END)
            files[cell].write(np.asarray(values, np.float32).tobytes())
        return len(rows)
