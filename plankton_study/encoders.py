"""Everything that turns images into cells of features, behind one interface (`features.Encoder`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler, UNet2DModel
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from plankton_study import diffusion, features, train
from plankton_study.features import Cell, Tap
from plankton_study.profile import Features, StudyError
from plankton_study.splits import Splits
from plankton_study.store import digest
from plankton_study.study import Study


class DiffusionEncoder:
    """A frozen U-Net read at taps and timesteps: all taps of a timestep in one pass, which ends at the deepest.

    `settings` gives taps, pooling, noise mode and precision; `size` is the images' side (px), `seed` that of the noise.
    """

    def __init__(
        self,
        name: str,
        unet: UNet2DModel,
        scheduler: DDPMScheduler,
        size: int,
        settings: Features,
        timesteps: Sequence[int],
        seed: int,
    ) -> None:
        self.name, self.unet, self.scheduler, self.settings, self.seed = name, unet, scheduler, settings, seed
        self.taps = {tap.name: tap for tap in features.find_taps(unet, size, settings.taps)}
        self.cells = [Cell(tap, t) for t in timesteps for tap in self.taps]
        self.layers = pd.DataFrame(self.taps.values(), columns=Tap._fields).set_index("name").rename_axis("layer")
        keys = ("pooling", "noise", "noise_draws", "precision")
        weights = digest(*(v.detach().cpu().float().numpy() for v in unet.state_dict().values()))
        self.identity = {"weights": weights, "unet": dict(unet.config), "schedule": dict(scheduler.config)}
        self.identity |= {"seed": seed, "size": size}
        self.identity |= {key: getattr(settings, key) for key in keys}

    def encode(self, images: np.ndarray, ids: list[str], cells: list[Cell]) -> dict[Cell, np.ndarray]:
        """Return cell → (B, C) float32 for images (B, R, R) uint8."""
        x = train.to_model(images, self.unet.device).expand(-1, self.unet.config.in_channels, -1, -1)
        draws = self.settings.noise_draws if self.settings.noise == "mean" else 1
        found: dict[Cell, Any] = {}
        for timestep in dict.fromkeys(cell.timestep for cell in cells):
            taps = [self.taps[cell.layer] for cell in cells if cell.timestep == timestep]
            with features.Tapped(self.unet, taps, self.settings.pooling) as read:
                for draw in range(draws):
                    noisy = features.noised(x, self.scheduler, timestep, self.settings.noise, ids, self.seed, draw)
                    with train.autocast(self.settings.precision, x.device.type):
                        for layer, value in read(noisy, timestep).items():
                            cell = Cell(layer, timestep)
                            found[cell] = found.get(cell, 0) + value / draws
        return {cell: value.cpu().numpy() for cell, value in found.items()}


class PixelEncoder:
    """Grey values, raw and as principal components: what is there before any network.

    Of the unlabelled training `images` (N, R, R) uint8 at most 5,000 are used; each number of `components` is a cell;
    `seed` is that of the choice of images and of the randomised solver.
    """

    name = "pixels + PCA"

    def __init__(self, images: np.ndarray, components: Sequence[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        some = images[np.sort(rng.permutation(len(images))[:5000])].reshape(-1, images.shape[1] * images.shape[2])
        most = min(max(components), *some.shape)
        self._pca = PCA(most, svd_solver="randomized", random_state=seed).fit(some.astype(np.float32))
        self._widths = {f"pixels.pca{min(n, most)}": min(n, most) for n in components}
        self.cells = [*(Cell(name) for name in self._widths), Cell("pixels.raw")]
        widths = [*self._widths.values(), some.shape[1]]
        self.layers = pd.DataFrame({"stage": "pixels", "resolution": images.shape[1], "channels": widths, "order": 0})
        self.layers.index = pd.Index([cell.layer for cell in self.cells], name="layer")
        self.identity = {"pixels": digest(some), "components": list(components), "seed": seed}

    def encode(self, images: np.ndarray, ids: list[str], cells: list[Cell]) -> dict[Cell, np.ndarray]:
        """Return cell → (B, C) float32 for images (B, R, R) uint8."""
        flat = images.reshape(len(images), -1).astype(np.float32)
        projected = self._pca.transform(flat).astype(np.float32)
        return {c: flat if c.layer == "pixels.raw" else projected[:, : self._widths[c.layer]] for c in cells}


def trained_unet(study: Study, splits: Splits, settings: Features | None = None) -> DiffusionEncoder:
    """Return the denoiser of a set as an encoder; `settings` may replace the profile's."""
    settings = settings or study.profile.features
    size = study.profile.images.size
    unet, scheduler = diffusion.load(diffusion.denoiser(study, splits), size, study.device)
    return DiffusionEncoder("diffusion", unet, scheduler, size, settings, settings.timesteps, study.seed)


def random_unet(study: Study, splits: Splits) -> DiffusionEncoder:
    """Return the same U-Net with its initial weights: what the architecture alone gives."""
    size, settings = study.profile.images.size, study.profile.features
    unet, scheduler = diffusion.load(diffusion.denoiser(study, splits), size)
    if study.profile.unet.pretrained:
        torch.manual_seed(study.seed)
        unet = UNet2DModel.from_config(unet.config)
    else:
        unet = diffusion.build_unet(study.profile.unet, size, study.seed)
    unet.to(study.device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return DiffusionEncoder("random U-Net", unet, scheduler, size, settings, settings.random_timesteps, study.seed)


def pixels(study: Study, splits: Splits) -> PixelEncoder:
    """Return the pixel baseline, fitted on the unlabelled pool of a set."""
    return PixelEncoder(splits.collection.images[splits["pool"]], study.profile.features.pca, study.seed)


ENCODERS = {"diffusion": trained_unet, "random U-Net": random_unet, "pixels + PCA": pixels}


class DiffusionFeatures(TransformerMixin, BaseEstimator):
    """scikit-learn transformer from images to the features of one cell of a denoiser.

    Holds settings only: it clones and pickles without weights, which are read from the folder when needed.

    Args:
        folder: a diffusers folder of an unconditional model.
        layer, timestep: a tap's name, such as "up16.resnet0" (of a pattern the last match), and the noise level.
        pooling, noise: "mean", "mean_std" or "grid"; "clean", "shared" or "mean", with `seed`.
        batch_size, device: images a pass; a torch device.
    """

    def __init__(
        self,
        folder: str | Path,
        layer: str = "mid*",
        timestep: int = 50,
        pooling: str = "mean_std",
        noise: str = "shared",
        seed: int = 0,
        batch_size: int = 32,
        device: str = "cpu",
    ) -> None:
        self.folder, self.layer, self.timestep, self.pooling = folder, layer, timestep, pooling
        self.noise, self.seed, self.batch_size, self.device = noise, seed, batch_size, device

    def fit(self, X: np.ndarray, y: Any = None) -> "DiffusionFeatures":
        """Check images (N, R, R) uint8 and the folder; nothing is learnt."""
        if self.noise == "by_image":
            raise StudyError('noise = "by_image" needs the images\' ids, which an array does not hold: use "shared"')
        self.size_ = self._checked(X).shape[1]
        self.n_features_out_ = self._encode(X[:1]).shape[1]
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return (N, C) float32 for images (N, R, R) uint8."""
        check_is_fitted(self, "size_")
        return self._encode(self._checked(X))

    def _encode(self, images: np.ndarray) -> np.ndarray:
        unet, scheduler = diffusion.load(Path(self.folder), self.size_, self.device)
        settings = Features(taps=(self.layer,), pooling=self.pooling, noise=self.noise, precision="float32")
        encoder = DiffusionEncoder("diffusion", unet, scheduler, self.size_, settings, [self.timestep], self.seed)
        batches = [images[i : i + self.batch_size] for i in range(0, len(images), self.batch_size)]
        return np.concatenate([encoder.encode(b, [""] * len(b), encoder.cells)[encoder.cells[-1]] for b in batches])

    @staticmethod
    def _checked(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1] != images.shape[2]:
            raise StudyError(f"images must be a uint8 array (N, R, R), not {images.dtype} {images.shape}")
        return images
