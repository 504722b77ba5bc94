"""Several processes give what one process gives."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from plankton_study import probes, splits

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def launch(cache, *command):
    env = {
        **os.environ,
        "PLANKTON_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "PLANKTON_THREADS": "1",
    }
    return subprocess.run(
        [*LAUNCH, *map(str, command)], env=env, capture_output=True, text=True, timeout=300
    )


def test_two_processes_train_and_read_like_one(make_study, tmp_path):
    study = make_study()
    ran = launch(tmp_path / "two", "-m", "plankton_study", tmp_path / "test.toml")
    assert ran.returncode == 0, ran.stderr[-3000:]
    parts = splits.make(study, "shapes")
    banks = [
        probes.read(study, parts, name)[1] for name in ("diffusion", "random U-Net", "pixels + PCA")
    ]
    two, one = (
        next((tmp_path / cache / "denoiser").glob("*/curve.csv")).parent
        for cache in ("two", "cache")
    )
    np.testing.assert_allclose(
        pd.read_csv(two / "curve.csv"), pd.read_csv(one / "curve.csv"), rtol=2e-3
    )
    weights, expected = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (two, one)
    )
    for name in expected:  # Adam magnifies rounding where a gradient is next to nothing
        np.testing.assert_allclose(weights[name], expected[name], atol=2e-3, err_msg=name)
    assert (
        json.loads((two / "cost.json").read_text())["flops"]
        == json.loads((one / "cost.json").read_text())["flops"]
    )
    found = {folder.name for folder in (tmp_path / "two" / "bank").iterdir() if folder.is_dir()}
    for bank in banks[1:]:  # of the same weights: the same bytes
        assert bank.folder.name in found
        for cell in bank.cells:
            np.testing.assert_array_equal(
                np.load(tmp_path / "two" / "bank" / bank.folder.name / f"{cell}.npy"), bank[cell]
            )
    for stage, processes in (("denoiser", 2), ("bank", 2), ("collection", 2)):
        for file in (tmp_path / "two" / stage).glob("*/origin.json"):
            assert json.loads(file.read_text())["processes"] == processes, file
    assert not list((tmp_path / "two").rglob("*.partial"))


def test_a_mistake_in_several_processes_is_one_sentence(tmp_path):
    (tmp_path / "wrong.toml").write_text("title = 'x'\nsets = {}\n")
    ran = launch(tmp_path / "cache", "-m", "plankton_study", tmp_path / "wrong.toml")
    assert ran.returncode != 0 and "wrong.toml: sets" in ran.stderr


def test_an_encoder_in_several_processes_is_one_sentence(make_study, tmp_path):
    make_study()
    (tmp_path / "script.py").write_text(
        "import sys\nfrom plankton_study import encoders, splits, study\ns = study.load(sys.argv[1], 0)\n"
        "try:\n    encoders.make(s, splits.make(s, 'shapes'), 'SimCLR')\n"
        "except study.StudyError as error:\n    print(f'told: {error}')\n"
    )
    ran = launch(tmp_path / "two", tmp_path / "script.py", tmp_path / "test.toml")
    assert ran.stdout.count("told: SimCLR trains in one process") == 2, ran.stderr[-2000:]
