"""The denoiser: a diffusers UNet2DModel and DDPMScheduler, trained without labels."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import gather_object
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from plankton_study.images.splits import Splits
from plankton_study.models import training
from plankton_study.models.batches import StepRandomness, to_input
from plankton_study.models.networks.unet import build_unet
from plankton_study.models.noise_schedule import build_scheduler
from plankton_study.models.precision import autocast
from plankton_study.models.pretrained import find_model_folder, open_denoiser
from plankton_study.models.training import StepLoss, Trainer, TrainingImages
from plankton_study.run.cache import keep
from plankton_study.run.machine import processes
from plankton_study.run.study import Study

#: modules whose code turns images into a denoiser
SHAPED_BY = (
    *training.SHAPED_BY,
    "models.denoiser",
    "models.networks.unet",
    "models.noise_schedule",
)
#: noise levels at which the held-out loss is stored
STORED_LEVELS = 20
BATCH_SIZE = 32


def trained_denoiser(study: Study, splits: Splits) -> Path:
    """Return the diffusers folder of a set's denoiser; the first call trains it.

    With `unet.pretrained` it is the folder of that pretrained model. The folder of a denoiser
    trained here also contains curve.csv and cost.json (see `Trainer`), and levels.csv: held-out
    loss, standard error and signal-to-noise ratio for each timestep.
    """
    profile = study.profile
    if profile.unet.pretrained:
        return find_model_folder(study, profile.unet.pretrained)
    held_out = training.choose_held_out(splits["validation"])
    images_seen = training.images_to_see(study, splits)
    inputs = training.training_inputs(study, splits, splits["pool"], held_out, images_seen)
    inputs["unet"] = profile.unet.model_dump()
    inputs["noise"] = profile.noise.model_dump()

    data = TrainingImages(splits.collection.images, splits["pool"], held_out)

    def make(folder: Path) -> None:
        _train(study, splits.collection.name, data, images_seen, folder)

    return keep(study, "denoiser", inputs, SHAPED_BY, make, resume=True)


def _train(study: Study, name: str, data: TrainingImages, images_seen: int, folder: Path) -> None:
    profile = study.profile
    unet = build_unet(profile.unet, profile.images.size, study.seed)
    scheduler = build_scheduler(profile.noise)
    batch_size = profile.training.batch_size
    label = f"training the denoiser on {name} (steps of {batch_size} images)"
    loss = batch_denoising_loss(scheduler)
    Trainer(study, folder, unet, loss, data, images_seen, label).run()
    levels = _held_out_levels(study, unet, scheduler, data)
    if processes().is_first:
        levels.to_csv(folder / "levels.csv")
        DDPMPipeline(unet.cpu(), scheduler).save_pretrained(folder)


def _held_out_levels(
    study: Study, unet: UNet2DModel, scheduler: DDPMScheduler, data: TrainingImages
) -> pd.DataFrame:
    """Return the held-out loss by timestep; each process computes its own share of the images."""
    x = to_input(data.images[data.held_out], study.device)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    share = processes().own_share
    precision = study.profile.training.precision
    losses = losses_by_level(unet, scheduler, x[share], noise[share], precision, STORED_LEVELS)
    losses = pd.concat(gather_object([losses]))
    alpha_bar = scheduler.alphas_cumprod[list(losses)]
    levels = pd.DataFrame(
        {
            "loss": losses.mean(),
            "standard_error": losses.sem(),
            "signal_to_noise": alpha_bar / (1 - alpha_bar),
        }
    )
    return levels.rename_axis("timestep")


def batch_denoising_loss(scheduler: DDPMScheduler) -> StepLoss:
    """Return the training loss of a batch: each image at a random timestep."""

    def sample_timesteps(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return torch.randint(scheduler.config.num_train_timesteps, shape, generator=generator)

    def loss(
        model: torch.nn.Module, x: torch.Tensor, rows: np.ndarray, randomness: StepRandomness
    ) -> torch.Tensor:
        noise = randomness.draw(torch.randn, *x.shape[1:]).to(x.device)
        timesteps = randomness.draw(sample_timesteps).to(x.device)
        return denoising_loss(model, scheduler, x, noise, timesteps).mean()

    return loss


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
        x: clean images (B, C, R, R) in [-1, 1].
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


@torch.no_grad()
def losses_by_level(
    unet: torch.nn.Module,
    scheduler: DDPMScheduler,
    x: torch.Tensor,
    noise: torch.Tensor,
    precision: str,
    levels: int,
) -> pd.DataFrame:
    """Return the loss of each image at evenly spread timesteps.

    Args:
        unet, scheduler: the denoiser.
        x: clean images (B, C, R, R).
        noise: standard normal of that shape, or (1, C, R, R): the same for all images.
        precision: a precision key of the profile.
        levels: number of timesteps; they are the midpoints of equal parts of the schedule.

    Returns:
        (B, levels) float32; the columns are the timesteps.
    """
    noise = noise.to(x.device).expand_as(x)
    middles = (np.arange(levels) + 0.5) / levels
    timesteps = (middles * scheduler.config.num_train_timesteps).astype(int).tolist()
    losses = {}
    with autocast(precision, x.device.type):
        for timestep in timesteps:
            parts = []
            for start in range(0, len(x), BATCH_SIZE):
                part = slice(start, start + BATCH_SIZE)
                images = x[part]
                repeated = torch.full((len(images),), timestep, device=x.device)
                parts.append(denoising_loss(unet, scheduler, images, noise[part], repeated))
            losses[timestep] = torch.cat(parts).float().cpu().numpy()
    return pd.DataFrame(losses)


def initial_unet(study: Study) -> UNet2DModel:
    """Return the study's U-Net, or the architecture of its pretrained one, with initial weights."""
    profile = study.profile
    if not profile.unet.pretrained:
        return build_unet(profile.unet, profile.images.size, study.seed)
    folder = find_model_folder(study, profile.unet.pretrained)
    pretrained, _ = open_denoiser(folder, profile.images.size)
    torch.manual_seed(study.seed)
    return UNet2DModel.from_config(pretrained.config)
