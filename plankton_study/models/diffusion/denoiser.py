"""The denoiser: a diffusers UNet2DModel and DDPMScheduler, trained without labels."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler, UNet2DModel

from plankton_study.images.splits import Splits
from plankton_study.models import recipe
from plankton_study.models.batches import PixelScale, StepRandomness
from plankton_study.models.diffusion.noise_schedule import build_scheduler, loss_over_clean_error
from plankton_study.models.diffusion.pipeline import PlanktonPipeline
from plankton_study.models.networks.unet import build_unet, to_unet
from plankton_study.models.precision import autocast
from plankton_study.models.pretrained import find_model_folder, open_denoiser
from plankton_study.models.recipe import Recipe
from plankton_study.models.training import StepLoss
from plankton_study.run.cache import digest
from plankton_study.run.schema import Noise
from plankton_study.run.study import Study

#: modules whose code turns images into a denoiser
SHAPED_BY = (
    *recipe.SHAPED_BY,
    "models.diffusion.denoiser",
    "models.diffusion.noise_schedule",
    "models.diffusion.pipeline",
    "models.networks.unet",
)
BATCH_SIZE = 32


def trained_denoiser(study: Study, splits: Splits) -> Path:
    """Return the diffusers folder of a set's denoiser; the first call trains it.

    With `unet.pretrained` it is the folder of that pretrained model. The folder of a denoiser
    trained here also contains curve.csv and cost.json (see `Trainer`).
    """
    pretrained = study.profile.unet.pretrained
    if pretrained:
        return find_model_folder(study, pretrained)
    images_seen = recipe.images_to_see(study, splits)
    return recipe.train(study, denoiser_recipe(study, splits), images_seen)


def denoiser_recipe(study: Study, splits: Splits) -> Recipe:
    """Return how the denoiser of a set is trained."""
    profile = study.profile
    scale = recipe.pixel_scale(study, splits)
    data = recipe.training_images(splits, splits["pool"], splits["validation"], scale)
    inputs = recipe.training_inputs(study, splits, data)
    inputs["unet"] = profile.unet.model_dump()
    inputs["noise"] = profile.noise.model_dump()
    return Recipe(
        stage="denoiser",
        inputs=inputs,
        shaped_by=SHAPED_BY,
        data=data,
        label=f"training the denoiser on {splits.collection.name}",
        build=partial(build_unet, profile.unet, profile.images.size, study.seed),
        make_loss=partial(batch_denoising_loss, profile.noise, profile.unet.unshuffle),
        save=partial(_save, study, scale),
    )


def _save(study: Study, scale: PixelScale, unet: UNet2DModel, folder: Path) -> None:
    _pipeline(study, unet.cpu(), scale).save_pretrained(folder)


def _pipeline(study: Study, unet: UNet2DModel, scale: PixelScale) -> PlanktonPipeline:
    """Return a U-Net with the study's noise schedule and what prepares its pixels."""
    scheduler = build_scheduler(study.profile.noise)
    return PlanktonPipeline(unet, scheduler, *scale, study.profile.unet.unshuffle)


def batch_denoising_loss(config: Noise, unshuffle: int) -> StepLoss:
    """Return the training loss of a batch: each image at a random timestep.

    Args:
        config: the noise schedule, the target, and whether the images are weighted.
        unshuffle: see `to_unet`.
    """
    scheduler = build_scheduler(config)
    weights = training_weights(scheduler, config.min_snr)

    def loss(
        model: torch.nn.Module, x: torch.Tensor, rows: np.ndarray, randomness: StepRandomness
    ) -> torch.Tensor:
        x = to_unet(x, unshuffle**2, unshuffle)
        noise = randomness.draw(torch.randn, *x.shape[1:]).to(x.device)
        timesteps = randomness.draw(partial(draw_timesteps, config.steps)).to(x.device)
        losses = denoising_loss(model, scheduler, x, noise, timesteps)
        if model.training:
            losses = losses * weights.to(x.device)[timesteps]
        return losses.mean()

    return loss


def draw_timesteps(
    steps: int, shape: tuple[int, ...], generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return one timestep from each of as many equal parts of the schedule, in random order.

    Each is uniformly distributed; together they make the loss of a batch less noisy (Kingma et
    al. 2021, appendix I.1).

    Args:
        steps: length of the schedule.
        shape: (B,).
        generator: source of the randomness.
    """
    (batch_size,) = shape
    parts = torch.randperm(batch_size, generator=generator)
    offset = torch.rand(1, generator=generator)
    return ((parts + offset) / batch_size * steps).long()


def training_weights(scheduler: DDPMScheduler, min_snr: float | None) -> torch.Tensor:
    """Return the weight of each timestep's loss, (steps,) float32, with mean 1.

    Args:
        scheduler: the noise schedule.
        min_snr: limit of the signal-to-noise ratio (Hang et al. 2023, eq. 3); None: all are 1.
    """
    if min_snr is None:
        return torch.ones(scheduler.config.num_train_timesteps)
    alpha_bar = scheduler.alphas_cumprod
    signal_to_noise = alpha_bar / (1 - alpha_bar)
    weights = signal_to_noise.clamp(max=min_snr) / loss_over_clean_error(scheduler)
    return weights / weights.mean()


def denoising_loss(
    unet: torch.nn.Module,
    scheduler: DDPMScheduler,
    x: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """Return the denoiser's squared error on each image (Ho et al. 2020, eq. 14).

    Args:
        unet: the denoiser.
        scheduler: the noise schedule; its `prediction_type` defines the target.
        x: clean images, as the U-Net expects them.
        noise: standard normal, of the shape of `x`.
        timesteps: (B,) int64.

    Returns:
        (B,) float32, the mean over pixels.
    """
    noisy = scheduler.add_noise(x, noise, timesteps)
    predicted = unet(noisy, timesteps).sample
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        target = noise
    elif prediction_type == "sample":
        target = x
    else:
        target = scheduler.get_velocity(x, noise, timesteps)
    return (predicted.float() - target).pow(2).mean(dim=(1, 2, 3))


def denoiser_digest(folder: Path) -> str:
    """Return the hash of the weights in the diffusers folder of a denoiser."""
    files = sorted(folder.rglob("*.safetensors"))
    return digest(*(file.read_bytes() for file in files))


@torch.no_grad()
def losses_at(
    denoiser: PlanktonPipeline,
    images: np.ndarray,
    noise: torch.Tensor,
    timesteps: list[int],
    precision: str,
) -> pd.DataFrame:
    """Return the denoiser's loss on each image at some timesteps.

    Args:
        denoiser: the pipeline.
        images: (B, R, R) uint8.
        noise: standard normal, one tensor for each image or (1, C, r, r), the same for all.
        timesteps: the noise levels.
        precision: a precision key of the profile.

    Returns:
        (B, timesteps) float32; the columns are the timesteps.
    """
    x = denoiser.to_model(images)
    noise = noise.to(x.device).expand_as(x)
    losses = {}
    with autocast(precision, x.device.type):
        for timestep in timesteps:
            parts = []
            for start in range(0, len(x), BATCH_SIZE):
                part = slice(start, start + BATCH_SIZE)
                repeated = torch.full((len(x[part]),), timestep, device=x.device)
                loss = denoising_loss(
                    denoiser.unet, denoiser.scheduler, x[part], noise[part], repeated
                )
                parts.append(loss)
            losses[timestep] = torch.cat(parts).float().cpu().numpy()
    return pd.DataFrame(losses)


def initial_denoiser(study: Study, scale: PixelScale) -> PlanktonPipeline:
    """Return the study's denoiser, or the architecture of its pretrained one, with initial weights.

    Args:
        study: provides the U-Net and the seed.
        scale: what standardises the pixels; a pretrained denoiser has its own.
    """
    profile = study.profile
    size = profile.images.size
    if not profile.unet.pretrained:
        return _pipeline(study, build_unet(profile.unet, size, study.seed), scale)
    folder = find_model_folder(study, profile.unet.pretrained)
    pretrained = open_denoiser(folder, size)
    torch.manual_seed(study.seed)
    unet = UNet2DModel.from_config(pretrained.unet.config)
    return PlanktonPipeline(unet, pretrained.scheduler, *pretrained.scale, pretrained.unshuffle)
