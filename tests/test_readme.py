"""What README shows works as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from plankton_study import diffusion, probes, splits
from plankton_study.features import Cell
from plankton_study.profile import read_profile

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


@pytest.mark.parametrize("number", range(len(blocks("toml"))))
def test_every_profile_shown_is_valid(number, tmp_path):
    text = blocks("toml")[number]
    head = "" if "extends" in text else 'extends = "demo"\ntitle = "Shown in README"\n\n'
    (tmp_path / "mine.toml").write_text(head + text)
    read_profile(str(tmp_path / "mine.toml"))


def test_what_else_a_study_needs_goes_below_the_first_profile(tmp_path):
    first, more = (
        next(each for each in blocks("toml") if key in each) for key in ("extends", "shifts")
    )
    (tmp_path / "mine.toml").write_text(first + more)
    profile = read_profile(str(tmp_path / "mine.toml"))
    assert set(profile.sets["station"].split.shifts) == {"autumn", "north"}
    (tmp_path / "mine.toml").write_text(
        'coarse = "coarse_classes.csv"\nhub = true\n' + first + more
    )
    assert read_profile(str(tmp_path / "mine.toml")).hub


def test_another_question_is_one_more_notebook(shared, monkeypatch):
    first, rest = (
        block for block in blocks("python") if "profile" in block and "ENCODERS" not in block
    )
    monkeypatch.setenv("PLANKTON_PROFILE", str(Path(shared.cache).parent / "test.toml"))
    names = {}
    exec(first + rest, names)
    assert names["table"]["images"].sum() == len(names["rows"]) and len(names["table"]) == 3
    shown = (shared.results / "tables" / "sizes.csv").read_text(encoding="utf-8")
    assert re.search(r'^small,"\d+\.\d \[\d+\.\d, \d+\.\d\]",\d+$', shown, re.M), shown


def test_the_encoder_of_ones_own_is_probed(tmp_path):
    (code,) = [block for block in blocks("python") if "ENCODERS[" in block]
    env = {
        **os.environ,
        "PLANKTON_PROFILE": "smoke",
        "PLANKTON_CACHE": str(tmp_path),
        "PLANKTON_DATA": "",
    }
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^histogram(16|64) \d+\.\d \[\d+\.\d, \d+\.\d\]$", ran.stdout, re.M), (
        ran.stdout
    )


def test_the_features_are_a_step_of_a_scikit_learn_pipeline(shared):
    (code,) = [block for block in blocks("python") if "FunctionTransformer" in block]
    parts = splits.make(shared, "shapes")
    code = code.replace("path/to/diffusers/folder", str(diffusion.denoiser(shared, parts))).replace(
        "(50,)", "(20,)"
    )
    rows = parts["train"]
    names = {"images": parts.collection.images[rows], "taxa": parts.taxa(rows).astype(str)}
    exec(code, names)
    assert names["model"].score(names["images"], names["taxa"]) > 0.6
    _, bank = probes.read(shared, parts, "diffusion")
    found = names["features"](names["images"])
    np.testing.assert_allclose(found, bank.take(Cell("up16.resnet0", 20), rows), atol=2e-5)
