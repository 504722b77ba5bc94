"""Studies with another denoiser, and the larger images for the claim about map sizes."""

import numpy as np

from plankton_study.images.splits import make_splits
from plankton_study.models.diffusion.denoiser import trained_denoiser
from plankton_study.models.pretrained import open_denoiser
from plankton_study.questions import claims
from plankton_study.questions.training.variants import denoised_sets, set_for_maps, with_changes
from plankton_study.run.schema import DenoiserChanges

LARGER = """
[maps]
size = 32
images_seen = 64
unet = { channels = [8, 8, 16], attention = [] }
features.taps = ["down16.*", "up16.resnet1"]
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
    study, splits = set_for_maps(shared)
    assert study is shared
    assert splits.collection.images.shape[1] == shared.profile.images.size


def test_larger_images_have_a_denoiser_of_their_own_which_judges_the_claim(make_study):
    study = make_study(more=LARGER)
    sets = denoised_sets(study)
    assert list(sets) == ["shapes", "shapes, 32 px"]

    larger, splits = sets["shapes, 32 px"]
    assert splits.collection.images.shape[1:] == (32, 32)
    of_study = sets["shapes"].splits
    np.testing.assert_array_equal(splits["test"], of_study["test"])
    assert open_denoiser(trained_denoiser(larger, splits), 32).unet.config.sample_size == 32

    share = claims._share_of_best_maps(larger, splits)
    assert share["value"] == 1  # all taps of [maps] have maps of 16 px
