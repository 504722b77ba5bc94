"""The denoiser: what it learns, that it continues after a kill, and what others can do with it."""

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from safetensors.torch import load_file

from plankton_study.images.splits import make_splits
from plankton_study.models import training
from plankton_study.models.denoiser import denoising_loss, losses_by_level, trained_denoiser
from plankton_study.models.noise_schedule import build_scheduler
from plankton_study.run.schema import Noise

TRAIN = """
import sys
from plankton_study.images.splits import make_splits
from plankton_study.models.denoiser import trained_denoiser
from plankton_study.run.study import load_study
study = load_study(sys.argv[1], 0)
trained_denoiser(study, make_splits(study, "shapes"))
"""


def denoiser_folder(study):
    return trained_denoiser(study, make_splits(study, "shapes"))


def weights_in(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def are_equal(weights, others):
    return all(torch.equal(weights[key], others[key]) for key in weights)


# --- its training


def test_the_same_seed_gives_the_same_weights_and_another_one_others(make_study, tmp_path):
    weights = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        study = make_study(cache=tmp_path / name, seed=seed)
        weights[name] = weights_in(denoiser_folder(study))
    assert are_equal(weights["first"], weights["again"])
    assert not are_equal(weights["first"], weights["other"])


def test_sigkill_in_the_middle_then_again_gives_the_undisturbed_weights(
    make_study, killed_at_step_7, tmp_path
):
    longer = {"images_seen = 320": "images_seen = 480\ncheckpoint_seconds = 1e-9"}
    undisturbed = denoiser_folder(make_study(longer, cache=tmp_path / "undisturbed"))

    study = make_study(longer, cache=tmp_path / "killed")
    killed_at_step_7(TRAIN)
    (checkpoint,) = study.cache.glob("denoiser/*.partial/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 7
    assert are_equal(weights_in(undisturbed), weights_in(denoiser_folder(study)))


def test_a_training_killed_before_its_model_was_saved_is_not_made_again(make_study, monkeypatch):
    study = make_study()  # whose checkpoints are far apart

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    def made_again(*arguments):
        pytest.fail("a step was made again")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UNet2DModel, "save_pretrained", interrupted)
        denoiser_folder(study)
    with monkeypatch.context() as patch:
        patch.setattr(training.EMAModel, "step", made_again)
        folder = denoiser_folder(study)
    assert weights_in(folder) and not list(folder.glob("*checkpoint*"))


def test_the_denoiser_learns_and_its_curves_are_kept(make_study):
    folder = denoiser_folder(make_study({"images_seen = 320": "images_seen = 1600"}))
    curve = pd.read_csv(folder / "curve.csv")
    assert curve["images_seen"].iloc[-1] == 1600
    assert curve["held_out"].iloc[-1] < 0.6 * curve["held_out"].iloc[0]
    levels = pd.read_csv(folder / "levels.csv")
    assert levels["loss"].iloc[0] > levels["loss"].iloc[-1]
    assert levels["signal_to_noise"].is_monotonic_decreasing


def test_the_folder_is_an_ordinary_diffusers_pipeline(shared):
    folder = denoiser_folder(shared)
    pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipeline(num_inference_steps=2, output_type="np", generator=generator).images
    assert images.shape[:3] == (1, 16, 16) and np.isfinite(images).all()
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))


# --- its loss


class Silent(torch.nn.Module):
    """A denoiser that always predicts zero."""

    def forward(self, x, timesteps):
        return UNet2DOutput(sample=torch.zeros_like(x))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_loss_is_the_mean_squared_error_of_what_is_predicted(prediction):
    scheduler = build_scheduler(Noise(prediction=prediction))
    x, noise = torch.rand(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    timesteps = torch.tensor([0, 500, 999])
    kept = scheduler.alphas_cumprod[timesteps].view(3, 1, 1, 1)
    targets = {
        "epsilon": noise,
        "sample": x,
        "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * x,
    }
    loss = denoising_loss(Silent(), scheduler, x, noise, timesteps)
    assert torch.allclose(loss, targets[prediction].pow(2).mean(dim=(1, 2, 3)))


def test_the_loss_of_each_image_is_measured_at_evenly_spread_levels():
    scheduler = build_scheduler(Noise())
    x, noise = torch.rand(40, 1, 8, 8), torch.randn(1, 1, 8, 8)
    losses = losses_by_level(Silent(), scheduler, x, noise, "float32", 4)
    assert list(losses) == [125, 375, 625, 875] and len(losses) == len(x)
    np.testing.assert_allclose(losses, noise.pow(2).mean().item(), rtol=1e-5)
