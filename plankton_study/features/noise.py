"""Adding noise to clean images, reproducibly."""

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
    """Add the noise of a timestep to clean images (B, C, R, R).

    Args:
        x: the images, in [-1, 1].
        scheduler: the noise schedule.
        timestep: the noise level; 0 is the clean end.
        mode: "clean" adds no noise, so only the timestep changes; "shared" and "mean" add the same
            tensor to all images, a new one for each `draw`; "by_image" seeds the noise with each
            image's id, so that it does not depend on batch or order.
        ids: ids of the images; used by "by_image".
        seed, draw: seeds of the noise.

    Returns:
        (B, C, R, R) float32, on the device of `x`.
    """
    if mode == "clean":
        return x
    if mode == "by_image":
        seeds = [[seed, draw, _number_of(image_id)] for image_id in ids]
    else:
        seeds = [[seed, draw]]
    samples = [_standard_normal(entropy, x.shape[1:]) for entropy in seeds]
    noise = torch.from_numpy(np.stack(samples)).to(x.device).expand_as(x)
    alpha_bar = scheduler.alphas_cumprod[timestep].item()
    return alpha_bar**0.5 * x + (1 - alpha_bar) ** 0.5 * noise


def _number_of(image_id: str) -> int:
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")


def _standard_normal(seeds: list[int], shape: torch.Size) -> np.ndarray:
    return np.random.default_rng(seeds).standard_normal(shape, dtype=np.float32)
