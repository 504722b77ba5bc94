"""Reading a frozen U-Net: taps, early exit, noise, and extraction into a bank of features."""

import hashlib
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from plankton_study.profile import StudyError
from plankton_study.progress import progress
from plankton_study.splits import Splits
from plankton_study.store import digest, keep, need_room, write_json
from plankton_study.study import Study


class Tap(NamedTuple):
    """A place in the network where features are read."""

    name: str  # stage, resolution and index: "up16.resnet0"
    path: str  # of the module: "up_blocks.1.resnets.0"
    stage: str  # down, mid or up
    resolution: int  # side of its map, px
    channels: int
    order: int  # of execution


class Cell(NamedTuple):
    """One candidate for the probe: a layer, and for the diffusion model a timestep."""

    layer: str
    timestep: int | None = None

    def __str__(self) -> str:
        return self.layer if self.timestep is None else f"{self.layer}@t{self.timestep}"


class _DeepEnough(Exception):
    """Raised by the hook of the deepest tap: nothing after it is wanted."""


def find_taps(unet: UNet2DModel, size: int, patterns: tuple[str, ...] = ("*",)) -> list[Tap]:
    """List the residual blocks and attentions of a U-Net in the order they run, before any resampling.

    The outputs of whole blocks are not used: they lie behind the resampling, so that a down and an up block of one
    resolution would mean different things. `size` is the images' side (px); `patterns`, such as "up16.*", choose by
    name, and StudyError says if none matches.
    """
    modules = {
        path: module
        for path, module in unet.named_modules()
        if isinstance(module, ResnetBlock2D | Attention) and (".resnets." in path or ".attentions." in path)
    }
    seen: list[tuple[str, torch.Size]] = []
    handles = [
        module.register_forward_hook(lambda m, i, out, path=path: seen.append((path, out.shape)))
        for path, module in modules.items()
    ]
    try:
        weight = next(unet.parameters())
        with torch.no_grad():
            unet(torch.zeros(1, unet.config.in_channels, size, size, device=weight.device, dtype=weight.dtype), 0)
    finally:
        for handle in handles:
            handle.remove()
    taps, counts = [], Counter()
    for order, (path, shape) in enumerate(seen):
        stage = path.split("_")[0]
        kind = f"{stage}{shape[-1]}.{'resnet' if '.resnets.' in path else 'attention'}"
        taps.append(Tap(f"{kind}{counts[kind]}", path, stage, shape[-1], shape[1], order))
        counts[kind] += 1
    chosen = [tap for tap in taps if any(fnmatch(tap.name, pattern) for pattern in patterns)]
    if not chosen:
        raise StudyError(f"features.taps = {list(patterns)} matches none of the taps {', '.join(t.name for t in taps)}")
    return chosen


def pool(x: torch.Tensor, how: str) -> torch.Tensor:
    """Reduce maps (B, C, H, W) to float32 vectors: mean (B, C), mean_std (B, 2C) or a 2 x 2 grid of means (B, 4C)."""
    x = x.float()
    if how == "grid":
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
    if how == "mean_std":
        std, mean = torch.std_mean(x, dim=(2, 3), correction=0)
        return torch.cat([mean, std], dim=1)
    return x.mean(dim=(2, 3))


class Tapped:
    """Context in which calling the U-Net gives pooled features; its hooks vanish with the context, also after an error.

    The pass ends at the deepest of `taps`; `pooling` is that of `pool`.
    """

    def __init__(self, unet: UNet2DModel, taps: list[Tap], pooling: str = "mean_std") -> None:
        self.unet, self.taps, self.pooling = unet, sorted(taps, key=lambda tap: tap.order), pooling
        self._handles: list[Any] = []
        self._found: dict[str, torch.Tensor] = {}

    def __enter__(self) -> "Tapped":
        for tap in self.taps:
            hook = self._hook(tap.name, last=tap is self.taps[-1])
            self._handles.append(self.unet.get_submodule(tap.path).register_forward_hook(hook))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str, last: bool) -> Any:
        def read(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._found[name] = pool(output, self.pooling)
            if last:
                raise _DeepEnough

        return read

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, timestep: int) -> dict[str, torch.Tensor]:
        """Return tap name → features (B, C'), float32 on the model's device, for noised images x (B, 1, R, R)."""
        self._found = {}
        with suppress(_DeepEnough):
            self.unet(x, timestep)
        return self._found


def noised(
    x: torch.Tensor, scheduler: DDPMScheduler, timestep: int, mode: str, ids: list[str], seed: int, draw: int = 0
) -> torch.Tensor:
    """Bring clean images (B, C, R, R) to a noise level.

    The mode "clean" adds nothing (the model is only told the timestep); "shared" and "mean" add one tensor to all
    images, another for each `draw`; "by_image" draws from each image's id, whatever batch or order it comes in.
    """
    if mode == "clean":
        return x
    if mode == "by_image":
        seeds = [[seed, draw, int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big")] for i in ids]
        each = [np.random.default_rng(s).standard_normal(x.shape[1:], dtype=np.float32) for s in seeds]
        noise = torch.from_numpy(np.stack(each)).to(x.device)
    else:
        noise = torch.from_numpy(np.random.default_rng([seed, draw]).standard_normal(x.shape[1:], dtype=np.float32))
        noise = noise.to(x.device).expand_as(x)
    kept = scheduler.alphas_cumprod[timestep].item()
    return (kept**0.5 * x + (1 - kept) ** 0.5 * noise).contiguous(memory_format=torch.channels_last)


class Encoder(Protocol):
    """Whatever turns images into cells of features.

    Attributes:
        name: shown in tables.
        cells: the candidates, in the order of `layers` and timesteps.
        layers: index layer; columns stage, resolution (px), channels, order; as far as the encoder knows them.
        identity: JSON values that determine its numbers (weights, settings); part of the cache's key.
    """

    name: str
    cells: list[Cell]
    layers: pd.DataFrame
    identity: dict[str, Any]

    def encode(self, images: np.ndarray, ids: list[str], cells: list[Cell]) -> dict[Cell, np.ndarray]:
        """Return cell → (B, C) float32 for images (B, R, R) uint8; cells of one timestep come in one call."""
        ...


@dataclass(frozen=True)
class FeatureBank:
    """Features of some rows of a collection, one memory-mapped array a cell."""

    folder: Path
    rows: np.ndarray
    cells: list[Cell]
    layers: pd.DataFrame

    def __getitem__(self, cell: Cell) -> np.ndarray:
        return np.load(self.folder / f"{cell}.npy", mmap_mode="r")

    def take(self, cell: Cell, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), C) float32 of a cell for rows of the collection; KeyError if the bank lacks one."""
        at = np.searchsorted(self.rows, rows)
        if not np.array_equal(self.rows[np.minimum(at, len(self.rows) - 1)], rows):
            raise KeyError("the bank was extracted for other images")
        return np.asarray(self[cell][at])


def extract(
    study: Study, encoder: Encoder, splits: Splits, rows: np.ndarray, batch_size: int | None = None
) -> FeatureBank:
    """Return the features of every cell of an encoder for some rows, computing them on the first call.

    Memory does not grow with the number of images; a killed call continues with the first unfinished timestep.
    `rows` are sorted int64 rows of the collection; `batch_size` is images a pass, None the profile's.
    """
    images = splits.collection
    what = {
        "images": images.digest,
        "rows": digest(rows),
        "encoder": encoder.identity,
        "cells": [str(cell) for cell in encoder.cells],
    }
    batch = batch_size or study.profile.features.batch_size
    code = ["features", "encoders", "diffusion", "train"]
    ids = images.records["id"].to_numpy()
    folder = keep(
        study,
        "bank",
        what,
        code,
        lambda to: _extract(to, encoder, images.images, ids, rows, batch, images.name),
        resume=True,
    )
    return FeatureBank(folder, rows, encoder.cells, encoder.layers)


def _extract(
    folder: Path, encoder: Encoder, images: np.ndarray, ids: np.ndarray, rows: np.ndarray, batch: int, where: str
) -> None:
    need_room(folder, 4 * len(rows) * sum(encoder.layers["channels"][cell.layer] for cell in encoder.cells))
    passes: dict[int | None, list[Cell]] = {}
    for cell in encoder.cells:
        passes.setdefault(cell.timestep, []).append(cell)
    done = folder / "done.json"
    finished = json.loads(done.read_text()) if done.exists() else []
    with progress(
        f"features of {where} from {encoder.name}", len(passes) * len(rows), len(finished) * len(rows)
    ) as bar:
        for timestep, cells in passes.items():
            if timestep in finished:
                continue
            files: dict[Cell, np.ndarray] = {}
            for start in range(0, len(rows), batch):
                part = rows[start : start + batch]
                for cell, found in encoder.encode(images[part], list(ids[part]), cells).items():
                    if cell not in files:
                        shape = (len(rows), found.shape[1])
                        files[cell] = np.lib.format.open_memmap(folder / f"{cell}.npy", "w+", np.float32, shape)
                    files[cell][start : start + len(part)] = found
                bar.update(len(part))
            for array in files.values():
                array.flush()
            finished.append(timestep)
            write_json(done, finished)
