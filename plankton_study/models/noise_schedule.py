"""The noise schedule: how much noise each timestep adds."""

from diffusers import DDPMScheduler

from plankton_study.run.schema import Noise


def build_scheduler(config: Noise) -> DDPMScheduler:
    """Return the noise schedule of the profile; samples are clipped to [-1, 1]."""
    return DDPMScheduler(
        config.steps, beta_schedule=config.schedule, prediction_type=config.prediction
    )
