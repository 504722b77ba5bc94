"""Training in slices on a machine without the image files, from packing to the networks here."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from plankton_study.__main__ import PACKED_DATA, PACKED_RESULTS, pack, take_over, train_encoders
from plankton_study.features.registry import make_encoder
from plankton_study.images.collection import load_collection, pack_collection
from plankton_study.images.splits import make_splits
from plankton_study.models.diffusion.denoiser import trained_denoiser
from plankton_study.models.recipe import with_images_seen
from plankton_study.models.training import Trainer
from plankton_study.questions.training.variants import set_for_maps, with_changes
from plankton_study.run import cache
from plankton_study.run.cache import adopt
from plankton_study.run.errors import StudyError
from plankton_study.run.files import ROOT, read_json, write_json

SCRIPT = ROOT / "tests" / "benchmarks" / "slices.sh"
THREADS_THERE = "2"


@pytest.fixture
def untrainable(monkeypatch):
    """After it, nothing can be trained any more: networks must be in the cache."""

    def refuse():
        def run(self):
            raise AssertionError(f"it trains: {self.label}")

        monkeypatch.setattr(Trainer, "run", run)

    return refuse


@pytest.fixture
def slices(tmp_path, make_study):
    """A function that calls slices.sh, and the study whose networks are trained."""
    study = make_study()

    def call(*words: object) -> subprocess.CompletedProcess:
        env = os.environ | {
            "PYTHON": sys.executable,
            "PLANKTON_SLICES": str(tmp_path / "there"),
            "PLANKTON_CACHE": str(study.cache),
            "PLANKTON_THREADS": THREADS_THERE,
        }
        command = ["bash", str(SCRIPT), *map(str, words)]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)

    return call, study


def said_by(ended: subprocess.CompletedProcess) -> str:
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_networks_trained_in_slices_elsewhere_are_found_here(slices, shapes, tmp_path, untrainable):
    call, study = slices
    profile, packed, results = tmp_path / "test.toml", tmp_path / "p.tar.xz", tmp_path / "back"
    assert "p.tar.xz" in said_by(call("pack", profile, packed))

    hidden = shapes.rename(shapes.with_name("hidden"))  # there, the image files are missing
    try:
        said = said_by(call("train", packed, 0.001, profile, "diffusion", "SimCLR"))
        assert "not finished" in said
        assert "0 finished networks written, 0 still" in said_by(call("write", results))
        ended = call("train", packed, 5, profile, "diffusion", "no such encoder")
        assert ended.returncode == 1 and "unknown encoder" in ended.stderr
        assert "1 finished networks" in said_by(call("write", results))
        assert said_by(call("collect", results, profile)).count("adopted") == 1
        said = said_by(call("train", packed, 5, profile, "diffusion", "SimCLR", "1/SimCLR"))
        assert "1/SimCLR: SimCLR, 320 images of shapes (natural)" in said
        said = said_by(call("write", results))
        assert "2 finished networks written, 0 still" in said  # each is written once
    finally:
        hidden.rename(shapes)

    assert said_by(call("collect", results, profile)).count("adopted") == 2
    untrainable()
    splits = make_splits(study, "shapes")
    for name, seed in [("diffusion", 0), ("SimCLR", 0), ("SimCLR", 1)]:
        encoder = make_encoder(replace(study, seed=seed), splits, name)
        assert read_json(encoder.folder / "origin.json")["threads"] == int(THREADS_THERE)


CURVE_AND_MAPS = """
[curve]
images_seen = [64, 128]
seed_0_also = [400]
[maps]
size = 32
images_seen = 32
unet = { attention = [16] }
features = { predeclared = "up32.resnet1@t20" }
[ablation]
images_seen = 64
[ablation.denoisers."no moving average"]
training = { ema = 0.0 }
"""


def test_a_pack_holds_what_a_curve_and_larger_images_need(
    make_study, shapes, tmp_path, untrainable
):
    study = make_study(more=CURVE_AND_MAPS)
    pack(study, tmp_path)
    hidden = shapes.rename(shapes.with_name("hidden"))
    try:
        there = replace(study, cache=tmp_path / "there", data=tmp_path / PACKED_DATA)
        take_over(there, tmp_path / PACKED_RESULTS)
        train_encoders(there, ["diffusion", "ResNet, labels", "maps", "ablation"])
    finally:
        hidden.rename(shapes)
    take_over(study, there.cache)
    untrainable()
    splits = make_splits(study, "shapes")
    for images_seen in (64, 128, 320, 400):
        trained_denoiser(with_images_seen(study, splits, images_seen), splits)
    trained_denoiser(*set_for_maps(study, splits))
    for changes in study.profile.ablation.denoisers.values():
        trained_denoiser(with_changes(study, splits, changes, 64), splits)
    make_encoder(study, splits, "ResNet, labels")
    for draw in splits.each_draw("balanced"):
        make_encoder(study, draw, "ResNet, labels", "balanced")


# --- prepared images


def test_packed_images_are_those_of_the_files(shared, tmp_path):
    pack_collection(shared, "shapes", tmp_path / "packed")
    original = load_collection(shared, "shapes")
    packed = load_collection(replace(shared, data=tmp_path / "packed"), "shapes")
    assert str(packed.images.filename).startswith(str(tmp_path / "packed"))
    assert packed.digest == original.digest
    assert (packed.images == original.images).all()


def test_images_are_packed_once(shared, tmp_path):
    pack_collection(shared, "shapes", tmp_path)
    with pytest.raises(StudyError, match="there already"):
        pack_collection(shared, "shapes", tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"code": {"images.decoding": "other"}}, "code"),
        ({"inputs": {"polarity": "light_on_dark", "crop": {}}}, "polarity"),
        ({"inputs": {"polarity": "dark_on_light", "crop": {"top": 3}}}, "crop"),
    ],
)
def test_images_that_were_packed_in_another_way_are_refused(shared, tmp_path, change, word):
    folder = pack_collection(shared, "shapes", tmp_path)
    origin = read_json(folder / "origin.json")
    write_json(folder / "origin.json", origin | change)
    with pytest.raises(StudyError, match=f"with another {word}: pack them again"):
        load_collection(replace(shared, data=tmp_path), "shapes")


# --- results of another machine


@pytest.fixture
def trained_there(make_study, tmp_path, monkeypatch) -> Path:
    """The cache folder of a machine with another torch, which holds a denoiser."""
    there = make_study(cache=tmp_path / "there")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "VERSIONS", cache.VERSIONS | {"torch": "0.1"})
        make_encoder(there, make_splits(there, "shapes"), "diffusion")
    return there.cache


def test_an_adopted_network_has_the_key_of_the_libraries_here(
    trained_there, make_study, tmp_path, untrainable
):
    study = make_study(cache=tmp_path / "here")
    adopted = adopt(study, trained_there)
    assert [name.split("/")[0] for name in adopted] == ["denoiser", "splits"]
    assert adopt(study, trained_there) == []
    untrainable()
    folder = make_encoder(study, make_splits(study, "shapes"), "diffusion").folder
    assert f"denoiser/{folder.name}" in adopted
    assert folder.name != next((trained_there / "denoiser").glob("*/origin.json")).parent.name
    assert read_json(folder / "origin.json")["libraries"]["torch"] == "0.1"


def test_what_is_adopted_replaces_an_unfinished_training(trained_there, make_study, tmp_path):
    study = make_study(cache=tmp_path / "here")
    (name, *_) = adopt(study, trained_there)
    place = study.cache / name
    unfinished = place.with_name(f"{place.name}.partial")
    place.rename(unfinished)
    (unfinished / "checkpoint.pt").write_text("half a state")
    assert name in adopt(study, trained_there)
    assert not unfinished.exists() and not (place / "checkpoint.pt").exists()


def test_results_of_other_code_are_not_adopted(trained_there, make_study, tmp_path):
    study = make_study(cache=tmp_path / "here")
    folder = trained_there / "denoiser" / "zzz"
    origin = {"stage": "denoiser", "inputs": {}, "code": {"models.training": "other"}}
    write_json(folder / "origin.json", origin)
    with pytest.raises(StudyError, match=r"zzz was made by other code \(models.training\)"):
        adopt(study, trained_there)
    write_json(folder / "origin.json", {"stage": "denoiser", "inputs": {}})
    with pytest.raises(StudyError, match="zzz was made by an older version"):
        adopt(study, trained_there)
    assert not list(study.cache.glob("denoiser/*"))  # it copies all or nothing
    with pytest.raises(StudyError, match="no finished networks"):
        adopt(study, tmp_path / "elsewhere")
