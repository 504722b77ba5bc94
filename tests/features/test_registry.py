"""From a name to an encoder: those of the profile, and one of your own."""

import numpy as np
import pandas as pd
import pytest

from plankton_study.features import registry
from plankton_study.features.encoders import DiffusionEncoder
from plankton_study.features.interface import Cell
from plankton_study.features.registry import encoder_family, make_encoder, why_unavailable
from plankton_study.images.splits import make_splits
from plankton_study.models.batches import MINUS_ONE_TO_ONE
from plankton_study.models.diffusion import denoiser
from plankton_study.models.diffusion.denoiser import initial_denoiser
from plankton_study.probes.probe import probe_encoder
from plankton_study.probes.result import evaluate
from plankton_study.run.cache import digest
from plankton_study.run.errors import StudyError
from plankton_study.run.profile import PROFILES
from plankton_study.run.study import load_study


def test_a_predeclared_cell_that_the_network_lacks_is_refused_at_once(make_study):
    change = {'predeclared = "up16.resnet1@t20"': 'predeclared = "up64.resnet1@t20"'}
    study = make_study(change)
    message = "'up64.resnet1@t20' is not a cell of diffusion; its cells are .*up16.resnet1@t20"
    with pytest.raises(StudyError, match=message):
        make_encoder(study, make_splits(study, "shapes"), "diffusion")


def test_an_unknown_encoder_is_named(shared):
    with pytest.raises(StudyError, match=r"unknown encoder 'dino'; available: .*diffusion.*SimCLR"):
        make_encoder(shared, make_splits(shared, "shapes"), "dino")


def test_a_random_network_is_read_at_the_same_cells(shared):
    splits = make_splits(shared, "shapes")
    trained = make_encoder(shared, splits, "diffusion")
    random = make_encoder(shared, splits, "random U-Net")
    assert {cell.timestep for cell in trained.cells} == {20, 300}
    assert random.cells == trained.cells
    assert trained.identity["weights"] != random.identity["weights"]
    assert trained.folder == denoiser.trained_denoiser(shared, splits) and random.folder is None
    assert random.cost == {"parameters": trained.cost["parameters"]}


@pytest.mark.parametrize("name", ["diffusion", "SimCLR", "pixels + PCA"])
def test_an_encoder_that_is_trained_here_is_available(shared, name):
    assert why_unavailable(shared, name) == ""


def test_a_family_says_what_an_encoder_learnt_from(shared, monkeypatch):
    monkeypatch.setitem(registry.ENCODERS, "gradients", make_gradients)
    families = {
        "diffusion": "diffusion",
        "random U-Net": "nothing",
        "pixels + PCA": "nothing",
        "ResNet, labels": "labels",
        "fine-tuned": "diffusion, then labels",
        "SimCLR": "self-supervised",
        "gradients": "elsewhere",
    }
    assert {name: encoder_family(shared, name) for name in families} == families


# --- an encoder of your own

QUARTERS, WHOLE = Cell("quarters"), Cell("whole")


class Gradients:
    """Means of the grey value's slopes in a few directions, over the image and its quarters."""

    name = "gradients"
    folder = None
    predeclared = WHOLE

    def __init__(self, directions: int) -> None:
        self.directions = directions
        self.cells = [QUARTERS, WHOLE]
        self.cost = {"parameters": 0}
        self.identity = {"gradients": digest(directions)}
        channels = [4 * directions, directions]
        self.layers = pd.DataFrame(
            {"stage": "gradients", "resolution": [2, 1], "channels": channels, "order": [0, 1]},
            index=pd.Index(["quarters", "whole"], name="layer"),
        )

    def encode(self, images, ids, cells):
        y, x = np.gradient(images.astype(np.float32), axis=(1, 2))
        angles = np.pi * np.arange(self.directions) / self.directions
        slopes = [abs(np.cos(angle) * x + np.sin(angle) * y) for angle in angles]
        slopes = np.stack(slopes, axis=1)  # (B, directions, R, R)
        upper, lower = np.split(slopes, 2, axis=2)
        quarters = [*np.split(upper, 2, axis=3), *np.split(lower, 2, axis=3)]
        features = {
            QUARTERS: np.concatenate([quarter.mean((2, 3)) for quarter in quarters], axis=1),
            WHOLE: slopes.mean((2, 3)),
        }
        return {cell: features[cell].astype(np.float32) for cell in cells}


def make_gradients(study, splits):
    return Gradients(6)


def test_an_encoder_of_your_own_is_probed_like_any_other(shared, monkeypatch):
    splits = make_splits(shared, "shapes")
    monkeypatch.setitem(registry.ENCODERS, "gradients", make_gradients)
    own = probe_encoder(shared, splits, "gradients")
    pixels = probe_encoder(shared, splits, "pixels + PCA")
    assert own.grid["layer"].tolist() == ["quarters", "whole"]
    assert own.grid["resolution"].tolist() == [2, 1]
    assert own.selected in (QUARTERS, WHOLE)
    assert own.name == "gradients" and isinstance(own.encoder, Gradients)
    assert own.encoder.cost == {"parameters": 0} and own.encoder.folder is None
    assert set(own.heads) == set(pixels.heads)

    own_accuracy = evaluate(shared, splits, own, "test")["accuracy"].value
    pixel_accuracy = evaluate(shared, splits, pixels, "test")["accuracy"].value
    assert own_accuracy > 0.6  # half of the images are of the commonest taxon
    difference = evaluate(shared, splits, own, "test", minus=pixels)["accuracy"].value
    assert difference == pytest.approx(own_accuracy - pixel_accuracy)


@pytest.mark.parametrize("name", sorted(file.stem for file in PROFILES.glob("*.toml")))
def test_the_predeclared_cell_is_one_of_the_cells_of_the_network(name):
    study = load_study(name, 0)
    untrained = initial_denoiser(study, MINUS_ONE_TO_ONE)
    encoder = DiffusionEncoder("untrained", untrained, study.profile.features)
    assert str(encoder.predeclared) == study.profile.features.predeclared
