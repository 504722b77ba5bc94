"""Trainings of several budgets: what they share, and that sharing changes nothing."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from plankton_study.images.splits import make_splits
from plankton_study.models import recipe
from plankton_study.models.diffusion.denoiser import denoiser_recipe, trained_denoiser
from plankton_study.models.recipe import with_images_seen
from plankton_study.models.rivals import Rival
from plankton_study.models.training import Trainer

CURVE = "\n[curve]\nimages_seen = [160, 320, 640]\n"
BATCH = 16


def weights_of(folder):
    (file,) = folder.rglob("*.safetensors")
    return load_file(file)


def are_equal(weights, others):
    return all(torch.equal(weights[key], others[key]) for key in weights)


def denoiser_after(study, splits, images_seen):
    return trained_denoiser(with_images_seen(study, splits, images_seen), splits)


@pytest.fixture
def steps_made(monkeypatch) -> list[int]:
    """The numbers of all training steps that are made, in this order."""
    steps = []
    train_step = Trainer._train_step

    def counted(trainer):
        steps.append(trainer.step)
        train_step(trainer)

    monkeypatch.setattr(Trainer, "_train_step", counted)
    return steps


@pytest.mark.parametrize("name", ["denoiser", "SimCLR"])
def test_a_budget_of_a_curve_gives_the_network_of_a_training_of_its_own(make_study, tmp_path, name):
    def train(study, images_seen):
        splits = make_splits(study, "shapes")
        budgeted = with_images_seen(study, splits, images_seen)
        if name == "denoiser":
            return trained_denoiser(budgeted, splits)
        return Rival(budgeted, splits, name, "natural").trained("images")[1]

    curve = make_study(more=CURVE, cache=tmp_path / "curve")
    alone = make_study(cache=tmp_path / "alone")
    for images_seen in (320, 640):
        shared, own = train(curve, images_seen), train(alone, images_seen)
        assert shared.name == own.name  # the detour is not in the key
        assert are_equal(weights_of(shared), weights_of(own))
        curves = [pd.read_csv(folder / "curve.csv") for folder in (shared, own)]
        pd.testing.assert_frame_equal(*curves)


def test_a_longer_budget_makes_only_the_steps_that_are_new(make_study, steps_made):
    study = make_study(more=CURVE)
    splits = make_splits(study, "shapes")
    denoiser_after(study, splits, 320)
    # the state of 160 images before their cooldown, that of 320, and the cooldown
    assert steps_made == list(range(20))
    steps_made.clear()
    denoiser_after(study, splits, 160)
    assert steps_made == [8, 9]
    steps_made.clear()
    denoiser_after(study, splits, 640)
    assert steps_made == list(range(16, 40))
    steps_made.clear()
    denoiser_after(study, splits, 320)
    assert not steps_made


def test_other_budgets_start_from_the_curve_too(make_study, steps_made):
    """Such as those at equal FLOPs."""
    study = make_study(more=CURVE)
    splits = make_splits(study, "shapes")
    denoiser_after(study, splits, 160)
    steps_made.clear()
    denoiser_after(study, splits, 240)
    assert steps_made == list(range(8, 15))


def test_a_killed_state_continues(make_study, monkeypatch, steps_made, tmp_path):
    often = {"images_seen = 320": "images_seen = 320\ncheckpoint_seconds = 1e-9"}
    study = make_study(often, more=CURVE)
    splits = make_splits(study, "shapes")
    train_step = Trainer._train_step

    def interrupted(trainer):
        if trainer.step == 12:
            raise KeyboardInterrupt
        train_step(trainer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_train_step", interrupted)
        denoiser_after(study, splits, 640)
    steps_made.clear()
    resumed = denoiser_after(study, splits, 640)
    assert steps_made == list(range(12, 40))
    undisturbed = make_study(cache=tmp_path / "undisturbed")
    folder = denoiser_after(undisturbed, splits, 640)
    assert are_equal(weights_of(resumed), weights_of(folder))


def test_all_encoders_get_the_same_standardised_pixels(shared):
    splits = make_splits(shared, "shapes")
    scale = recipe.pixel_scale(shared, splits)
    pool = splits.collection.images[splits["pool"]]
    assert scale.mean == pytest.approx(pool.mean(), abs=0.006)
    assert denoiser_recipe(shared, splits).data.scale == scale
    for name in ("ResNet, labels", "SimCLR", "MAE", "U-Net, labels", "fine-tuned"):
        data = Rival(shared, splits, name, "natural").recipe().data
        assert data.scale == scale, name
        x = data.inputs(splits["pool"])
        assert abs(x.mean()) < 0.01 and x.std() == pytest.approx(1, abs=0.01)


def test_a_curve_ascends(make_study):
    from plankton_study.run.errors import StudyError

    with pytest.raises(StudyError, match=r"curve.*must ascend"):
        make_study(more=CURVE.replace("640", "320"))


def test_the_state_is_kept_at_the_constant_rate(make_study):
    study = make_study(more=CURVE)
    splits = make_splits(study, "shapes")
    denoiser_after(study, splits, 640)
    states = sorted(study.cache.glob("state/*/state.pt"))
    steps = sorted(torch.load(file, weights_only=True)["step"] for file in states)
    assert steps == [8, 16, 32]
    assert np.array(steps) * BATCH == pytest.approx([128, 256, 512])
