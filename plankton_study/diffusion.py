"""The denoiser: a diffusers UNet2DModel and DDPMScheduler, trained without labels, kept as a diffusers folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from plankton_study import train
from plankton_study.profile import Noise, StudyError, UNet, reason
from plankton_study.splits import Splits
from plankton_study.store import keep
from plankton_study.study import Study

HELD_OUT = 256  # validation images of the learning curve and of the loss per noise level


def build_unet(config: UNet, size: int, seed: int) -> UNet2DModel:
    """Return an untrained U-Net of the profile.

    Args:
        config: widths, blocks, attention; without `time_conditioning` the time embedding is zero and stays zero,
            so that the saved folder needs no special handling.
        size: side of the images, px.
        seed: of the initial weights.
    """
    torch.manual_seed(seed)
    levels = len(config.channels)
    attends = [size // 2**level in config.attention for level in range(levels)]
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


def build_scheduler(config: Noise) -> DDPMScheduler:
    """Return the noise schedule of the profile; samples are clipped to [-1, 1]."""
    return DDPMScheduler(config.steps, beta_schedule=config.schedule, prediction_type=config.prediction)


def denoising_loss(
    unet: torch.nn.Module, scheduler: DDPMScheduler, x: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return the squared error of the denoiser for each image (Ho et al. 2020, eq. 14).

    Args:
        x: clean images (B, 1, R, R) in [-1, 1].
        noise: standard normal, the same shape.
        timesteps: (B,) int64.

    Returns:
        (B,) float32: mean over the pixels, in the units of what the network predicts.
    """
    predicted = unet(scheduler.add_noise(x, noise, timesteps), timesteps).sample
    kind = scheduler.config.prediction_type
    target = noise if kind == "epsilon" else x if kind == "sample" else scheduler.get_velocity(x, noise, timesteps)
    return (predicted.float() - target).pow(2).mean(dim=(1, 2, 3))


def denoiser(study: Study, splits: Splits) -> Path:
    """Return the diffusers folder of the trained (or given) denoiser of one set, training it on the first call.

    Beside the model it holds curve.csv (the learning curve) and levels.csv (held-out loss per timestep).
    """
    profile = study.profile
    if profile.unet.pretrained:
        return _given(study)
    images_seen = profile.sets[splits.collection.name].images_seen or profile.training.images_seen
    what = {
        "images": splits.collection.digest,
        "pool": splits["pool"],
        "validation": splits["validation"][:HELD_OUT],
        "unet": profile.unet.model_dump(),
        "noise": profile.noise.model_dump(),
        "training": profile.training.model_dump(exclude={"checkpoint_seconds", "seeds", "images_seen"}),
        "images_seen": images_seen,
        "size": profile.images.size,
        "seed": study.seed,
    }
    what |= {key: what[key].tolist() for key in ("pool", "validation")}
    return keep(
        study, "denoiser", what, ["train", "diffusion"], lambda to: _train(study, splits, images_seen, to), resume=True
    )


def _train(study: Study, splits: Splits, images_seen: int, folder: Path) -> None:
    profile = study.profile
    unet = build_unet(profile.unet, profile.images.size, study.seed)
    scheduler = build_scheduler(profile.noise)
    images = splits.collection.images
    some = np.random.default_rng(0).permutation(splits["validation"])[:HELD_OUT]
    held_out = train.to_model(images[np.sort(some)], study.device)

    def step_loss(
        model: torch.nn.Module, x: torch.Tensor, rows: np.ndarray, generator: torch.Generator
    ) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        timesteps = torch.randint(profile.noise.steps, (len(x),), generator=generator).to(x.device)
        return denoising_loss(model, scheduler, x, noise, timesteps).mean()

    def check(model: torch.nn.Module) -> float:
        return loss_per_level(model, scheduler, held_out, profile.training.precision, 10)["loss"].mean()

    name = f"training the denoiser on {splits.collection.name} (steps of {profile.training.batch_size} images)"
    curve = train.fit(study, folder, unet, step_loss, images, splits["pool"], images_seen, name, check)
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    levels = loss_per_level(unet, scheduler, held_out, profile.training.precision, 20)
    levels.to_csv(folder / "levels.csv", index=False)
    DDPMPipeline(unet.cpu(), scheduler).save_pretrained(folder)


@torch.no_grad()
def loss_per_level(
    unet: torch.nn.Module, scheduler: DDPMScheduler, x: torch.Tensor, precision: str, levels: int
) -> pd.DataFrame:
    """Return the loss at evenly spread timesteps, with the same noise at each of them.

    Args:
        x: clean images (B, 1, R, R) in [-1, 1], never trained on.
        precision: a precision key of the profile.
        levels: number of timesteps, each in the middle of its part of the schedule.

    Returns:
        Columns timestep, loss, standard_error, signal_to_noise (power ratio).
    """
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
    steps = scheduler.config.num_train_timesteps
    rows = []
    for level in range(levels):
        t = int((level + 0.5) * steps / levels)
        with train.autocast(precision, x.device.type):
            parts = [
                denoising_loss(unet, scheduler, a, b, torch.full((len(a),), t, device=x.device))
                for a, b in zip(x.split(32), noise.split(32), strict=True)
            ]
        losses = torch.cat(parts).float()
        kept = scheduler.alphas_cumprod[t].item()
        spread = losses.std().item() / len(losses) ** 0.5
        rows.append((t, losses.mean().item(), spread, kept / (1 - kept)))
    return pd.DataFrame(rows, columns=["timestep", "loss", "standard_error", "signal_to_noise"])


def _given(study: Study) -> Path:
    """Return the folder of a denoiser made elsewhere: a local diffusers folder, or a snapshot from the Hub."""
    name = study.profile.unet.pretrained
    if Path(name).is_dir():
        return Path(name)
    if not study.profile.hub:
        raise StudyError(
            f"unet.pretrained = {name!r} is no folder here: correct the path, or set hub = true if it is a Hub id"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # a dozen kinds of network and access errors
        raise StudyError(
            f"{name} could not be had from the Hub ({reason(error)}): check the id and the network"
        ) from None


def load(folder: Path, size: int, device: str = "cpu") -> tuple[UNet2DModel, DDPMScheduler]:
    """Open a diffusers folder of an unconditional pixel-space model for reading features.

    Raises:
        StudyError: no such folder, a truncated file, another architecture, or a size the model cannot read.
    """
    try:
        options = {"use_safetensors": True, "low_cpu_mem_usage": False}
        unet = UNet2DModel.from_pretrained(folder, subfolder="unet", **options)
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    except Exception as error:  # diffusers, safetensors and json each fail in their own way
        why = f"{folder} is not a readable folder of an unconditional diffusers model ({reason(error)})"
        raise StudyError(f"{why}: correct unet.pretrained, or empty the cache") from None
    if size % 2 ** (len(unet.config.block_out_channels) - 1):
        raise StudyError(f"images of {size} px cannot pass the model in {folder}: choose another images.size")
    unet.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return unet, scheduler


@torch.no_grad()
def samples(study: Study, folder: Path, number: int, steps: int = 50) -> np.ndarray:
    """Draw images from the denoiser with DDIM (Song et al. 2021), seeded by the study.

    Returns:
        (number, R, R) uint8.
    """
    unet, scheduler = load(folder, study.profile.images.size, study.device)
    fast = DDIMScheduler.from_config(scheduler.config)
    fast.set_timesteps(steps)
    generator = torch.Generator().manual_seed(study.seed)
    shape = (number, unet.config.in_channels, study.profile.images.size, study.profile.images.size)
    done: list[Any] = []
    for x in torch.randn(shape, generator=generator).to(study.device).split(32):
        for t in fast.timesteps:
            with train.autocast(study.profile.training.precision, study.device):
                predicted = unet(x, t).sample
            x = fast.step(predicted.float(), t, x).prev_sample
        done.append(((x.mean(dim=1) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy())
    return np.concatenate(done)


def nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find for each image the most similar one of `others`, in any of the 8 orientations trained on.

    Args:
        images: (N, R, R) uint8.
        others: (M, R, R) uint8.

    Returns:
        Row in `others` (N,) int64, and the root mean square difference of grey values (N,) float32.
    """
    flat = torch.from_numpy(np.ascontiguousarray(others)).flatten(1).float()
    squares = flat.pow(2).sum(1)
    best = torch.full((len(images),), torch.inf)
    where = torch.zeros(len(images), dtype=torch.int64)
    for kind in range(8):
        turned = np.rot90(images, kind % 4, (1, 2))
        turned = turned[:, :, ::-1] if kind >= 4 else turned
        x = torch.from_numpy(np.ascontiguousarray(turned)).flatten(1).float()
        distance, row = (squares - 2 * x @ flat.T).min(dim=1)
        distance += x.pow(2).sum(1)
        where = torch.where(distance < best, row, where)
        best = torch.minimum(best, distance)
    return where.numpy(), (best.clamp_min(0) / flat.shape[1]).sqrt().numpy()
