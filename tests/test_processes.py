"""Several processes under `accelerate launch` give what one process gives."""

import os
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file

from plankton_study import probes, splits

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launch(profile, cache):
    env = {**os.environ, "PLANKTON_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PLANKTON_THREADS": "1"}
    command = [*LAUNCH, "-m", "plankton_study", str(profile)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_two_processes_train_and_read_like_one(make_study, tmp_path):
    study = make_study()
    ran = launch(tmp_path / "test.toml", tmp_path / "two")
    assert ran.returncode == 0, ran.stderr[-3000:]
    parts = splits.make(study, "shapes")
    banks = [probes.read(study, parts, name)[1] for name in ("diffusion", "random U-Net", "pixels + PCA")]
    together, alone = (
        [load_file(file) for file in (tmp_path / cache / "denoiser").rglob("*.safetensors")]
        for cache in ("two", "cache")
    )
    for name, weights in alone[0].items():
        np.testing.assert_allclose(together[0][name], weights, atol=2e-4, err_msg=name)
    found = {folder.name for folder in (tmp_path / "two" / "bank").iterdir() if folder.is_dir()}
    for bank in banks[1:]:  # of the same weights: the same bytes
        assert bank.folder.name in found
        for cell in bank.cells:
            np.testing.assert_array_equal(
                np.load(tmp_path / "two" / "bank" / bank.folder.name / f"{cell}.npy"), bank[cell]
            )
    assert not list((tmp_path / "two").rglob("*.partial"))


def test_a_mistake_in_several_processes_is_one_sentence(tmp_path):
    (tmp_path / "wrong.toml").write_text("title = 'x'\nsets = {}\n")
    ran = launch(tmp_path / "wrong.toml", tmp_path / "cache")
    assert ran.returncode != 0 and "wrong.toml: sets" in ran.stderr
