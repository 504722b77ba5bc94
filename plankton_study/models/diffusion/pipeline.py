"""The denoiser with all that its images need: a pipeline from grey values to grey values."""

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.pipelines import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor

from plankton_study.models.batches import MINUS_ONE_TO_ONE, PixelScale, to_input
from plankton_study.models.networks.unet import from_unet, to_unet


class PlanktonPipeline(DiffusionPipeline):
    """A U-Net, its noise schedule, and the way between grey values and its input.

    Its folder is that of an ordinary diffusers pipeline. `model_index.json` also holds the mean
    and the standard deviation of the pixels, and the side of the squares of pixels that are
    unshuffled to channels.

    Args:
        unet: the denoiser.
        scheduler: its noise schedule.
        mean, std: see `PixelScale`.
        unshuffle: see `to_unet`.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDPMScheduler,
        mean: float = MINUS_ONE_TO_ONE.mean,
        std: float = MINUS_ONE_TO_ONE.std,
        unshuffle: int = 1,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(mean=mean, std=std, unshuffle=unshuffle)

    @property
    def scale(self) -> PixelScale:
        """What standardises the pixels."""
        return PixelScale(self.config.mean, self.config.std)

    @property
    def unshuffle(self) -> int:
        """The side of the squares of pixels that become the channels of one position."""
        return self.config.unshuffle

    @property
    def size(self) -> int:
        """The side of the images, px."""
        return self.unet.config.sample_size * self.unshuffle

    def to_model(self, images: np.ndarray) -> torch.Tensor:
        """Return images (B, R, R) uint8 as the input of the U-Net, on its device."""
        x = to_input(images, self.scale, self.unet.device)
        return to_unet(x, self.unet.config.in_channels, self.unshuffle)

    def to_grey(self, x: torch.Tensor) -> np.ndarray:
        """Return outputs of the U-Net as images (B, R, R) uint8; the inverse of `to_model`."""
        pixels = from_unet(x, self.unshuffle).float().cpu().numpy()
        grey = pixels * self.config.std + self.config.mean
        return grey.round().clip(0, 255).astype(np.uint8)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | None = None,
        num_inference_steps: int = 50,
    ) -> np.ndarray:
        """Draw images by DDIM (Song et al. 2021).

        Args:
            batch_size: number of images.
            generator: source of the noise.
            num_inference_steps: number of denoising steps.

        Returns:
            (batch_size, R, R) uint8.
        """
        # trailing: the first step is the last timestep, which is noise (Lin et al. 2024)
        sampler = DDIMScheduler.from_config(self.scheduler.config, timestep_spacing="trailing")
        sampler.set_timesteps(num_inference_steps)
        config = self.unet.config
        shape = (batch_size, config.in_channels, config.sample_size, config.sample_size)
        x = randn_tensor(shape, generator=generator, device=self.unet.device)
        for timestep in self.progress_bar(sampler.timesteps):
            predicted = self.unet(x, timestep).sample
            x = sampler.step(predicted, timestep, x).prev_sample
        return self.to_grey(x)
