"""A study in a temporary folder, on real image files and with tiny models."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("PLANKTON_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import numpy as np
import pytest
from PIL import Image

from plankton_study.run.study import Study, load_study

matplotlib.use("Agg")

PROFILE = """
title = "test"
[images]
size = 16
[sets.shapes]
source = "{folder}"
entry = {{ name_pattern = '^(?P<time>\\d{{8}}T\\d{{6}})_(?P<site>[a-z]+)_', group_by = "day" }}
[sets.shapes.split]
home = {{ until = 2021-06-30 }}
shifts = {{ later = {{ since = 2021-07-01 }} }}
novel = ["ring"]
min_images = 3
train_images = 45
duplicate_correlation = 0.999
balanced = {{ min_images = 10, train = 5, draws = 2 }}
[unet]
channels = [8, 16]
attention = [8]
head_channels = 8
[training]
images_seen = 320
batch_size = 16
warmup_images = 64
precision = "float32"
[features]
timesteps = [20, 300]
precision = "float32"
pca = [8]
predeclared = "up16.resnet1@t20"
[probes]
penalties = [0.01, 1.0]
logistic = [0.01, 0.1]
finalists = 2
neighbours = [1, 3]
draws = 100
candidates = 3
shifted_images = 2
[attentive]
epochs = [2]
[resnet]
widths = [8, 16]
depths = [1, 1]
[vit]
width = 16
depth = 2
heads = 2
decoder_width = 8
decoder_depth = 1
[encoders."U-Net, labels"]
kind = "labels"
network = "unet"
[encoders."ResNet, labels"]
kind = "labels"
[encoders."ViT, labels"]
kind = "labels"
network = "vit"
[encoders."fine-tuned"]
kind = "labels"
network = "unet"
start = "denoiser"
[encoders.SimCLR]
kind = "simclr"
crop = 0.4
jitter = 0.4
projection = 16
[encoders.VICReg]
kind = "vicreg"
crop = 0.4
projection = 16
[encoders.MAE]
kind = "mae"
network = "vit"
"""


def draw_shape(taxon: str, rng: np.random.Generator) -> Image.Image:
    """Return a dark shape on light, noisy ground, of varying size."""
    height, width = rng.integers(20, 40, 2)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    radius = np.hypot(x, y)
    inside = {
        "disc": radius < 0.6,
        "bar": abs(x) < 0.25,
        "cross": np.minimum(abs(x), abs(y)) < 0.2,
        "ring": abs(radius - 0.6) < 0.15,
    }
    grey = 220 - 150 * inside[taxon] + rng.normal(0, 8, (height, width))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def write_shapes(folder: Path, images: int = 160, seed: int = 0) -> None:
    """Write four taxa: twenty days before and ten after the end of June, half of one taxon."""
    rng = np.random.default_rng(seed)
    for number in range(images):
        taxon = str(rng.choice(["disc", "bar", "cross", "ring"], p=[0.5, 0.25, 0.15, 0.1]))
        month, day = (6, 1 + number % 20) if number % 3 else (7, 1 + number % 10)
        name = f"2021{month:02d}{day:02d}T{number % 24:02d}0000_bay_{number:04d}.png"
        (folder / taxon).mkdir(parents=True, exist_ok=True)
        draw_shape(taxon, rng).save(folder / taxon / name)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """The image files of the test's set."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder)
    return folder


def write_study(
    file: Path,
    shapes: Path,
    patch: pytest.MonkeyPatch,
    cache: Path,
    changes: dict[str, str] | None = None,
    more: str = "",
    seed: int = 0,
) -> Study:
    """Write the test's profile and load its study on the CPU; its results go beside the file.

    Args:
        file: of the profile.
        shapes: the folder of images.
        patch: sets environment variables.
        cache: of the study.
        changes: parts of the TOML → what replaces them.
        more: is appended to the TOML.
        seed: of training.
    """
    text = PROFILE.format(folder=shapes)
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text + more)
    patch.setenv("PLANKTON_CACHE", str(cache))
    patch.setenv("PLANKTON_DEVICE", "cpu")
    patch.delenv("PLANKTON_DATA", raising=False)
    study = load_study(str(file), seed)
    return replace(study, results_root=file.parent / "paper" / "results")


@pytest.fixture
def make_study(tmp_path, shapes, monkeypatch) -> Callable[..., Study]:
    """A function that makes a study of its own; see `write_study` for its arguments."""

    def make(
        changes: dict[str, str] | None = None,
        cache: Path | None = None,
        folder: Path = shapes,
        more: str = "",
        seed: int = 0,
    ) -> Study:
        file, cache = tmp_path / "test.toml", cache or tmp_path / "cache"
        return write_study(file, folder, monkeypatch, cache, changes, more, seed)

    return make


@pytest.fixture(scope="session")
def shared(tmp_path_factory, shapes) -> Study:
    """One study for tests that only read it: what one of them trained, the others find."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        study = write_study(folder / "test.toml", shapes, patch, folder / "cache")
    return study


DIE_AT_STEP_7 = """
import os, signal
from plankton_study.models import training
save = training.save_checkpoint
def save_and_die(path, state):
    save(path, state)
    if state["step"] == 7:
        os.kill(os.getpid(), signal.SIGKILL)
training.save_checkpoint = save_and_die
"""


@pytest.fixture
def killed_at_step_7(tmp_path) -> Callable[[str], None]:
    """A function that runs a script on the test's profile.

    The script ends as in a power cut, after the checkpoint of step 7.
    """

    def run(script: str) -> None:
        command = [sys.executable, "-c", DIE_AT_STEP_7 + script, str(tmp_path / "test.toml")]
        assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL

    return run


@pytest.fixture
def kill_when_found(tmp_path) -> Callable[[str, Path, str], Path]:
    """A function that runs a script on the test's profile until a file appears.

    As soon as a file of the pattern lies in the folder, the script ends as by a power cut. The
    function returns the file, and fails if the script ended before.
    """

    def run(script: str, folder: Path, pattern: str) -> Path:
        command = [sys.executable, "-c", script, str(tmp_path / "test.toml")]
        process = subprocess.Popen(command, env=dict(os.environ))
        deadline, files = time.monotonic() + 120, []
        while not files and time.monotonic() < deadline and process.poll() is None:
            files = list(folder.glob(pattern))
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        was_killed = process.returncode == -signal.SIGKILL
        assert files and was_killed, "the run ended before it could be killed"
        return files[0]

    return run
