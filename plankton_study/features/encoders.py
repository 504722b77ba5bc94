"""The encoders: a frozen network, a frozen diffusion model, and plain pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA

from plankton_study.features.hooks import tapped
from plankton_study.features.interface import HEAD, Cell
from plankton_study.features.noise import add_noise
from plankton_study.features.taps import Tap, find_taps
from plankton_study.models.batches import MINUS_ONE_TO_ONE, to_input
from plankton_study.models.diffusion.pipeline import PlanktonPipeline
from plankton_study.models.networks.outputs import WithHead
from plankton_study.models.precision import autocast, resolved_precision, to_device
from plankton_study.models.pretrained import VisionModel
from plankton_study.models.recipe import training_cost
from plankton_study.run.cache import code_digest, digest
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import Features

#: modules whose code turns images and weights into features
SHAPED_BY = (
    "features.encoders",
    "features.hooks",
    "features.noise",
    "features.pooling",
    "features.taps",
    "models.batches",
    "models.diffusion.pipeline",
    "models.precision",
    "models.networks.efficientnet",
    "models.networks.outputs",
    "models.networks.unet",
)
#: images from which the principal components of the pixels are computed
MAX_IMAGES_FOR_PCA = 5_000

#: images (B, R, R) uint8 → the network's input
PrepareInput = Callable[[np.ndarray], torch.Tensor]


class NetworkEncoder:
    """A frozen network whose blocks are read in one forward pass.

    A network without timesteps has only the timestep None. A classifier's own logits are the
    cell `HEAD`.

    Args:
        name: as shown in tables.
        model: the network.
        size: side R of the images, px.
        settings: the keys of [features].
        prepare: turns images into the network's input.
        folder: its training folder, if it was trained here.
    """

    draws = 1  # noise draws over which features are averaged
    timesteps: Sequence[int | None] = (None,)
    patterns: tuple[str, ...] = ("*",)  # for tap names

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        size: int,
        settings: Features,
        prepare: PrepareInput,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.prepare = prepare
        self.folder = folder
        device = next(model.parameters()).device.type
        self.model = to_device(model, settings.precision, device).eval().requires_grad_(False)
        taps = self._find_taps(size)
        self.taps = {tap.name: tap for tap in taps}
        self.cells = [Cell(layer, timestep) for timestep in self.timesteps for layer in self.taps]
        self.layers = pd.DataFrame(taps, columns=Tap._fields).set_index("name")
        self.layers = self.layers.rename_axis("layer")
        network = getattr(model, "network", model)  # without a head
        self.cost = training_cost(folder) if folder else {}
        self.cost["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        self.identity = {
            "weights": _weights_digest(model),
            "size": size,
            "model": architecture(network),
            "pooling": settings.pooling,
            "precision": resolved_precision(settings.precision, device),
            "code": code_digest(SHAPED_BY),
        }

    def _find_taps(self, size: int) -> list[Tap]:
        blank = np.zeros((1, size, size), np.uint8)
        inputs = self.inputs(blank, [""], self.timesteps[0], draw=0)
        taps = find_taps(self.model, *inputs, patterns=self.patterns)
        if isinstance(self.model, WithHead):
            logits = self.model.head[-1].out_features
            taps.append(Tap(HEAD.layer, "head", "head", 1, logits, len(taps)))
        return taps

    @property
    def predeclared(self) -> Cell:
        """The last layer."""
        return [cell for cell in self.cells if cell != HEAD][-1]

    def inputs(
        self, images: np.ndarray, ids: list[str], timestep: int | None, draw: int
    ) -> tuple[Any, ...]:
        """Return the arguments of the network for images (B, R, R) uint8."""
        return (self.prepare(images),)

    def encode(
        self, images: np.ndarray, ids: list[str], cells: list[Cell]
    ) -> dict[Cell, np.ndarray]:
        """Return cell → (B, C) float32 for images (B, R, R) uint8."""
        features: dict[Cell, np.ndarray] = {}
        for timestep in dict.fromkeys(cell.timestep for cell in cells):
            layers = [cell.layer for cell in cells if cell.timestep == timestep]
            for layer, values in self._read(images, ids, layers, timestep).items():
                features[Cell(layer, timestep)] = values.cpu().numpy()
        return features

    def _read(
        self, images: np.ndarray, ids: list[str], layers: list[str], timestep: int | None
    ) -> dict[str, torch.Tensor]:
        """Return layer → features at one timestep, averaged over noise draws."""
        taps = [self.taps[layer] for layer in layers]
        total: dict[str, Any] = {}
        with tapped(self.model, taps, self.settings.pooling) as read:
            for draw in range(self.draws):
                inputs = self.inputs(images, ids, timestep, draw)
                with autocast(self.settings.precision, inputs[0].device.type):
                    for layer, values in read(*inputs).items():
                        total[layer] = total.get(layer, 0) + values / self.draws
        return total


class DiffusionEncoder(NetworkEncoder):
    """A frozen U-Net, read at taps and timesteps.

    Args:
        name: as shown in tables.
        denoiser: the U-Net with its noise schedule and its pixels.
        settings: provides taps, timesteps, pooling, noise mode and precision.
        seed: seed of the noise.
        folder: its training folder, if it was trained here.
    """

    def __init__(
        self,
        name: str,
        denoiser: PlanktonPipeline,
        settings: Features,
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.scheduler = denoiser.scheduler
        self.seed = seed
        self.timesteps = settings.timesteps
        self.patterns = settings.taps
        if settings.noise == "mean":
            self.draws = settings.noise_draws

        prepare = denoiser.to_model
        super().__init__(name, denoiser.unet, denoiser.size, settings, prepare, folder)
        self.identity |= {
            "schedule": architecture(denoiser.scheduler),
            "scale": list(denoiser.scale),
            "unshuffle": denoiser.unshuffle,
            "seed": seed,
            "noise": settings.noise,
            "draws": self.draws,
        }

    @property
    def predeclared(self) -> Cell:
        """The profile's `features.predeclared`.

        Raises:
            StudyError: it is not among the cells.
        """
        cells = {str(cell): cell for cell in self.cells}
        name = self.settings.predeclared
        if name not in cells:
            first = self.timesteps[0]
            raise StudyError(
                f"features.predeclared = {name!r} is not a cell of {self.name}; its cells are "
                f"{', '.join(str(cell) for cell in self.cells if cell.timestep == first)}, and the "
                "same layers at the other timesteps"
            )
        return cells[name]

    def inputs(
        self, images: np.ndarray, ids: list[str], timestep: int | None, draw: int
    ) -> tuple[Any, ...]:
        """Return noisy images (B, C, R, R) and their timestep."""
        noisy = add_noise(
            self.prepare(images),
            self.scheduler,
            timestep,
            self.settings.noise,
            ids,
            self.seed,
            draw,
        )
        return noisy, timestep


class PixelEncoder:
    """Grey values, raw and as principal components: a baseline without a network.

    Args:
        images: (N, R, R) uint8.
        rows: rows of the unlabelled training images, of which at most 5,000 are used.
        components: numbers of components, one cell for each.
        seed: seed of the image sample and of the randomised solver.
    """

    name = "pixels + PCA"

    def __init__(
        self, images: np.ndarray, rows: np.ndarray, components: tuple[int, ...], seed: int
    ) -> None:
        sample = np.sort(np.random.default_rng(seed).permutation(rows)[:MAX_IMAGES_FOR_PCA])
        pixels = images[sample].reshape(len(sample), -1)
        limit = min(max(components), *pixels.shape)
        self._pca = PCA(limit, svd_solver="randomized", random_state=seed)
        self._pca.fit(pixels.astype(np.float32))
        widths = [min(count, limit) for count in components]
        self._widths = {f"pixels.pca{width}": width for width in widths}
        self.cells = [*(Cell(layer) for layer in self._widths), Cell("pixels.raw")]
        self.predeclared = self.cells[-2]
        channels = [*self._widths.values(), pixels.shape[1]]
        self.layers = pd.DataFrame(
            {"stage": "pixels", "resolution": images.shape[1], "channels": channels, "order": 0},
            index=pd.Index([cell.layer for cell in self.cells], name="layer"),
        )
        self.identity = {
            "pixels": digest(pixels),
            "components": list(components),
            "seed": seed,
            "code": code_digest(SHAPED_BY),
        }
        self.folder = None
        self.cost = {"parameters": self._pca.components_.size, "images_seen": len(pixels)}

    def encode(
        self, images: np.ndarray, ids: list[str], cells: list[Cell]
    ) -> dict[Cell, np.ndarray]:
        """Return cell → (B, C) float32 for images (B, R, R) uint8."""
        pixels = images.reshape(len(images), -1).astype(np.float32)
        components = self._pca.transform(pixels).astype(np.float32)
        features = {}
        for cell in cells:
            if cell.layer == "pixels.raw":
                features[cell] = pixels
            else:
                features[cell] = components[:, : self._widths[cell.layer]]
        return features


def _weights_digest(model: torch.nn.Module) -> str:
    weights = model.state_dict().values()
    return digest(*(value.detach().cpu().float().numpy() for value in weights))


def architecture(model: Any) -> dict[str, Any]:
    """Return a model's configuration without private keys, which only hold paths and versions."""
    has_method = hasattr(model.config, "to_dict")
    config = model.config.to_dict() if has_method else dict(model.config)
    return {key: value for key, value in config.items() if not key.startswith("_")}


def enlarge_and_normalise(
    images: np.ndarray, vision: VisionModel, side: int, device: str
) -> torch.Tensor:
    """Return images (B, R, R) uint8 as the input (B, channels, side, side) of a vision model."""
    x = to_input(images, MINUS_ONE_TO_ONE, device) / 2 + 0.5  # [0, 1]
    x = torch.nn.functional.interpolate(
        x, (side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return (x - vision.mean.to(x.device)) / vision.std.to(x.device)
