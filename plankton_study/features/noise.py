"""Bringing clean images to a noise level, under control."""

import hashlib

import numpy as np
import torch
from diffusers import DDPMScheduler


def add_noise(
    x: torch.Tensor,
    scheduler: DDPMScheduler,
    timestep: int,
    mode: str,
    ids: list[str],
    seed: int,
    draw: int = 0,
) -> torch.Tensor:
    """Bring clean images (B, C, R, R) to the noise level of a timestep.

    Args:
        x: the images, in [-1, 1].
        scheduler: the noise schedule.
        timestep: 0 is the clean end.
        mode: "clean" adds nothing, so the network is only told the timestep; "shared" and "mean"
            add one tensor to all images, another one for each `draw`; "by_image" draws from each
            image's id, whatever batch or order it comes in.
        ids: of the images; used by "by_image".
        seed, draw: of the noise.
    """
    if mode == "clean":
        return x
    if mode == "by_image":
        seeds = [[seed, draw, _number_of(image_id)] for image_id in ids]
    else:
        seeds = [[seed, draw]]
    samples = [_standard_normal(entropy, x.shape[1:]) for entropy in seeds]
    noise = torch.from_numpy(np.stack(samples)).to(x.device).expand_as(x)
    kept = scheduler.alphas_cumprod[timestep].item()
    return kept**0.5 * x + (1 - kept) ** 0.5 * noise


def _number_of(image_id: str) -> int:
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")


def _standard_normal(seeds: list[int], shape: torch.Size) -> np.ndarray:
    return np.random.default_rng(seeds).standard_normal(shape, dtype=np.float32)
