"""Time and memory of each stage while the number of images doubles four times, and two processes instead of one.

`python scale.py run STAGE NUMBER FOLDER` runs one stage and prints seconds and peak memory as JSON; `python scale.py
share PROFILE`, alone or under a launcher, trains and reads features, and prints the seconds of both.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from timing import row

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
random_timesteps = [15]
precision = "float32"
predeclared = "up16.resnet1@t15"
"""
STAGES = {
    ("reading", "splits"): 2000,
    ("extraction",): 250,
    ("ridge",): 65_536,
    ("logistic",): 65_536,
}


class Memory(threading.Thread):
    """Watches the memory of this process that belongs to no file (kB); elsewhere than on Linux, all of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first, self.over = self.now(), threading.Event()
        self.peak = self.first

    def now(self) -> int:
        try:
            status = Path("/proc/self/status").read_text()
            return next(
                int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")
            )
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.peak = max(self.peak, self.now())


def write_images(folder: Path, number: int, size: int = 40) -> None:
    """Write blurred noise, each image another, into class folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(number):
        at = folder / f"taxon{i % 3}"
        at.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(at / f"{i:06d}.png")


def write_bank(folder: Path, number: int, channels: int = 64, classes: int = 20) -> None:
    """Write the features of one cell, a block at a time, and the codes of their classes."""
    rng = np.random.default_rng(0)
    codes, means = rng.integers(classes, size=number), rng.normal(size=(classes, channels))
    array = np.lib.format.open_memmap(folder / "layer@t0.npy", "w+", np.float32, (number, channels))
    for start in range(0, number, 16_384):
        part = codes[start : start + 16_384]
        array[start : start + len(part)] = means[part] + 2 * rng.normal(size=(len(part), channels))
    array.flush()
    np.save(folder / "codes.npy", codes)


def prepare(name: str, number: int, folder: Path) -> None:
    """Write what a stage reads; in a process of its own, so that the measured one starts small."""
    if name == "reading":  # splits are made of what it leaves
        write_images(folder / "images", number)
        (folder / "bench.toml").write_text(PROFILE.format(folder=folder / "images"))
    elif name == "extraction":
        np.save(
            folder / "images.npy",
            np.random.default_rng(0).integers(0, 256, (number, 32, 32), dtype=np.uint8),
        )
    else:
        write_bank(folder, number)


def stage(name: str, number: int, folder: Path):
    """Return the call to measure."""
    from plankton_study import data, splits, study

    if name in ("reading", "splits"):
        import torch  # noqa: F401 - what every run loads, whatever its size

        s = study.load(str(folder / "bench.toml"), 0)
        return lambda: (data.collection if name == "reading" else splits.make)(s, "bench")
    from plankton_study import diffusion, encoders, features, linear
    from plankton_study.features import Cell, FeatureBank
    from plankton_study.schema import Features, Noise, Probes, UNet

    study.load("smoke").device  # noqa: B018 - fixes the threads
    if name == "extraction":
        config = Features(timesteps=(15,))
        unet = diffusion.build_unet(UNet(channels=(16, 40, 80), head_channels=40), 32, 0)
        encoder = encoders.DiffusionEncoder(
            "bench", unet, diffusion.build_scheduler(Noise()), config
        )
        images = np.load(folder / "images.npy", mmap_mode="r")
        records = pd.DataFrame({"id": [f"{i:06d}" for i in range(number)]})
        collection = SimpleNamespace(images=images, records=records, name="bench")
        encoder.encode(
            images[: config.batch_size], [], encoder.cells
        )  # what every run needs, whatever its size
        return lambda: features._extract(
            study.ALONE, encoder, collection, np.arange(number), config.batch_size, folder
        )
    linear.BLOCK = 16_384  # smaller than the smallest bank, so that all of them stream
    codes = np.load(folder / "codes.npy")
    bank = FeatureBank(folder, np.arange(number), [Cell("layer", 0)], pd.DataFrame())
    rows = {"train": np.arange(number * 3 // 4), "validation": np.arange(number * 3 // 4, number)}
    if name == "ridge":
        taxa = {part: codes[index].astype("U3") for part, index in rows.items()}
        return lambda: linear.ridge_grid(bank, bank.cells, rows, taxa, Probes(ridge=(1e-3, 1e-1)))

    def logistic() -> None:
        (x,) = linear.standardised(bank, bank.cells[0], rows["train"])
        list(linear.logistic_path(x, codes[rows["train"]], [1.0], tolerance=0.0, most=5))

    return logistic


def children(names: tuple[str, ...], number: int) -> list[dict]:
    """Prepare what the first of some stages reads and run them, each in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PLANKTON_CACHE": f"{folder}/cache", "PLANKTON_DEVICE": "cpu"}
        for step, name in (("prepare", names[0]), *(("run", name) for name in names)):
            command = [sys.executable, __file__, step, name, str(number), folder]
            ran = subprocess.run(command, capture_output=True, text=True, env=env)
            if ran.returncode:
                raise RuntimeError(ran.stderr[-2000:])
            found += [json.loads(ran.stdout.splitlines()[-1])] if step == "run" else []
    return found


def doublings() -> list[dict]:
    """Return how time and peak memory grow over five numbers of images: logarithmic slopes, and bytes an image."""
    rows = []
    for names, first in STAGES.items():
        numbers = first * 2 ** np.arange(5)
        tables = zip(*(children(names, int(number)) for number in numbers), strict=True)
        for name, found in zip(names, map(pd.DataFrame, tables), strict=True):
            rows += growth(name, numbers, found)
    return rows


def growth(name: str, numbers: np.ndarray, found: pd.DataFrame) -> list[dict]:
    """Return the rows of one stage, of which `found` holds seconds and megabytes for each of the numbers."""
    rows = []
    what = f"{name}, {numbers[0]:,} to {numbers[-1]:,}"
    # a slope of 0.25: twice the memory for 16 times the images
    for key, aim, most in (("seconds", "at most 1.1", 1.1), ("megabytes", "at most 0.25", 0.25)):
        said = f"{what}: slope of {'time' if key == 'seconds' else 'the process’s peak memory'}"
        slope = np.polyfit(np.log(numbers), np.log(found[key]), 1)[0]
        rows.append(row("scale", said, np.array([slope]), aim, slope <= most, ""))
    bytes_each = max(np.polyfit(numbers, found["megabytes"], 1)[0], 0) * 2**20
    rows.append(
        row("scale", f"{what}: memory for each image more", np.array([bytes_each]), unit="bytes")
    )
    about = {
        "numbers": numbers.tolist(),
        "bytes an image": round(bytes_each),
        **found.round(3).to_dict("list"),
    }
    rows[-1]["about"] = about
    return rows


def share(profile: str, images: int = 512, steps: int = 20) -> None:
    """Print the seconds of some steps of training, and of reading features, by as many processes as were launched.

    Both are what more images take beyond few, so that nothing counts that happens once.
    """
    from plankton_study import diffusion, encoders, features, splits, study, train
    from plankton_study.schema import Features

    s = study.load(profile, 0)
    parts = splits.make(s, "bench")
    pool, pictures = parts["pool"], parts.collection.images
    scheduler, batch = diffusion.build_scheduler(s.profile.noise), s.profile.training.batch_size
    loss = diffusion.step_loss(scheduler)

    def training(number: int) -> None:
        unet = diffusion.build_unet(s.profile.unet, s.profile.images.size, 0)
        with tempfile.TemporaryDirectory() as folder:
            train.fit(
                s,
                Path(folder),
                unet,
                loss,
                pictures,
                pool,
                number * batch,
                "bench",
                parts["validation"][:2],
            )

    unet = diffusion.build_unet(s.profile.unet, s.profile.images.size, 0)
    reader = encoders.DiffusionEncoder("bench", unet, scheduler, Features(timesteps=(15,)))

    def extraction(number: int) -> None:
        features.extract(s, reader, parts, pool[:number], batch)

    found = {}
    for name, call, few, more in (
        ("training", training, 1, steps),
        ("extraction", extraction, 2 * batch, images),
    ):
        times = []
        for number in (few, few + more):
            s.team.wait_for_everyone()
            began = time.perf_counter()
            call(number)
            s.team.wait_for_everyone()
            times.append(time.perf_counter() - began)
        found[name] = times[1] - times[0]
    if s.team.is_main_process:
        print(json.dumps(found | {"processes": s.team.num_processes}))


def processes(rounds: int = 2) -> list[dict]:
    """Return how much faster two processes of one thread train and extract than one, in turn.

    What the machine would give at best are two such runs at once, which share nothing but its memory and caches.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    kinds = {
        "one": ([sys.executable], 1, 1),
        "two": (launcher, 1, 2),
        "apart": ([sys.executable], 2, 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", 1000)
        file = Path(folder) / "bench.toml"
        file.write_text(PROFILE.format(folder=Path(folder) / "images"))
        env = {
            **os.environ,
            "PLANKTON_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PLANKTON_DEVICE": "cpu",
        }
        for turn, (how, (start, runs, number)) in product(range(rounds), kinds.items()):
            caches = [f"{folder}/{turn} {how} {run}" for run in range(runs)]
            command = [*start, __file__, "share", str(file)]
            told = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            started = [
                subprocess.Popen(command, env={**env, "PLANKTON_CACHE": cache}, **told)
                for cache in caches
            ]
            found = [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]
            assert all(one["processes"] == number for one in found)
            for name in ("training", "extraction"):
                seconds.setdefault((name, how), []).append(max(one[name] for one in found) / runs)
    rows = []
    for name in ("training", "extraction"):
        gain, most = (
            np.divide(seconds[name, "one"], seconds[name, how]) for how in ("two", "apart")
        )
        met = bool(np.median(gain) >= 1.7)
        rows.append(row("scale", f"{name}: two processes over one", gain, "at least 1.7", met))
        rows.append(row("scale", f"{name}: two runs at once over one after the other", most))
    return rows


def measure() -> list[dict]:
    """Return the rows of this section."""
    return doublings() + processes()


if __name__ == "__main__":
    step, wanted, *rest = sys.argv[1:]
    size, place = (int(rest[0]), Path(rest[1])) if rest else (0, Path())
    if step == "share":
        share(wanted)
    elif step == "prepare":
        prepare(wanted, size, place)
    else:
        call = stage(wanted, size, place)
        memory = Memory()
        memory.start()
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
        memory.over.set()
        memory.join()
        found = {
            "seconds": took,
            "megabytes": memory.peak / 1024,
            "megabytes before": memory.first / 1024,
        }
        print(json.dumps(found))
