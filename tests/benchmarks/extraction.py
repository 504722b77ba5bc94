"""Extraction against the bare passes, two plain ways to read features, and the machine's rates."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pictures import as_collection, random_images
from timing import result_row, time_in_turn
from torch.utils.flop_counter import FlopCounterMode

from plankton_study.features.bank import Extraction
from plankton_study.features.encoders import DiffusionEncoder
from plankton_study.features.hooks import tapped
from plankton_study.features.interface import Cell
from plankton_study.features.pooling import pool
from plankton_study.features.taps import Tap
from plankton_study.models.batches import MINUS_ONE_TO_ONE
from plankton_study.models.diffusion.denoiser import initial_denoiser
from plankton_study.models.precision import autocast, uses_bfloat16
from plankton_study.run.study import load_study

SECTION = "extraction"
#: the row that also holds the rates
OVERHEAD = "over the bare passes it needs"
TIMESTEPS = (15, 100)
LEVELS = len(TIMESTEPS)

#: (channels, side of the map, images) of convolutions that are common in small U-Nets
CONVOLUTIONS = (
    (64, 32, 32),
    (128, 16, 32),
    (128, 32, 32),
    (256, 16, 32),
    (256, 32, 16),
    (512, 16, 16),
)
KERNEL_SIDE = 3
MATRIX_SIDES = (512, 1024, 2048)
ROUNDS_FOR_BEST_RATE = 7


class _DeepestTapReached(Exception):
    """Ends a pass."""


def _end_pass(*_: object) -> None:
    raise _DeepestTapReached


class Workload:
    """The U-Net of `quick` at 32 px with all its taps at two noise levels, and ways to read it.

    Args:
        number: of random images.
    """

    def __init__(self, number: int) -> None:
        study = load_study("quick", 0)
        self.device = study.device
        self.settings = study.profile.features.model_copy(update={"timesteps": TIMESTEPS})
        self.denoiser = initial_denoiser(study, MINUS_ONE_TO_ONE).to(study.device)
        self.unet = self.denoiser.unet
        self.encoder = self.encoder_with(self.settings.precision)
        self.taps: list[Tap] = list(self.encoder.taps.values())
        self.images = random_images(number, study.profile.images.size)
        self.collection = as_collection(self.images)
        starts = range(0, number, self.settings.batch_size)
        self.batches = [self.images[start : start + self.settings.batch_size] for start in starts]
        self.inputs = [
            self.network_inputs(batch, timestep) for timestep in TIMESTEPS for batch in self.batches
        ]

    def encoder_with(self, precision: str) -> DiffusionEncoder:
        """Return the encoder that computes in a given precision."""
        settings = self.settings.model_copy(update={"precision": precision})
        return DiffusionEncoder("bench", self.denoiser, settings)

    def network_inputs(self, images: np.ndarray, timestep: int = TIMESTEPS[0]) -> tuple[Any, ...]:
        """Return what the network takes for some images at a noise level."""
        return self.encoder.inputs(images, [], timestep, 0)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with torch.no_grad(), autocast(self.settings.precision, self.device):
            yield

    def extract(self) -> None:
        """Extract the features of all images, as the study does."""
        rows = np.arange(len(self.images))
        batch_size = self.settings.batch_size
        with tempfile.TemporaryDirectory() as folder:
            extraction = Extraction(
                self.encoder, self.collection, rows, self.encoder.cells, batch_size
            )
            extraction.run(Path(folder))

    def run_bare_passes(self) -> None:
        """Run every pass as far as the deepest tap, and keep nothing."""
        deepest = max(self.taps, key=lambda tap: tap.order)
        module = self.unet.get_submodule(deepest.path)
        with module.register_forward_hook(_end_pass), self._inference():
            for inputs in self.inputs:
                with suppress(_DeepestTapReached):
                    self.unet(*inputs)
        wait_for_device(self.device)

    def read_layers_one_by_one(self) -> None:
        """Run the whole network once for each layer, as DDAE does, on one batch at one level."""
        for tap in self.taps:
            self._read_layer(tap, self.batches[0])

    def _read_layer(self, tap: Tap, images: np.ndarray) -> np.ndarray:
        outputs: list[torch.Tensor] = []

        def record(module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
            outputs.append(output)

        module = self.unet.get_submodule(tap.path)
        with module.register_forward_hook(record), self._inference():
            self.unet(*self.network_inputs(images))
        return pool(outputs[0], self.settings.pooling).cpu().numpy()

    def keep_full_maps(self) -> None:
        """Read all images at one level with naive hooks.

        They keep the full maps of all layers on the host, and pool them when all are there.
        """
        maps: dict[str, list[torch.Tensor]] = {tap.name: [] for tap in self.taps}

        def record(name: str, module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
            maps[name].append(output.float().cpu())

        with ExitStack() as hooks, self._inference():
            for tap in self.taps:
                module = self.unet.get_submodule(tap.path)
                hooks.enter_context(module.register_forward_hook(partial(record, tap.name)))
            for batch in self.batches:
                self.unet(*self.network_inputs(batch))
        for parts in maps.values():
            pool(torch.cat(parts), self.settings.pooling)

    def flops(self) -> int:
        """Return the FLOPs of reading one image at one noise level."""
        with FlopCounterMode(display=False) as counter, tapped(self.unet, self.taps) as read:
            read(*self.network_inputs(self.images[:1]))
        return counter.get_total_flops()


# --- the machine's rates


def wait_for_device(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def compute(device: str, operation: Callable[..., torch.Tensor], *operands: torch.Tensor) -> None:
    """Run an operation to its end."""
    operation(*operands)
    wait_for_device(device)


def best_rate(call: Callable[[], object], flops: float) -> float:
    """Return the best FLOP/s of a call in several rounds."""
    return flops / time_in_turn({"call": call}, ROUNDS_FOR_BEST_RATE)["call"].min()


def convolution_rate(
    channels: int, side: int, images: int, dtype: torch.dtype, device: str
) -> float:
    """Return the best FLOP/s of a 3 × 3 convolution."""
    layer = torch.nn.Conv2d(channels, channels, KERNEL_SIDE, padding=1)
    layer = layer.to(device, dtype, memory_format=torch.channels_last)
    x = torch.randn(images, channels, side, side, device=device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    flops = 2 * KERNEL_SIDE**2 * channels**2 * side**2 * images
    return best_rate(partial(compute, device, layer, x), flops)


def matrix_rate(side: int, dtype: torch.dtype, device: str) -> float:
    """Return the best FLOP/s of a product of two square matrices."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return best_rate(partial(compute, device, torch.mm, left, right), 2 * side**3)


# --- the rows


def comparison_rows(workload: Workload, seconds: dict[str, np.ndarray]) -> list[dict]:
    """Return extraction's time against that of the other ways to read features."""
    overhead = seconds["ours"] / seconds["bare"]
    layers = len(workload.taps)
    ours_by_image = seconds["ours"] / len(workload.images) / LEVELS
    single_by_image = seconds["one by one"] / len(workload.batches[0])
    single = single_by_image / ours_by_image
    naive = seconds["full maps"] * LEVELS / seconds["ours"]
    numbers_in_maps = sum(tap.channels * tap.resolution**2 for tap in workload.taps)
    numbers_kept = sum(2 * tap.channels for tap in workload.taps)
    return [
        result_row(SECTION, OVERHEAD, overhead, "at most 1.10", np.median(overhead) <= 1.1),
        result_row(
            SECTION,
            "a pass for each layer and noise level takes",
            single,
            f"at least {layers} (layers)",
            np.median(single) >= layers,
        ),
        result_row(SECTION, "naive hooks that keep full maps take", naive),
        result_row(SECTION, "and keep so many more numbers", numbers_in_maps / numbers_kept),
    ]


def share_rows(dtype: str, rates: np.ndarray, convolution: float, matrix: float) -> list[dict]:
    """Return extraction's FLOP/s as a share of the best ones of this machine."""
    of_convolution = rates / convolution
    return [
        result_row(
            SECTION,
            f"share of the best {dtype} convolution rate",
            of_convolution,
            "at least 0.5",
            np.median(of_convolution) >= 0.5,
            unit="",
        ),
        result_row(SECTION, f"share of the best {dtype} matrix rate", rates / matrix, unit=""),
    ]


def precision_row(workload: Workload, dtype: str) -> dict:
    """Return how far the features are from those in float32, for each layer."""
    cells = [Cell(tap.name, TIMESTEPS[0]) for tap in workload.taps]
    images = workload.batches[0]
    usual = workload.encoder.encode(images, [], cells)
    exact = workload.encoder_with("float32").encode(images, [], cells)
    errors = [np.abs(usual[cell] - exact[cell]).mean() / exact[cell].std() for cell in cells]
    return result_row(
        SECTION,
        f"{dtype} features off from float32 (of a standard deviation)",
        np.array(errors),
        "at most 0.02",
        max(errors) <= 0.02,
        unit="",
    )


def measure(images: int = 1024) -> list[dict]:
    """Return the rows of this section."""
    workload = Workload(images)
    seconds = time_in_turn(
        {
            "ours": workload.extract,
            "bare": workload.run_bare_passes,
            "one by one": workload.read_layers_one_by_one,
            "full maps": workload.keep_full_maps,
        }
    )
    flops = workload.flops()
    passes = images * LEVELS
    is_short = uses_bfloat16(workload.settings.precision, workload.device)
    dtype = torch.bfloat16 if is_short else torch.float32
    dtype_name = str(dtype).removeprefix("torch.")
    convolution = max(convolution_rate(*shape, dtype, workload.device) for shape in CONVOLUTIONS)
    matrix = max(matrix_rate(side, dtype, workload.device) for side in MATRIX_SIDES)

    rows = comparison_rows(workload, seconds)
    rows += share_rows(dtype_name, flops * passes / seconds["ours"], convolution, matrix)
    rows.append(precision_row(workload, dtype_name))
    rows[0]["about"] = {
        "images a second and noise level": passes / np.median(seconds["ours"]),
        "flops an image": flops,
        "best convolution GFLOP/s": convolution / 1e9,
        "best matrix GFLOP/s": matrix / 1e9,
        "precision": dtype_name,
        "layers": len(workload.taps),
    }
    return rows
