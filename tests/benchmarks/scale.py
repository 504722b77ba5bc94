"""Time and memory of each stage while the number of images doubles four times, and two processes instead of one.

`python scale.py run STAGE NUMBER FOLDER` runs one stage and prints seconds and peak memory as JSON.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
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
images_seen = 2560
batch_size = 32
precision = "float32"
[features]
timesteps = [15, 100]
random_timesteps = [15]
precision = "float32"
predeclared = "up16.resnet1@t15"
"""
STAGES = {"reading": 2000, "splits": 2000, "extraction": 250, "ridge": 65_536, "logistic": 65_536}


class Memory(threading.Thread):
    """Watches the memory of this process that belongs to no file (kB); elsewhere than on Linux, all of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first, self.over = self.now(), threading.Event()
        self.peak = self.first

    def now(self) -> int:
        try:
            status = Path("/proc/self/status").read_text()
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
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
    if name in ("reading", "splits"):
        write_images(folder / "images", number)
        (folder / "bench.toml").write_text(PROFILE.format(folder=folder / "images"))
        if name == "splits":
            from plankton_study import data, study

            data.collection(study.load(str(folder / "bench.toml"), 0), "bench")
    elif name == "extraction":
        np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (number, 32, 32), dtype=np.uint8))
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
        encoder = encoders.DiffusionEncoder("bench", unet, diffusion.build_scheduler(Noise()), config)
        images = np.load(folder / "images.npy", mmap_mode="r")
        records = pd.DataFrame({"id": [f"{i:06d}" for i in range(number)]})
        collection = SimpleNamespace(images=images, records=records, name="bench")
        encoder.encode(images[: config.batch_size], [], encoder.cells)  # what every run needs, whatever its size
        return lambda: features._extract(study.ALONE, encoder, collection, np.arange(number), config.batch_size, folder)
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


def child(name: str, number: int) -> dict:
    """Prepare and run a stage, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PLANKTON_CACHE": f"{folder}/cache", "PLANKTON_DEVICE": "cpu"}
        for step in ("prepare", "run"):
            command = [sys.executable, __file__, step, name, str(number), folder]
            ran = subprocess.run(command, capture_output=True, text=True, env=env)
            if ran.returncode:
                raise RuntimeError(ran.stderr[-2000:])
    return json.loads(ran.stdout.splitlines()[-1])


def doublings() -> list[dict]:
    """Return how time and peak memory grow over five numbers of images: logarithmic slopes, and bytes an image."""
    rows = []
    for name, first in STAGES.items():
        numbers = first * 2 ** np.arange(5)
        found = pd.DataFrame([child(name, int(number)) for number in numbers])
        slopes = {key: np.polyfit(np.log(numbers), np.log(found[key].clip(lower=1e-3)), 1)[0] for key in found}
        what = f"{name}, {numbers[0]:,} to {numbers[-1]:,}"
        # a slope of 0.25: twice the memory for 16 times the images
        for key, aim, most in (("seconds", "at most 1.1", 1.1), ("megabytes", "at most 0.25", 0.25)):
            said = f"{what}: slope of {'time' if key == 'seconds' else 'the process’s peak memory'}"
            rows.append(row("scale", said, np.array([slopes[key]]), aim, slopes[key] <= most, ""))
        bytes_each = max(np.polyfit(numbers, found["megabytes"], 1)[0], 0) * 2**20
        rows.append(row("scale", f"{what}: memory for each image more", np.array([bytes_each]), unit="bytes"))
        about = {"numbers": numbers.tolist(), "bytes an image": round(bytes_each), **found.round(3).to_dict("list")}
        rows[-1]["about"] = about
    return rows


def processes(rounds: int = 2) -> list[dict]:
    """Return how much faster two processes of one thread train and extract than one, in turn.

    What the machine would give at best are two such runs at once, which share nothing but its memory and caches.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    stages = {"training": "denoiser", "extraction": "bank"}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", 850)
        file = Path(folder) / "bench.toml"
        file.write_text(PROFILE.format(folder=Path(folder) / "images"))

        def run(how: str, number: int, start: list[str], caches: list[Path]) -> None:
            env = {**os.environ, "PLANKTON_THREADS": "1", "OMP_NUM_THREADS": "1", "PLANKTON_DEVICE": "cpu"}
            command = [*start, "-m", "plankton_study", str(file)]
            kept = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running = [subprocess.Popen(command, env={**env, "PLANKTON_CACHE": str(c)}, **kept) for c in caches]
            assert not any([one.wait() for one in running])
            for stage, kind in stages.items():
                origins = [json.loads(file.read_text()) for c in caches for file in (c / kind).glob("*/origin.json")]
                assert all(origin["processes"] == number for origin in origins)
                took = sum(origin["seconds"] for origin in origins) / len(caches)
                seconds.setdefault((stage, how), []).append(took)

        for turn in range(rounds):
            run("one", 1, [sys.executable], [Path(folder) / f"{turn} one"])
            run("two", 2, launcher, [Path(folder) / f"{turn} two"])
        run("apart", 1, [sys.executable], [Path(folder) / f"apart {number}" for number in range(2)])
    rows = []
    for stage in stages:
        gain = np.divide(seconds[stage, "one"], seconds[stage, "two"])
        met = bool(np.median(gain) >= 1.7)
        rows.append(row("scale", f"{stage}: two processes over one", gain, "at least 1.7", met))
        most = 2 * np.mean(seconds[stage, "one"]) / np.array(seconds[stage, "apart"])
        rows.append(row("scale", f"{stage}: two runs at once over one after the other", most))
    return rows


def measure() -> list[dict]:
    """Return the rows of this section."""
    return doublings() + processes()


if __name__ == "__main__":
    step, wanted, size, place = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    if step == "prepare":
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
        found = {"seconds": took, "megabytes": memory.peak / 1024, "megabytes before": memory.first / 1024}
        print(json.dumps(found))
