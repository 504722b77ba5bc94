"""The denoiser: what it learns, that it continues after a kill, and what others can do with it."""

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from safetensors.torch import load_file

from plankton_study.images.splits import make_splits
from plankton_study.models import training
from plankton_study.models.diffusion.denoiser import (
    denoising_loss,
    draw_timesteps,
    losses_at,
    trained_denoiser,
    training_weights,
)
from plankton_study.models.diffusion.noise_schedule import (
    build_scheduler,
    loss_over_clean_error,
    spread_timesteps,
)
from plankton_study.models.diffusion.pipeline import PlanktonPipeline
from plankton_study.models.networks.unet import build_unet
from plankton_study.models.pretrained import open_denoiser
from plankton_study.run.schema import Noise, UNet

TRAIN = """
import sys
from plankton_study.images.splits import make_splits
from plankton_study.models.diffusion.denoiser import trained_denoiser
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


@pytest.fixture
def unshuffled(make_study):
    """The folder of a denoiser that reads squares of 2 x 2 pixels."""
    changes = {"[unet]": "[unet]\nunshuffle = 2\ndropout = 0.1"}
    return denoiser_folder(make_study(changes))


def test_the_folder_opens_with_diffusers_alone(unshuffled):
    unet = UNet2DModel.from_pretrained(unshuffled, subfolder="unet")
    scheduler = DDPMScheduler.from_pretrained(unshuffled, subfolder="scheduler")
    assert (unet.config.in_channels, unet.config.sample_size) == (4, 8)
    assert unet.config.dropout == 0.1
    assert scheduler.config.prediction_type == "v_prediction"
    alpha_bar = scheduler.alphas_cumprod
    np.testing.assert_allclose(alpha_bar, np.linspace(1 - 1e-4, 1e-4, 1000), atol=1e-5)
    pipeline = DDPMPipeline.from_pretrained(unshuffled)
    assert pipeline.unet.num_parameters() == unet.num_parameters()
    assert not list(unshuffled.rglob("*.bin")) and not list(unshuffled.rglob("*.pt"))


def test_the_pipeline_gives_grey_images(unshuffled):
    pipeline = PlanktonPipeline.from_pretrained(unshuffled)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipeline(3, generator, num_inference_steps=4)
    assert images.shape == (3, 16, 16) and images.dtype == np.uint8
    assert images.std() > 0
    again = pipeline(3, torch.Generator().manual_seed(0), num_inference_steps=4)
    assert np.array_equal(images, again)


def test_the_pipeline_turns_grey_values_into_inputs_and_back(unshuffled):
    pipeline = open_denoiser(unshuffled, 16)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)
    x = pipeline.to_model(images)
    assert x.shape == (5, 4, 8, 8)
    # each position holds one square of pixels
    corner = (images[0, :2, :2].ravel().astype(float) - pipeline.scale.mean) / pipeline.scale.std
    np.testing.assert_allclose(x[0, :, 0, 0], corner, atol=1e-5)
    assert np.array_equal(pipeline.to_grey(x), images)


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


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_loss_tells_the_error_of_the_clean_image(prediction):
    """Here of a denoiser that always predicts zero, whatever it predicts."""
    scheduler = build_scheduler(Noise(prediction=prediction))
    x, noise = torch.rand(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    factors = loss_over_clean_error(scheduler)
    for timestep in (10, 400, 900):
        kept = scheduler.alphas_cumprod[timestep]
        noisy = kept.sqrt() * x + (1 - kept).sqrt() * noise
        clean = {
            "epsilon": noisy / kept.sqrt(),
            "sample": torch.zeros_like(x),
            "v_prediction": kept.sqrt() * noisy,
        }
        expected = (clean[prediction] - x).pow(2).mean(dim=(1, 2, 3))
        timesteps = torch.full((4,), timestep)
        loss = denoising_loss(Silent(), scheduler, x, noise, timesteps)
        assert torch.allclose(loss / factors[timestep], expected, rtol=1e-3)


def test_min_snr_weights_are_those_of_the_paper():
    """Hang et al. (2023), eq. 3 and its section on the velocity."""
    for prediction in ("epsilon", "sample", "v_prediction"):
        scheduler = build_scheduler(Noise(prediction=prediction))
        snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
        limited = torch.minimum(snr, torch.tensor(5.0))
        paper = {
            "epsilon": limited / snr,
            "sample": limited,
            "v_prediction": limited / (snr + 1),
        }
        weights = training_weights(scheduler, 5.0)
        expected = paper[prediction] / paper[prediction].mean()
        assert torch.allclose(weights, expected, rtol=1e-4)
        assert torch.equal(training_weights(scheduler, None), torch.ones(1000))


def test_the_timesteps_of_a_batch_cover_the_schedule():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_timesteps(1000, (20,), generator) for _ in range(500)])
    assert (torch.sort(drawn, dim=1)[0] // 50 == torch.arange(20)).all()
    # an image gets any timestep, equally often
    counts = torch.bincount(drawn[:, 0] // 100, minlength=10)
    assert drawn.min() < 10 and drawn.max() > 989
    assert (counts > 25).all() and (counts < 80).all()


def test_the_loss_of_each_image_is_measured_at_the_levels():
    unet = build_unet(UNet(channels=(8, 16), attention=(8,), head_channels=8), 16, 0).eval()
    denoiser = PlanktonPipeline(unet, build_scheduler(Noise()))
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    noise = torch.randn(1, 1, 16, 16)
    levels = spread_timesteps(1000, 4)
    losses = losses_at(denoiser, images, noise, levels, "float32")
    assert list(losses) == [125, 375, 625, 875] and len(losses) == len(images)
    x = denoiser.to_model(images[7:8])
    expected = denoising_loss(unet, denoiser.scheduler, x, noise, torch.tensor([375]))
    assert losses[375][7] == pytest.approx(expected.item(), rel=1e-4)
