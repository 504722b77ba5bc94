"""Scale: time and memory while the number of images doubles, and two processes instead of one."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from stages import write_profile
from timing import result_row

HERE = Path(__file__).resolve().parent
SECTION = "scale"

#: stages that run one after the other in a folder → the smallest number of images
STAGES = {
    ("reading", "splits"): 2000,
    ("extraction",): 250,
    ("lda",): 65_536,
    ("logistic",): 65_536,
}
DOUBLINGS = 4
#: column → what the table calls it, and the largest slope in logarithms that is aimed at; with
#: 0.25 a stage needs twice the memory for 16 times the images
SLOPES = {
    "seconds": ("time", 1.1),
    "megabytes": ("the process’s peak memory", 0.25),
}

SHARED_IMAGES = 1000
SHARED_TASKS = ("training", "extraction")
LEAST_GAIN = 1.7


def measure() -> list[dict]:
    """Return the rows of this section."""
    return doubling_rows() + sharing_rows()


# --- more images


def doubling_rows() -> list[dict]:
    """Return how time and peak memory of each stage grow with the number of images."""
    rows = []
    for names, smallest in STAGES.items():
        numbers = smallest * 2 ** np.arange(DOUBLINGS + 1)
        costs: dict[str, list[dict]] = {name: [] for name in names}
        for number in numbers.tolist():
            for name, cost in run_stages(names, number):
                costs[name].append(cost)
        for name in names:
            rows += growth_rows(name, numbers, pd.DataFrame(costs[name]))
    return rows


def run_stages(names: tuple[str, ...], number: int) -> Iterator[tuple[str, dict]]:
    """Prepare what the first of some stages reads, run them in turn, and yield what each costs."""
    with tempfile.TemporaryDirectory() as folder:
        run_in_process("prepare", names[0], number, folder)
        for name in names:
            output = run_in_process("run", name, number, folder)
            yield name, json.loads(output.splitlines()[-1])


def run_in_process(step: str, name: str, number: int, folder: str) -> str:
    """Run a step of a stage in a process of its own; return what it prints."""
    command = [sys.executable, str(HERE / "stages.py"), step, name, str(number), folder]
    environment = {**os.environ, "PLANKTON_CACHE": f"{folder}/cache", "PLANKTON_DEVICE": "cpu"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode:
        raise RuntimeError(process.stderr[-2000:])
    return process.stdout


def growth_rows(name: str, numbers: np.ndarray, costs: pd.DataFrame) -> list[dict]:
    """Return the growth of one stage: two slopes in logarithms, and the bytes of an image.

    Args:
        name: of the stage.
        numbers: of images.
        costs: a row for each number, with columns seconds and megabytes.
    """
    stage = f"{name}, {numbers[0]:,} to {numbers[-1]:,}"
    rows = []
    for column, (quantity, most) in SLOPES.items():
        slope = np.polyfit(np.log(numbers), np.log(costs[column]), 1)[0]
        what = f"{stage}: slope of {quantity}"
        rows.append(result_row(SECTION, what, slope, f"at most {most}", slope <= most, unit=""))
    megabytes_each = np.polyfit(numbers, costs["megabytes"], 1)[0]
    bytes_each = max(megabytes_each, 0) * 2**20
    what = f"{stage}: memory per additional image"
    row = result_row(SECTION, what, bytes_each, unit="bytes")
    row["about"] = {
        "numbers": numbers.tolist(),
        "bytes an image": round(bytes_each),
        **costs.round(3).to_dict("list"),
    }
    return [*rows, row]


def costs_of_stages(about: dict[str, dict]) -> dict[str, dict]:
    """Return stage → its costs by number of images, of all that the sections know about rows."""
    return {what.partition(",")[0]: entry for what, entry in about.items() if "numbers" in entry}


# --- more processes


class Launch(NamedTuple):
    """A way to run the same work."""

    command: list[str]
    runs: int  # at the same time
    processes: int  # of each run


ALONE = [sys.executable]
LAUNCHER = [*ALONE, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCHES = {
    "one": Launch(ALONE, runs=1, processes=1),
    "two": Launch(LAUNCHER, runs=1, processes=2),
    "apart": Launch(ALONE, runs=2, processes=1),
}


def sharing_rows(rounds: int = 2) -> list[dict]:
    """Return how much faster two processes of one thread are than one, measured in turn.

    At best they are as fast as two runs at once, which share nothing but the memory and the
    caches of the machine.
    """
    seconds = seconds_of_launches(rounds)
    rows = []
    for task in SHARED_TASKS:
        gain = np.divide(seconds[task, "one"], seconds[task, "two"])
        most = np.divide(seconds[task, "one"], seconds[task, "apart"])
        is_met = np.median(gain) >= LEAST_GAIN
        aim = f"at least {LEAST_GAIN}"
        rows.append(result_row(SECTION, f"{task}: two processes over one", gain, aim, is_met))
        what = f"{task}: two runs at once over one after the other"
        rows.append(result_row(SECTION, what, most))
    return rows


def seconds_of_launches(rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return (task, name of the launch) → seconds of one run's work in each round."""
    seconds: dict[tuple[str, str], list[float]] = {
        (task, name): [] for task in SHARED_TASKS for name in LAUNCHES
    }
    with tempfile.TemporaryDirectory() as folder:
        profile = write_profile(Path(folder), SHARED_IMAGES)
        for number in range(rounds):
            for name, launch in LAUNCHES.items():
                caches = [f"{folder}/{number} {name} {run}" for run in range(launch.runs)]
                times = run_launch(launch, profile, caches)
                for task in SHARED_TASKS:
                    seconds[task, name].append(times[task].max() / launch.runs)
    return seconds


def run_launch(launch: Launch, profile: Path, caches: list[str]) -> pd.DataFrame:
    """Start one run for each cache at the same time; return a row of seconds for each run."""
    command = [*launch.command, str(HERE / "sharing.py"), str(profile)]
    settings = {"PLANKTON_THREADS": "1", "OMP_NUM_THREADS": "1", "PLANKTON_DEVICE": "cpu"}
    runs = [
        subprocess.Popen(
            command,
            env={**os.environ, **settings, "PLANKTON_CACHE": cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for cache in caches
    ]
    outputs = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise RuntimeError(f"a run failed: {' '.join(command)}")
    times = pd.DataFrame([json.loads(output.splitlines()[-1]) for output in outputs])
    assert (times["processes"] == launch.processes).all()
    return times
