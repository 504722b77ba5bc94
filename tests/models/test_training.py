"""The training loop: what it keeps, what it leaves, and that it continues after a kill."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers.training_utils import EMAModel

from plankton_study.images.splits import make_splits
from plankton_study.models import training
from plankton_study.models.batches import MINUS_ONE_TO_ONE
from plankton_study.models.networks.unet import build_unet
from plankton_study.models.networks.vit import build_vit
from plankton_study.models.recipe import (
    pixel_scale,
    training_cost,
    training_images,
    training_inputs,
)
from plankton_study.models.training import Trainer, TrainingImages, save_checkpoint
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import UNet

TINY = UNet(channels=(8, 16), attention=(8,), head_channels=8)
#: FLOPs of `OneMatrix` for an image, forward; the gradient of its weights takes as many
MATRIX_FLOPS = 2 * 256 * 4


class OneMatrix(torch.nn.Module):
    """One matrix without bias; its images need no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(256, 4, bias=False)

    def forward(self, x):
        return self.inner(x.flatten(1))


def squared_output(model, x, rows, randomness):
    return model(x).pow(2).mean()


@pytest.fixture
def data(shared) -> TrainingImages:
    splits = make_splits(shared, "shapes")
    images = splits.collection.images
    return TrainingImages(images, splits["pool"], splits["validation"], MINUS_ONE_TO_ONE)


def held_out_loss(model: torch.nn.Module, data: TrainingImages) -> float:
    with torch.no_grad():
        return squared_output(model, data.inputs(data.held_out), None, None).item()


def last_held_out_loss(folder) -> float:
    return pd.read_csv(folder / "curve.csv")["held_out"].iloc[-1]


def rates_of_training(study, data, folder, **changes) -> list[float]:
    """Return the learning rate of every step over the highest one."""
    rates = {}

    def loss(model, x, rows, randomness):
        rates[trainer.step] = trainer.optimiser.param_groups[0]["lr"]
        return squared_output(model, x, rows, randomness)

    settings = {"warmup_images": 10 * 16, "cooldown": 0.25}
    trainer = Trainer(study, folder, OneMatrix(), loss, data, 40 * 16, "test", settings, **changes)
    trainer.run()
    return [rates[step] / study.profile.training.learning_rate for step in range(40)]


def test_the_learning_rate_warms_up_stays_and_falls_to_zero(shared, data, tmp_path):
    rates = rates_of_training(shared, data, tmp_path)
    np.testing.assert_allclose(rates[:10], np.linspace(0.1, 1, 10))
    np.testing.assert_allclose(rates[10:30], 1)
    np.testing.assert_allclose(rates[30:], 1 - np.sqrt(np.arange(1, 11) / 11))


def test_without_a_cooldown_the_learning_rate_stays(shared, data, tmp_path):
    rates = rates_of_training(shared, data, tmp_path, has_cooldown=False)
    np.testing.assert_allclose(rates[10:], 1)
    assert [file.name for file in tmp_path.glob("s*")] == ["state.pt"]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"changes": {"batch_size = 16": "batch_size = 8"}}]
)
def test_what_determines_a_training_is_in_its_key(make_study, change):
    keys = [inputs_of(study) for study in (make_study(), make_study(**change))]
    assert keys[0] != keys[1]


def inputs_of(study):
    splits = make_splits(study, "shapes")
    scale = pixel_scale(study, splits)
    data = training_images(splits, splits["pool"], splits["validation"], scale)
    return training_inputs(study, splits, data)


# --- checkpoints


def checkpoint_of(model: torch.nn.Module) -> dict:
    """Return the state of a training behind its first step."""
    optimiser = torch.optim.AdamW(model.parameters())
    return {
        "model": model.state_dict(),
        "average": EMAModel(model.parameters()).state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": 1,
        "curve": [],
        "losses": [],
        "seconds": 1.0,
    }


@pytest.mark.parametrize("damage", ["truncated", "of another architecture"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(shared, data, tmp_path, damage):
    file = tmp_path / "checkpoint.pt"
    channels = (8, 24) if damage == "of another architecture" else TINY.channels
    saved_model = build_unet(TINY.model_copy(update={"channels": channels}), 16, 0)
    save_checkpoint(file, checkpoint_of(saved_model))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    trainer = Trainer(shared, tmp_path, build_unet(TINY, 16, 0), squared_output, data, 320, "test")
    with pytest.raises(StudyError, match="checkpoint.pt is damaged or .*: delete it") as error:
        trainer.run()
    assert "\n" not in str(error.value)


def test_a_training_killed_behind_its_last_step_still_knows_its_cost(
    shared, data, tmp_path, monkeypatch
):
    """Its checkpoint leaves no step to do, and so none to count."""
    save = training.save_checkpoint

    def interrupted(path, state):
        save(path, state)
        if state["step"] == 20:
            raise KeyboardInterrupt

    def train():
        often = {"checkpoint_seconds": 1e-9}
        model = OneMatrix()
        Trainer(shared, tmp_path, model, squared_output, data, 320, "test", often).run()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "save_checkpoint", interrupted)
        train()
    train()
    assert training_cost(tmp_path)["flops"] == 2 * MATRIX_FLOPS
    assert pd.read_csv(tmp_path / "curve.csv")["images_seen"].tolist() == [256, 320]


# --- what a training leaves


def test_a_diverging_loss_stops_the_training(shared, data, tmp_path):
    def explode(model, x, rows, randomness):
        return model(x).mean() * math.nan

    with pytest.raises(StudyError, match="no longer finite.*learning rate"):
        Trainer(shared, tmp_path, OneMatrix(), explode, data, 320, "test").run()


def test_a_training_leaves_its_curve_and_its_cost(shared, data, tmp_path):
    model, changes = OneMatrix(), {"batch_size": 20}
    Trainer(shared, tmp_path, model, squared_output, data, 500, "test", changes).run()
    curve, cost = pd.read_csv(tmp_path / "curve.csv"), training_cost(tmp_path)
    assert curve["images_seen"].tolist() == [240, 360, 500]  # two a doubling
    # the kept weights are those that the curve ends with: the moving average
    assert last_held_out_loss(tmp_path) == pytest.approx(held_out_loss(model, data), rel=1e-5)
    assert cost.pop("seconds") > 0
    first_loss = cost.pop("first_loss")
    assert cost == {
        "parameters": 1024,
        "images_seen": 500,
        "batch_size": 20,
        "flops": 2 * MATRIX_FLOPS,
    }
    assert 0 < first_loss < 1


def test_the_first_loss_is_a_fingerprint_of_the_seed(shared, data, tmp_path):
    """It does not depend on the budget, but on the seed: of the weights and of the images."""

    def first_loss(seed, images_seen, name):
        torch.manual_seed(seed)
        study, folder = replace(shared, seed=seed), tmp_path / name
        folder.mkdir()
        Trainer(study, folder, OneMatrix(), squared_output, data, images_seen, name).run()
        return training_cost(folder)["first_loss"]

    of_one = first_loss(0, 16, "short")
    assert first_loss(0, 160, "long") == pytest.approx(of_one, rel=1e-6)
    assert first_loss(1, 16, "other") != pytest.approx(of_one, rel=1e-3)


def test_the_key_of_a_training_holds_the_precision_that_the_machine_uses(shared, monkeypatch):
    """Machines with and without bfloat16 that share a cache do not share weights."""
    profile = shared.profile
    automatic = profile.training.model_copy(update={"precision": "auto"})
    study = replace(shared, profile=profile.model_copy(update={"training": automatic}))
    keys = []
    for has_bfloat16 in (False, True):
        monkeypatch.setattr(
            "plankton_study.models.precision.torch.cpu._is_avx512_bf16_supported",
            lambda has_bfloat16=has_bfloat16: has_bfloat16,
        )
        monkeypatch.setattr(
            "plankton_study.models.precision.torch.cpu._is_amx_tile_supported", lambda: False
        )
        keys.append(inputs_of(study)["training"])
    assert [key["precision"] for key in keys] == ["float32", "bfloat16"]
    assert keys[0] == inputs_of(shared)["training"]


@pytest.mark.parametrize("decay", [0.0, 0.999])
def test_the_kept_weights_are_the_moving_average(shared, data, tmp_path, decay):
    torch.manual_seed(0)
    model, weights_by_step = OneMatrix(), []

    def loss(model, x, rows, randomness):
        if model.training:
            weights_by_step.append(model.inner.weight.detach().clone())
        return squared_output(model, x, rows, randomness)

    Trainer(shared, tmp_path, model, loss, data, 320, "test", {"ema": decay}).run()
    distances = [(model.inner.weight - weights).norm().item() for weights in weights_by_step]
    # without memory the average is the last step itself
    is_nearest_to_the_last = min(distances) == distances[-1]
    assert is_nearest_to_the_last == (decay == 0)


def test_batch_norm_keeps_the_statistics_of_the_images_it_was_trained_on(shared, data, tmp_path):
    """Those of the training images under the averaged weights, not a memory of the last batches."""
    data = replace(data, rows=data.rows[:48])
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(256), torch.nn.Linear(256, 4)
    )
    Trainer(shared, tmp_path, model, squared_output, data, 64, "test").run()
    pixels = data.inputs(data.rows).flatten(1)
    assert torch.allclose(model[1].running_mean, pixels.mean(dim=0), atol=1e-4)
    # and the curve ends with the loss under them
    assert last_held_out_loss(tmp_path) == pytest.approx(held_out_loss(model, data), rel=1e-4)


def test_attention_counts_among_the_flops(shared, data, tmp_path):
    """With 257 tokens of 16 channels it is most of the work, whatever kernel computes it."""
    tokens, width = 257, 16
    changes = {"patch": 1, "width": width, "depth": 1}

    def mean_output(model, x, rows, randomness):
        return model(x)[0].mean()

    model = build_vit(shared.profile.vit.model_copy(update=changes), 16)
    Trainer(shared, tmp_path, model, mean_output, data, 16, "test").run()
    linear = 2 * tokens * 12 * width**2  # forward, an image; backward takes twice that
    attention = 2 * 2 * tokens**2 * width
    assert training_cost(tmp_path)["flops"] == pytest.approx(3 * (linear + attention), rel=0.2)


def test_held_out_rows_are_few_and_sorted():
    validation = np.arange(1000) * 2
    rows = training.choose_held_out(validation)
    assert len(rows) == training.MAX_HELD_OUT_IMAGES == len(np.unique(rows))
    assert np.array_equal(rows, np.sort(rows)) and set(rows) <= set(validation)
    assert np.array_equal(training.choose_held_out(validation[:7]), validation[:7])
