"""Time and memory of each stage while the number of images doubles four times, and two processes instead of one.

`python scale.py STAGE NUMBER` runs one stage in a process of its own and prints seconds and peak memory as JSON.
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
images_seen = 1280
batch_size = 32
precision = "float32"
[features]
timesteps = [15, 100]
random_timesteps = [15]
precision = "float32"
predeclared = "up16.resnet1@t15"
"""
STAGES = {"reading": 500, "splits": 2000, "extraction": 250, "ridge": 65_536, "logistic": 65_536}


class Memory(threading.Thread):
    """Watches the memory of this process that belongs to no file; elsewhere than on Linux, all of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first, self.peak, self.over = self.now(), 0, threading.Event()

    def now(self) -> int:
        try:
            status = Path("/proc/self/status").read_text()
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.peak = max(self.peak, self.now() - self.first)


def write_images(folder: Path, number: int, size: int = 40) -> None:
    """Write grey noise around three motifs into class folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    motifs = rng.integers(0, 256, (3, size, size))
    for i in range(number):
        at = folder / f"taxon{i % 3}"
        at.mkdir(parents=True, exist_ok=True)
        picture = (motifs[i % 3] + rng.normal(0, 60, (size, size))).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(at / f"{i:06d}.png")


def write_bank(folder: Path, number: int, channels: int = 64, classes: int = 20):
    """Write a bank of one cell, a block at a time."""
    from plankton_study.features import Cell, FeatureBank

    rng, cell = np.random.default_rng(0), Cell("layer", 0)
    codes, means = rng.integers(classes, size=number), rng.normal(size=(classes, channels))
    array = np.lib.format.open_memmap(folder / f"{cell}.npy", "w+", np.float32, (number, channels))
    for start in range(0, number, 16_384):
        part = codes[start : start + 16_384]
        array[start : start + len(part)] = means[part] + 2 * rng.normal(size=(len(part), channels))
    array.flush()
    return FeatureBank(folder, np.arange(number), [cell], pd.DataFrame()), cell, codes


def stage(name: str, number: int, folder: Path):
    """Prepare a stage and return the call to measure."""
    from plankton_study import data, diffusion, encoders, features, linear, splits, study
    from plankton_study.schema import Features, Noise, Probes, UNet

    if name in ("reading", "splits"):
        write_images(folder / "images", number)
        (folder / "bench.toml").write_text(PROFILE.format(folder=folder / "images"))
        os.environ["PLANKTON_CACHE"] = str(folder / "cache")
        s = study.load(str(folder / "bench.toml"), 0)
        if name == "reading":
            return lambda: data.collection(s, "bench")
        data.collection(s, "bench")
        return lambda: splits.make(s, "bench")
    if name == "extraction":
        study.load("smoke").device  # noqa: B018 - fixes the threads
        config = Features(timesteps=(15,))
        unet = diffusion.build_unet(UNet(channels=(16, 40, 80), head_channels=40), 32, 0)
        encoder = encoders.DiffusionEncoder("bench", unet, diffusion.build_scheduler(Noise()), config)
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (number, 32, 32))
        images[:] = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
        records = pd.DataFrame({"id": [f"{i:06d}" for i in range(number)]})
        collection = SimpleNamespace(images=images, records=records, name="bench")
        alone = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True, wait_for_everyone=tuple)
        return lambda: features._extract(alone, encoder, collection, np.arange(number), config.batch_size, folder)
    study.load("smoke").device  # noqa: B018
    linear.BLOCK = 16_384  # smaller than the smallest bank, so that all of them stream
    bank, cell, codes = write_bank(folder, number)
    rows = {"train": np.arange(number * 3 // 4), "validation": np.arange(number * 3 // 4, number)}
    if name == "ridge":
        taxa = {part: codes[index].astype("U3") for part, index in rows.items()}
        return lambda: linear.ridge_grid(bank, [cell], rows, taxa, Probes(ridge=(1e-3, 1e-1)))

    def logistic() -> None:
        (x,) = linear.standardised(bank, cell, rows["train"])
        list(linear.logistic_path(x, codes[rows["train"]], [1.0], tolerance=0.0, most=5))

    return logistic


def child(name: str, number: int) -> dict:
    """Run a stage in a process of its own."""
    ran = subprocess.run([sys.executable, __file__, name, str(number)], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return json.loads(ran.stdout.splitlines()[-1])


def doublings() -> list[dict]:
    """Return the slopes of time and peak memory over five numbers of images, both logarithmic."""
    rows = []
    for name, first in STAGES.items():
        numbers = first * 2 ** np.arange(5)
        found = pd.DataFrame([child(name, int(number)) for number in numbers])
        slopes = {key: np.polyfit(np.log(numbers), np.log(found[key].clip(lower=1e-3)), 1)[0] for key in found}
        what = f"{name}, {numbers[0]:,} to {numbers[-1]:,}"
        time_slope = np.array([slopes["seconds"]])
        rows.append(row("scale", f"{what}: slope of time", time_slope, "at most 1.1", time_slope[0] <= 1.1, ""))
        growth = found["megabytes"].iloc[-1] / max(found["megabytes"].iloc[0], 1)
        rows.append(row("scale", f"{what}: peak memory at 16 times the images", np.array([growth]), "at most 2"))
        rows[-1]["met"] = bool(growth <= 2)
        rows[-1]["about"] = {"numbers": numbers.tolist(), **found.round(3).to_dict("list")}
    return rows


def processes() -> list[dict]:
    """Return how much faster two processes of one thread extract and train than one."""
    seconds: dict[tuple[str, int], float] = {}
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "--num_processes"]
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", 1500)
        file = Path(folder) / "bench.toml"
        file.write_text(PROFILE.format(folder=Path(folder) / "images"))
        for number in (1, 2):
            cache = Path(folder) / str(number)
            env = {**os.environ, "PLANKTON_CACHE": str(cache), "PLANKTON_THREADS": "1", "OMP_NUM_THREADS": "1"}
            start = [sys.executable] if number == 1 else [*launcher, "2"]
            subprocess.run([*start, "-m", "plankton_study", str(file)], env=env, check=True, capture_output=True)
            for kind in ("denoiser", "bank"):
                times = [json.loads(f.read_text())["seconds"] for f in (cache / kind).glob("*/origin.json")]
                seconds[kind, number] = max(times)
    gain = {kind: np.array([seconds[kind, 1] / seconds[kind, 2]]) for kind in ("denoiser", "bank")}
    names = {"denoiser": "training", "bank": "extraction"}
    return [
        row("scale", f"{names[k]}: two processes over one", g, "at least 1.7", bool(g[0] >= 1.7))
        for k, g in gain.items()
    ]


def measure() -> list[dict]:
    """Return the rows of this section."""
    return doublings() + processes()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        call = stage(sys.argv[1], int(sys.argv[2]), Path(place))
        memory = Memory()
        memory.start()
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
        memory.over.set()
        memory.join()
        print(json.dumps({"seconds": took, "megabytes": memory.peak / 1024}))
