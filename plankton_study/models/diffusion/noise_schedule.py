"""The noise schedule: how much noise each timestep adds."""

import numpy as np
import torch
from diffusers import DDPMScheduler

from plankton_study.run.schema import Noise

#: share of the signal (alpha bar) that the last timestep keeps; the first one loses as much
LAST_SIGNAL = 1e-4
#: a beta of 1 would erase the image, and could not be inverted
MAX_BETA = 0.999


def build_scheduler(config: Noise) -> DDPMScheduler:
    """Return the noise schedule of the profile.

    With the schedule "linear_signal", the share of the signal's variance (alpha bar) falls
    linearly with the timestep (Chen et al. 2024, "Deconstructing denoising diffusion models").
    Samples are not clipped, since standardised pixels have no fixed range.
    """
    common = {"prediction_type": config.prediction, "clip_sample": False}
    if config.schedule == "linear_signal":
        betas = _betas_of(np.linspace(1 - LAST_SIGNAL, LAST_SIGNAL, config.steps))
        return DDPMScheduler(config.steps, trained_betas=betas.tolist(), **common)
    return DDPMScheduler(config.steps, beta_schedule=config.schedule, **common)


def _betas_of(alpha_bar: np.ndarray) -> np.ndarray:
    """Return the betas of a schedule, (steps,), from the share of signal at each timestep."""
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    return (1 - alpha_bar / before).clip(max=MAX_BETA)


def spread_timesteps(steps: int, number: int) -> list[int]:
    """Return timesteps that are spread evenly: the middles of equal parts of a schedule.

    Args:
        steps: length of the schedule.
        number: how many.
    """
    middles = (np.arange(number) + 0.5) / number
    return (middles * steps).astype(int).tolist()


def loss_over_clean_error(scheduler: DDPMScheduler) -> torch.Tensor:
    """Return how many times larger the loss is than the squared error of the clean image.

    Every prediction of a denoiser is also one of the clean image (Salimans & Ho 2022, table 1).

    Returns:
        (steps,) float32, one number for each timestep.
    """
    alpha_bar = scheduler.alphas_cumprod
    signal_to_noise = alpha_bar / (1 - alpha_bar)
    if scheduler.config.prediction_type == "sample":
        return torch.ones_like(alpha_bar)
    if scheduler.config.prediction_type == "epsilon":
        return signal_to_noise
    return signal_to_noise + 1
