"""Studies with another denoiser, and the larger images for the claim about map sizes."""

import numpy as np
import pytest

from plankton_study.images.splits import make_splits
from plankton_study.models.diffusion.denoiser import trained_denoiser
from plankton_study.models.pretrained import open_denoiser
from plankton_study.probes.probe import probe_encoder
from plankton_study.questions import claims
from plankton_study.questions.training.variants import (
    denoised_sets,
    set_for_maps,
    size_for_maps,
    with_changes,
)
from plankton_study.run.schema import DenoiserChanges

LARGER = """
[maps]
size = 32
images_seen = 64
unet = { channels = [8, 8, 16], attention = [] }
features.taps = ["down16.*", "down8.*", "up16.resnet1"]
features.timesteps = [30]
features.predeclared = "up16.resnet1@t30"
"""


def test_changes_replace_single_keys_of_a_denoiser(shared):
    splits = make_splits(shared, "shapes")
    changes = DenoiserChanges(unet={"dropout": 0.5}, noise={"schedule": "linear"})
    changed = with_changes(shared, splits, changes, images_seen=48).profile
    assert changed.unet == shared.profile.unet.model_copy(update={"dropout": 0.5})
    assert changed.noise.schedule == "linear"
    assert changed.noise.steps == shared.profile.noise.steps
    assert changed.sets["shapes"].images_seen == 48


def test_without_maps_the_claim_is_judged_from_the_images_of_the_study(shared):
    assert list(denoised_sets(shared)) == ["shapes"]
    study, splits = set_for_maps(shared, make_splits(shared, "shapes"))
    assert study is shared
    assert splits.collection.images.shape[1] == size_for_maps(shared)


def test_larger_images_have_a_denoiser_of_their_own(make_study):
    study = make_study(more=LARGER)
    sets = denoised_sets(study)
    assert list(sets) == ["shapes", "shapes, 32 px"]
    assert size_for_maps(study) == 32

    larger, splits = sets["shapes, 32 px"]
    assert splits.collection.images.shape[1:] == (32, 32)
    of_study = sets["shapes"].splits
    np.testing.assert_array_equal(splits["test"], of_study["test"])
    pipeline = open_denoiser(trained_denoiser(larger, splits), 32)
    assert pipeline.unet.config.sample_size == 32 // pipeline.unshuffle
    assert larger.profile.sets["shapes"].images_seen == 64


def test_the_claim_about_maps_is_judged_from_the_larger_images(make_study, shared):
    study = make_study(more=LARGER, cache=shared.cache)
    splits = make_splits(study, "shapes")
    table = claims.claim_differences(study, {"shapes": splits})
    (row,) = table[table["claim"] == claims.MAPS].to_dict("records")

    grid = probe_encoder(*set_for_maps(study, splits), "diffusion").grid
    sides = grid["resolution"][grid["near_best_equal_width"]]
    assert set(grid["resolution"]) == {16, 8}
    assert row["n"] == len(sides)
    assert row["value"] == pytest.approx((sides == 16).mean())

    trainings = claims.trainings_table(study, {"shapes": splits})
    of_larger = trainings[trainings["set"] == "shapes, 32 px"]
    assert of_larger["encoder"].tolist() == ["diffusion"]
    assert of_larger["made on"].str.startswith("cpu, torch").all()
