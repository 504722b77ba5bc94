"""One stage of a study on a given number of images, in a process of its own.

`python stages.py prepare STAGE NUMBER FOLDER` writes what the stage reads, and `python stages.py
run STAGE NUMBER FOLDER` runs it and prints seconds and peak memory as JSON. What is written in
another process does not count as memory of the measured one.
"""

import json
import resource
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from timing import seconds_of

if TYPE_CHECKING:
    from plankton_study.features.bank import FeatureBank

PROFILE = """
extends = "smoke"
title = "bench"
[images]
size = 32
[sets.bench]
source = "{folder}"
[sets.bench.split]
home = {{}}
shifts = {{}}
novel = []
[unet]
channels = [16, 40, 80]
attention = [8]
head_channels = 40
[training]
images_seen = 64
batch_size = 32
precision = "float32"
[features]
timesteps = [15, 100]
precision = "float32"
predeclared = "up16.resnet1@t50"
"""
CHANNELS = 64  # of the bank that the probes read
CLASSES = 20
WRITTEN_ROWS = 16_384
#: smaller than the smallest bank, so that probes always read several blocks
BLOCK_ROWS = 16_384
TRAIN_SHARE = 3 / 4
ITERATIONS = 5

IMAGE_STAGES = ("plankton_study.images.splits",)
FEATURE_STAGES = (
    "plankton_study.features.encoders",
    "plankton_study.probes.linear.logistic",
    "plankton_study.probes.linear.lda",
)
#: stage → the modules that a study has loaded before it, on however many images
LOADED = {
    "reading": IMAGE_STAGES,
    "splits": IMAGE_STAGES,
    "extraction": FEATURE_STAGES,
    "lda": FEATURE_STAGES,
    "logistic": FEATURE_STAGES,
}


class MemoryWatch(threading.Thread):
    """Watches the memory of this process, as a context.

    On Linux it is the memory that belongs to no file; elsewhere it is all memory.

    Attributes:
        first: kB at the start.
        peak: the most kB at any time.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first = self.peak = used_memory()
        self._is_over = threading.Event()

    def __enter__(self) -> "MemoryWatch":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        """Look a hundred times a second."""
        while not self._is_over.wait(0.01):
            self.peak = max(self.peak, used_memory())


def used_memory() -> int:
    """Return the memory of this process, kB."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1])


# --- what the stages read


def prepare(name: str, number: int, folder: Path) -> None:
    """Write what a stage reads; splits are made of what the stage "reading" leaves."""
    if name == "reading":
        write_profile(folder, number)
    elif name == "extraction":
        from pictures import random_images

        np.save(folder / "images.npy", random_images(number, size=32))
    else:
        write_bank(folder, number)


def write_profile(folder: Path, number: int) -> Path:
    """Write a profile and its image files; return the file of the profile."""
    write_images(folder / "images", number)
    file = folder / "bench.toml"
    file.write_text(PROFILE.format(folder=folder / "images"))
    return file


def write_images(folder: Path, number: int, size: int = 40) -> None:
    """Write blurred noise into three class folders; no two images are the same."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for row in range(number):
        class_folder = folder / f"taxon{row % 3}"
        class_folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
        blurred = coarse.resize((size, size), Image.Resampling.BICUBIC)
        blurred.save(class_folder / f"{row:06d}.png")


def write_bank(folder: Path, number: int) -> None:
    """Write the features of one cell, a part at a time, and the codes of their classes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(CLASSES, size=number)
    means = rng.normal(size=(CLASSES, CHANNELS))
    shape = (number, CHANNELS)
    features = np.lib.format.open_memmap(folder / "layer@t0.npy", "w+", np.float32, shape)
    for start in range(0, number, WRITTEN_ROWS):
        part = codes[start : start + WRITTEN_ROWS]
        noise = rng.normal(size=(len(part), CHANNELS))
        features[start : start + len(part)] = means[part] + 2 * noise
    features.flush()
    np.save(folder / "codes.npy", codes)


# --- the stages


def prepared_call(name: str, number: int, folder: Path) -> Callable[[], object]:
    """Return the call to measure; all that does not depend on the number is done before."""
    for module in LOADED[name]:
        import_module(module)
    if name in ("reading", "splits"):
        return image_call(name, folder)
    from plankton_study.run.study import load_study

    load_study("smoke")  # sets the threads
    if name == "extraction":
        return extraction_call(number, folder)
    return probe_call(name, number, folder)


def image_call(name: str, folder: Path) -> Callable[[], object]:
    """Return the call that reads the images, or that divides them."""
    from plankton_study.images.collection import load_collection
    from plankton_study.images.splits import make_splits
    from plankton_study.run.study import load_study

    study = load_study(str(folder / "bench.toml"), 0)
    function = load_collection if name == "reading" else make_splits
    return partial(function, study, "bench")


def extraction_call(number: int, folder: Path) -> Callable[[], object]:
    """Return the call that extracts the features of all images at one noise level."""
    from pictures import as_collection

    from plankton_study.features.bank import Extraction
    from plankton_study.features.encoders import DiffusionEncoder
    from plankton_study.models.diffusion.noise_schedule import build_scheduler
    from plankton_study.models.diffusion.pipeline import PlanktonPipeline
    from plankton_study.models.networks.unet import build_unet
    from plankton_study.run.schema import Features, Noise, UNet

    settings = Features(timesteps=(15,))
    unet = build_unet(UNet(channels=(16, 40, 80), head_channels=40), 32, 0)
    denoiser = PlanktonPipeline(unet, build_scheduler(Noise()))
    encoder = DiffusionEncoder("bench", denoiser, settings)
    collection = as_collection(np.load(folder / "images.npy", mmap_mode="r"))
    encoder.encode(collection.images[: settings.batch_size], [], encoder.cells)  # warms up
    rows = np.arange(number)
    extraction = Extraction(encoder, collection, rows, encoder.cells, settings.batch_size)
    return partial(extraction.run, folder)


def probe_call(name: str, number: int, folder: Path) -> Callable[[], object]:
    """Return the call that fits LDA probes, or a few iterations of logistic regression."""
    from plankton_study.features.bank import FeatureBank
    from plankton_study.features.interface import Cell
    from plankton_study.probes.linear import scaling

    scaling.BLOCK_ROWS = BLOCK_ROWS
    codes = np.load(folder / "codes.npy")
    bank = FeatureBank(folder, np.arange(number), [Cell("layer", 0)], pd.DataFrame())
    training_images = int(number * TRAIN_SHARE)
    rows = {
        "train": np.arange(training_images),
        "validation": np.arange(training_images, number),
    }
    if name == "logistic":
        return partial(fit_logistic, bank, rows["train"], codes)

    from plankton_study.probes.linear.lda import lda_grid
    from plankton_study.run.schema import Probes

    taxa = {part: codes[index].astype("U3") for part, index in rows.items()}
    return partial(lda_grid, bank, bank.cells, rows, taxa, Probes(penalties=(1e-3, 1e-1)))


def fit_logistic(bank: "FeatureBank", train: np.ndarray, codes: np.ndarray) -> None:
    """Run some iterations of logistic regression, however close it is to its end."""
    from plankton_study.probes.linear.logistic import logistic_path
    from plankton_study.probes.linear.scaling import scaled_features

    (features,) = scaled_features(bank, bank.cells[0], train)
    path = logistic_path(features, codes[train], [1.0], tolerance=0.0, max_iterations=ITERATIONS)
    list(path)


def run(name: str, number: int, folder: Path) -> None:
    """Run a stage, and print its seconds and the memory of this process."""
    call = prepared_call(name, number, folder)
    with MemoryWatch() as memory:
        seconds = seconds_of(call)
    cost = {
        "seconds": seconds,
        "megabytes": memory.peak / 1024,
        "megabytes before": memory.first / 1024,
    }
    print(json.dumps(cost))


def main(step: str, name: str, number: str, folder: str) -> None:
    """Prepare or run a stage."""
    function = prepare if step == "prepare" else run
    function(name, int(number), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
