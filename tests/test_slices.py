"""Training in slices on a machine without the image files, from packing to the networks here."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from plankton_study.features.registry import make_encoder
from plankton_study.images.collection import load_collection, pack_collection
from plankton_study.images.splits import make_splits
from plankton_study.run.cache import adopt
from plankton_study.run.errors import StudyError
from plankton_study.run.files import ROOT, read_json, write_json

SCRIPT = ROOT / "tests" / "benchmarks" / "slices.sh"


@pytest.fixture
def slices(tmp_path, make_study):
    """A function that calls slices.sh, and the study whose networks are trained."""
    study = make_study()

    def call(*words: object) -> str:
        env = os.environ | {
            "PYTHON": sys.executable,
            "PLANKTON_SLICES": str(tmp_path / "there"),
            "PLANKTON_CACHE": str(study.cache),
            "PLANKTON_THREADS": "1",
        }
        command = ["bash", str(SCRIPT), *map(str, words)]
        ended = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return call, study


def test_networks_trained_in_slices_elsewhere_are_found_here(slices, shapes, tmp_path):
    call, study = slices
    profile, packed, results = tmp_path / "test.toml", tmp_path / "p.tar.xz", tmp_path / "back"
    assert "p.tar.xz" in call("pack", profile, packed)

    hidden = shapes.rename(shapes.with_name("hidden"))  # there, the image files are missing
    try:
        said = call("run", packed, results, 0.001, profile, "diffusion", "SimCLR")
        assert "not finished" in said and "0 finished networks" in said
        said = call("run", packed, results, 5, profile, "diffusion", "SimCLR")
        assert "2 finished networks" in said
    finally:
        hidden.rename(shapes)

    said = call("collect", results, profile)
    assert said.count("adopted") == 2
    there = {folder.name for folder in (tmp_path / "there" / "cache").glob("[de]*/[0-9a-f]*")}
    for name in ("diffusion", "SimCLR"):
        encoder = make_encoder(study, make_splits(study, "shapes"), name)
        assert encoder.folder.name in there  # it has the same libraries, so the same keys
        assert read_json(encoder.folder / "origin.json")["threads"] == 1


def test_packed_images_are_those_of_the_files(shared, tmp_path):
    pack_collection(shared, "shapes", tmp_path / "packed")
    original = load_collection(shared, "shapes")
    packed = load_collection(replace(shared, data=tmp_path / "packed"), "shapes")
    assert str(packed.images.filename).startswith(str(tmp_path / "packed"))
    assert packed.digest == original.digest
    assert (packed.images == original.images).all()


def test_the_key_of_an_adopted_result_is_that_of_the_libraries_here(shared, tmp_path, make_study):
    folder = make_encoder(shared, make_splits(shared, "shapes"), "diffusion").folder
    origin = read_json(folder / "origin.json")
    write_json(folder / "origin.json", origin | {"libraries": {"torch": "0.1"}})
    study = make_study(cache=tmp_path / "empty")
    assert adopt(study, shared.cache)
    adopted = study.cache / "denoiser" / folder.name
    assert read_json(adopted / "origin.json")["libraries"] == {"torch": "0.1"}
    assert adopt(study, shared.cache) == []
    write_json(folder / "origin.json", origin)


def test_results_of_other_code_are_not_adopted(make_study, tmp_path):
    study = make_study()
    folder = tmp_path / "back" / "denoiser" / "abc"
    origin = {"stage": "denoiser", "inputs": {}, "code": {"models.training": "other"}}
    write_json(folder / "origin.json", origin)
    with pytest.raises(StudyError, match="another version of models.training"):
        adopt(study, tmp_path / "back")
    write_json(folder / "origin.json", {"stage": "denoiser", "inputs": {}})
    with pytest.raises(StudyError, match="an older version"):
        adopt(study, tmp_path / "back")
    with pytest.raises(StudyError, match="no finished results"):
        adopt(study, tmp_path / "elsewhere")
