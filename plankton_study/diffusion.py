"""The denoiser: a diffusers UNet2DModel and DDPMScheduler, trained without labels, kept as a diffusers folder."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import gather_object
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from sklearn.metrics import pairwise_distances_argmin_min

from plankton_study import train
from plankton_study.profile import StudyError, reason
from plankton_study.schema import Noise, UNet
from plankton_study.splits import Splits
from plankton_study.store import keep
from plankton_study.study import Study
from plankton_study.train import Chance, StepLoss


def build_unet(config: UNet, size: int, seed: int) -> UNet2DModel:
    """Return an untrained U-Net for images of `size` px, with the initial weights of `seed`.

    Without `time_conditioning` the time embedding is zero and stays so: the saved folder needs no special handling.
    """
    torch.manual_seed(seed)
    attends = [size // 2**level in config.attention for level in range(len(config.channels))]
    unet = UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=config.layers_per_block,
        block_out_channels=config.channels,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        norm_num_groups=config.groups,
        attention_head_dim=config.head_channels,
        add_attention=attends[-1],
        resnet_time_scale_shift=config.residual_blocks,
        downsample_type=config.resampling,
        upsample_type=config.resampling,
    )
    if not config.time_conditioning:
        for parameter in unet.time_embedding.linear_2.parameters():
            torch.nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
    return unet


def untrained(study: Study) -> UNet2DModel:
    """Return the study's U-Net with initial weights: of the profile's architecture, or of the given model's."""
    if not study.profile.unet.pretrained:
        return build_unet(study.profile.unet, study.profile.images.size, study.seed)
    given, _ = load(model_folder(study, study.profile.unet.pretrained), study.profile.images.size)
    torch.manual_seed(study.seed)
    return UNet2DModel.from_config(given.config)


def build_scheduler(config: Noise) -> DDPMScheduler:
    """Return the noise schedule of the profile; samples are clipped to [-1, 1]."""
    return DDPMScheduler(config.steps, beta_schedule=config.schedule, prediction_type=config.prediction)


def denoising_loss(
    unet: torch.nn.Module, scheduler: DDPMScheduler, x: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return the denoiser's squared error for each image, (B,) float32, mean over pixels (Ho et al. 2020, eq. 14).

    `x` are clean images (B, 1, R, R) in [-1, 1], `noise` is standard normal of that shape, `timesteps` (B,) int64.
    """
    predicted = unet(scheduler.add_noise(x, noise, timesteps), timesteps).sample
    kind = scheduler.config.prediction_type
    target = noise if kind == "epsilon" else x if kind == "sample" else scheduler.get_velocity(x, noise, timesteps)
    return (predicted.float() - target).pow(2).mean(dim=(1, 2, 3))


def step_loss(scheduler: DDPMScheduler) -> StepLoss:
    """Return the mean loss of a batch, each image at a random timestep."""

    def loss(model: torch.nn.Module, x: torch.Tensor, rows: np.ndarray, chance: Chance) -> torch.Tensor:
        noise = chance(torch.randn, *x.shape[1:]).to(x.device)
        timesteps = chance(partial(torch.randint, scheduler.config.num_train_timesteps)).to(x.device)
        return denoising_loss(model, scheduler, x, noise, timesteps).mean()

    return loss


def denoiser(study: Study, splits: Splits) -> Path:
    """Return the diffusers folder of the trained (or given) denoiser of one set, training it on the first call.

    Beside the model it holds curve.csv and cost.json (see `train.fit`) and levels.csv (held-out loss per timestep).
    """
    profile = study.profile
    if profile.unet.pretrained:
        return model_folder(study, profile.unet.pretrained)
    held_out = train.held_out_rows(splits["validation"])
    what = train.inputs(study, splits, splits["pool"], held_out, train.budget(study, splits))
    what |= {"unet": profile.unet.model_dump(), "noise": profile.noise.model_dump()}
    return keep(study, "denoiser", what, ["train", "diffusion"], partial(_train, study, splits, held_out), resume=True)


def _train(study: Study, splits: Splits, held_out: np.ndarray, folder: Path) -> None:
    profile = study.profile
    unet, scheduler = build_unet(profile.unet, profile.images.size, study.seed), build_scheduler(profile.noise)
    images = splits.collection.images
    name = f"training the denoiser on {splits.collection.name} (steps of {profile.training.batch_size} images)"
    loss, seen = step_loss(scheduler), train.budget(study, splits)
    train.fit(study, folder, unet, loss, images, splits["pool"], seen, name, held_out)
    mine = slice(study.team.process_index, None, study.team.num_processes)
    unseen = train.to_model(images[held_out], study.device)
    noise = torch.randn(unseen.shape, generator=torch.Generator().manual_seed(0))
    losses = losses_by_level(unet, scheduler, unseen[mine], noise[mine], profile.training.precision, levels=20)
    losses = pd.concat(gather_object([losses]))
    if not study.team.is_main_process:
        return
    kept = scheduler.alphas_cumprod[list(losses)]
    levels = {"loss": losses.mean(), "standard_error": losses.sem(), "signal_to_noise": kept / (1 - kept)}
    pd.DataFrame(levels).rename_axis("timestep").to_csv(folder / "levels.csv")
    DDPMPipeline(unet.cpu(), scheduler).save_pretrained(folder)


@torch.no_grad()
def losses_by_level(
    unet: torch.nn.Module, scheduler: DDPMScheduler, x: torch.Tensor, noise: torch.Tensor, precision: str, levels: int
) -> pd.DataFrame:
    """Return the loss of each image at evenly spread timesteps, the middles of equal parts of the schedule.

    `x` are clean images (B, C, R, R); `noise` is standard normal of that shape, or (1, C, R, R): the same for all.

    Returns:
        (B, levels) float32, its columns the timesteps.
    """
    noise, found = noise.to(x.device).expand_as(x), {}
    with train.autocast(precision, x.device.type):
        for t in ((np.arange(levels) + 0.5) * scheduler.config.num_train_timesteps / levels).astype(int).tolist():
            at = torch.full((len(x),), t, device=x.device)
            parts = (denoising_loss(unet, scheduler, *part) for part in zip(x.split(32), noise.split(32), at.split(32)))
            found[t] = torch.cat(list(parts)).float().cpu().numpy()
    return pd.DataFrame(found)


def model_folder(study: Study, name: str) -> Path:
    """Return the folder of a model made elsewhere: a path, a folder in the data folder, or a snapshot from the Hub.

    Raises:
        StudyError: there is no such folder, and the Hub is switched off or does not give it.
    """
    for place in (Path(name), *([study.data / name, study.data / Path(name).name] if study.data else [])):
        if place.is_dir():
            return place
    if not study.profile.hub:
        raise StudyError(f"{name!r} is no folder here or in the data folder, and the profile does not say hub = true")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # a dozen kinds of network and access errors
        raise StudyError(f"{name} could not be had from the Hub ({reason(error)}): check id and network") from None


def load(folder: Path, size: int, device: str = "cpu") -> tuple[UNet2DModel, DDPMScheduler]:
    """Open a diffusers folder of an unconditional pixel-space model for reading features.

    Raises:
        StudyError: no such folder, a truncated file, another architecture, or a size the model cannot read.
    """
    try:
        parts = {part: part if (folder / part).is_dir() else None for part in ("unet", "scheduler")}  # or in the root
        options = {"use_safetensors": True, "low_cpu_mem_usage": False, "subfolder": parts["unet"]}
        unet = UNet2DModel.from_pretrained(folder, sample_size=size, **options)
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder=parts["scheduler"])
    except Exception as error:  # diffusers, safetensors and json each fail in their own way
        why = f"{folder} is not a readable folder of an unconditional diffusers model ({reason(error)})"
        raise StudyError(f"{why}: correct unet.pretrained, or empty the cache") from None
    if size % 2 ** (len(unet.config.block_out_channels) - 1):
        raise StudyError(f"images of {size} px cannot pass the model in {folder}: choose another images.size")
    return train.to_device(unet, "auto", device).eval().requires_grad_(False), scheduler


def nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find for each image (N, R, R) uint8 the nearest of `others` (M, R, R), in any of the 8 orientations trained on.

    Returns:
        Row in `others` (N,) int64, and the root mean square difference of grey values (N,) float32.
    """
    turned = np.concatenate([np.rot90(images, turn, (1, 2))[:, :, ::flip] for turn in range(4) for flip in (1, -1)])
    flat, asked = (x.reshape(len(x), -1).astype(np.float32) for x in (others, turned))
    rows, distances = (found.reshape(8, -1) for found in pairwise_distances_argmin_min(asked, flat))
    best = distances.argmin(axis=0), np.arange(len(images))
    return rows[best], distances[best] / flat.shape[1] ** 0.5
