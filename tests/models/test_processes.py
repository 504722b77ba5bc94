"""Several processes give what one process gives."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from plankton_study.images.splits import make_splits
from plankton_study.probes.probe import read_features
from plankton_study.run.files import read_json

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
MAKE_SIMCLR = """
import sys
from plankton_study.features.registry import make_encoder
from plankton_study.images.splits import make_splits
from plankton_study.run.errors import StudyError
from plankton_study.run.study import load_study
study = load_study(sys.argv[1], 0)
try:
    make_encoder(study, make_splits(study, "shapes"), "SimCLR")
except StudyError as error:
    print(f"refused: {error}")
"""


def launch(cache, *command):
    """Run a command of Python in two processes."""
    one_thread = {"OMP_NUM_THREADS": "1", "PLANKTON_THREADS": "1"}
    env = {**os.environ, **one_thread, "PLANKTON_CACHE": str(cache)}
    words = [*LAUNCH, *map(str, command)]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)


def assert_trained_alike(folder, expected_folder):
    """Compare two denoisers: curves, weights and FLOPs."""
    curve, expected_curve = (
        pd.read_csv(place / "curve.csv") for place in (folder, expected_folder)
    )
    np.testing.assert_allclose(curve, expected_curve, rtol=2e-3)
    file = "unet/diffusion_pytorch_model.safetensors"
    weights, expected = load_file(folder / file), load_file(expected_folder / file)
    for name in expected:  # Adam magnifies rounding where a gradient is next to nothing
        np.testing.assert_allclose(weights[name], expected[name], atol=4e-3, err_msg=name)
    costs = [read_json(place / "cost.json") for place in (folder, expected_folder)]
    assert costs[0]["flops"] == costs[1]["flops"]


def test_two_processes_train_and_read_like_one(make_study, tmp_path):
    study, two, one = make_study(), tmp_path / "two", tmp_path / "cache"
    ended = launch(two, "-m", "plankton_study", tmp_path / "test.toml")
    assert ended.returncode == 0, ended.stderr[-3000:]
    splits = make_splits(study, "shapes")
    read_features(study, splits, "diffusion")
    denoisers = [next((cache / "denoiser").glob("*/curve.csv")).parent for cache in (two, one)]
    assert_trained_alike(*denoisers)
    for name in ("random U-Net", "pixels + PCA"):  # of the same weights: the same bytes
        _, bank = read_features(study, splits, name)
        for cell in bank.cells:
            stored = np.load(two / "bank" / bank.folder.name / f"{cell}.npy")
            np.testing.assert_array_equal(stored, bank[cell])
    for stage in ("denoiser", "bank", "collection"):
        origins = list((two / stage).glob("*/origin.json"))
        assert origins and all(read_json(file)["processes"] == 2 for file in origins), stage
    assert not list(two.rglob("*.partial"))


def test_a_mistake_in_several_processes_is_one_sentence(tmp_path):
    (tmp_path / "wrong.toml").write_text("title = 'x'\nsets = {}\n")
    ended = launch(tmp_path / "cache", "-m", "plankton_study", tmp_path / "wrong.toml")
    assert ended.returncode != 0 and "wrong.toml: sets" in ended.stderr


def test_an_encoder_in_several_processes_is_one_sentence(make_study, tmp_path):
    make_study()
    (tmp_path / "script.py").write_text(MAKE_SIMCLR)
    ended = launch(tmp_path / "two", tmp_path / "script.py", tmp_path / "test.toml")
    assert ended.stdout.count("refused: SimCLR trains in one process") == 2, ended.stderr[-2000:]
