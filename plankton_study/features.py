"""Reading a frozen network: taps, early exit, noise, and extraction into a bank of features."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from plankton_study.data import Collection
from plankton_study.networks import first, to_map
from plankton_study.profile import StudyError
from plankton_study.progress import progress
from plankton_study.splits import Splits
from plankton_study.store import digest, keep, need_room, write_json
from plankton_study.study import Study

CODE = ["features", "networks", "encoders", "diffusion", "train"]  # what the numbers of a bank depend on


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


def find_taps(model: torch.nn.Module, *inputs: Any, patterns: tuple[str, ...] = ("*",)) -> list[Tap]:
    """List the blocks of a network in the order they run: the places where features are read.

    Of a U-Net these are residual blocks and attentions. The outputs of whole up and down blocks are not used: they lie
    behind the resampling, so that a down and an up block of one resolution would mean different things. Of other
    networks (transformers' ResNet, ViT, CLIP and their like) they are the repeated layers; "head" is a classifier's.

    `inputs` are those of a dry run; `patterns`, such as "up16.*", choose by name; StudyError says if none matches.
    """
    blocks = {path: module for path, module in model.named_modules() if isinstance(module, ResnetBlock2D | Attention)}
    blocks = {path: module for path, module in blocks.items() if re.search(r"\.(resnets|attentions)\.\d+$", path)}
    for path, module in model.named_modules() if not blocks else ():
        inside = any(path.startswith(f"{outer}.") for outer in blocks)
        if type(module).__name__.endswith("Layer") and re.search(r"\.\d+$", path) and not inside:
            blocks[path] = module
    seen: list[tuple[str, torch.Tensor]] = []
    with torch.no_grad(), ExitStack() as hooks:
        for path, block in blocks.items():
            hook = block.register_forward_hook(lambda m, i, out, path=path: seen.append((path, out)))
            hooks.enter_context(hook)
        model(*inputs)
    taps, counts = [], Counter()
    for order, (path, output) in enumerate(seen):
        shape = to_map(output).shape
        part = re.search("(down|mid|up)_block", path)
        stage = part[1] if part else "map" if first(output).ndim == 4 else "tokens"
        kind = f"{stage}{shape[-1]}.{'attention' if '.attentions.' in path else 'resnet' if part else 'block'}"
        taps.append(Tap(f"{kind}{counts[kind]}", path, stage, shape[-1], shape[1], order))
        counts[kind] += 1
    chosen = [tap for tap in taps if any(fnmatch(tap.name, pattern) for pattern in patterns)]
    if not chosen:
        raise StudyError(f"features.taps = {list(patterns)} matches none of the taps {', '.join(t.name for t in taps)}")
    return chosen


def pool(output: Any, how: str) -> torch.Tensor:
    """Reduce what a block gives to float32 vectors.

    Maps (B, C, H, W) and tokens (B, T, C), which lie on a square: mean (B, C), mean_std (B, 2C) or a 2 x 2 grid of
    means (B, 4C), and behind them the class token (B, C) if there is one. Vectors (B, C) stay as they are.
    """
    if first(output).ndim == 2:
        return first(output).float()
    if how == "grid":
        parts = [torch.nn.functional.adaptive_avg_pool2d(to_map(output).float(), 2).flatten(1)]
    else:
        x = to_map(output).permute(0, 2, 3, 1).flatten(1, 2).float()  # (B, H W, C), as it lies in memory
        parts = [x.mean(dim=1)]
        if how == "mean_std":  # torch.std_mean takes up to ten times as long
            parts.append((x - parts[0][:, None]).square().mean(dim=1).sqrt())
    tokens = first(output)
    if tokens.ndim == 3 and tokens.shape[1] > to_map(output)[0, 0].numel():
        parts.append(tokens[:, 0].float())
    return torch.cat(parts, dim=1)


@contextmanager
def tapped(
    model: torch.nn.Module, taps: list[Tap], pooling: str = "mean_std"
) -> Iterator[Callable[..., dict[str, torch.Tensor]]]:
    """Give a function that calls the model and returns tap name → features (B, C'), float32 on the model's device.

    The pass ends at the deepest of `taps`; `pooling` is that of `pool`. The hooks vanish with the context, also after
    an error.
    """
    found: dict[str, torch.Tensor] = {}
    deepest = max(taps, key=lambda tap: tap.order)

    def keep_features(tap: Tap, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        found[tap.name] = pool(output, pooling)
        if tap == deepest:
            raise _DeepEnough

    @torch.no_grad()
    def read(*inputs: Any) -> dict[str, torch.Tensor]:
        found.clear()
        with suppress(_DeepEnough):
            model(*inputs)
        return dict(found)

    with ExitStack() as hooks:
        for tap in taps:
            hooks.enter_context(model.get_submodule(tap.path).register_forward_hook(partial(keep_features, tap)))
        yield read


def noised(
    x: torch.Tensor, scheduler: DDPMScheduler, timestep: int, mode: str, ids: list[str], seed: int, draw: int = 0
) -> torch.Tensor:
    """Bring clean images (B, C, R, R) to a noise level.

    The mode "clean" adds nothing (the model is only told the timestep); "shared" and "mean" add one tensor to all
    images, another for each `draw`; "by_image" draws from each image's id, whatever batch or order it comes in.
    """
    if mode == "clean":
        return x
    seeds = [[seed, draw]]
    if mode == "by_image":
        seeds = [[seed, draw, int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big")] for i in ids]
    each = [np.random.default_rng(s).standard_normal(x.shape[1:], dtype=np.float32) for s in seeds]
    noise = torch.from_numpy(np.stack(each)).to(x.device).expand_as(x)
    kept = scheduler.alphas_cumprod[timestep].item()
    return kept**0.5 * x + (1 - kept) ** 0.5 * noise


class Encoder(Protocol):
    """Whatever turns images into cells of features.

    Attributes:
        name: shown in tables.
        cells: the candidates, in the order of `layers` and timesteps; a cell "head" holds a classifier's own logits.
        predeclared: the one cell that no data chose.
        layers: index layer; columns stage, resolution (px), channels, order; as far as the encoder knows them.
        identity: JSON values that determine its numbers (weights, settings); part of the cache's key.
        folder: of its training, with curve.csv (see `train.fit`); None if it was not trained here.
        cost: parameters, and of its training images_seen, flops an image, seconds; as far as they are known.
    """

    name: str
    cells: list[Cell]
    predeclared: Cell
    layers: pd.DataFrame
    identity: dict[str, Any]
    folder: Path | None
    cost: dict[str, float]

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
    what = {"images": images.digest, "rows": digest(rows), "encoder": encoder.identity}
    what["cells"] = [str(cell) for cell in encoder.cells]
    make = partial(_extract, study.team, encoder, images, rows, batch_size or study.profile.features.batch_size)
    folder = keep(study, "bank", what, CODE, make, resume=True)
    return FeatureBank(folder, rows, encoder.cells, encoder.layers)


def _extract(team: Any, encoder: Encoder, images: Collection, rows: np.ndarray, batch: int, folder: Path) -> None:
    ids, where = images.records["id"].to_numpy(), images.name
    wide = {"mean_std": 2, "grid": 4}.get(encoder.identity.get("pooling"), 1)
    need_room(folder, 4 * wide * len(rows) * sum(encoder.layers["channels"][cell.layer] for cell in encoder.cells))
    levels = dict.fromkeys(cell.timestep for cell in encoder.cells)
    passes = {level: [cell for cell in encoder.cells if cell.timestep == level] for level in levels}
    done = folder / "done.json"
    finished = json.loads(done.read_text()) if done.exists() else []
    widths: dict[str, int] = {}
    title = f"features of {where} from {encoder.name}"
    with progress(title, len(passes) * len(rows), len(finished) * len(rows)) as bar:
        for timestep, cells in passes.items():
            if timestep in finished:
                continue
            # one image tells how many numbers each layer gives
            if new := [cell for cell in cells if cell.layer not in widths]:
                first = encoder.encode(images.images[rows[:1]], list(ids[rows[:1]]), new)
                widths |= {cell.layer: found.shape[1] for cell, found in first.items()}
            for cell in cells if team.is_main_process else ():
                shape = (len(rows), widths[cell.layer])
                np.lib.format.open_memmap(folder / f"{cell}.npy", "w+", np.float32, shape)
            team.wait_for_everyone()
            with ExitStack() as opened:  # plain files: several nodes may write to one, if not through memory maps
                files = {cell: opened.enter_context(open(folder / f"{cell}.npy", "r+b")) for cell in cells}
                for start in range(batch * team.process_index, len(rows), batch * team.num_processes):
                    part = rows[start : start + batch]
                    for cell, found in encoder.encode(images.images[part], list(ids[part]), cells).items():
                        if found.shape != (shape := (len(part), widths[cell.layer])):
                            raise StudyError(f"{encoder.name} gave {found.shape} features at {cell}, not {shape}")
                        files[cell].seek(-4 * shape[1] * (len(rows) - start), os.SEEK_END)
                        files[cell].write(np.asarray(found, np.float32).tobytes())
                    bar.update(len(part) * team.num_processes)
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
            team.wait_for_everyone()
            finished.append(timestep)
            if team.is_main_process:
                write_json(done, finished)
