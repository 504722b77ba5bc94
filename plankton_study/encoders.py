"""Everything that turns images into cells of features, behind one interface (`features.Encoder`)."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler, UNet2DModel
from sklearn.decomposition import PCA

from plankton_study import baselines, diffusion, features, networks, train
from plankton_study.features import Cell, Encoder, Tap
from plankton_study.profile import StudyError, reason
from plankton_study.schema import Features
from plankton_study.splits import Splits
from plankton_study.store import digest
from plankton_study.study import Study

Look = Callable[[np.ndarray], torch.Tensor]
ENCODERS: dict[str, Callable[[Study, Splits], Encoder]] = {}  # encoders of one's own: name → function that makes it


def make(study: Study, splits: Splits, name: str, setting: str = "natural", budget: str = "images") -> Encoder:
    """Return an encoder of the profile, or of `ENCODERS`, trained on the first call.

    Args:
        name: a key of the profile's `encoders` or of `ENCODERS`.
        setting: "natural" or "balanced": whose labelled images a supervised encoder learns from.
        budget: "images" (as many seen as the denoiser), "flops" (as many as its training FLOPs allow), or "none" (its
            initial weights). Encoders of one's own are what they are.

    Raises:
        StudyError: there is no such encoder, or the model it needs cannot be had.
    """
    known = study.profile.encoders
    if name in ENCODERS:
        return ENCODERS[name](study, splits)
    if name not in known:
        raise StudyError(f"there is no encoder {name!r}, only {', '.join([*known, *ENCODERS])}")
    kind = known[name].kind
    if kind == "pixels":
        return PixelEncoder(splits.collection.images, splits["pool"], study.profile.features.pca, study.seed)
    if kind in ("diffusion", "random"):
        made = denoiser(study, splits, random=kind == "random")
        made.predeclared  # noqa: B018 - says so at once if it has no such cell
        return made
    if kind == "pretrained":
        return pretrained(study, name)
    model, folder = baselines.trained(study, splits, name, setting, budget)
    look = partial(train.to_model, device=study.device)
    return NetworkEncoder(name, model.to(study.device), study.profile.images.size, study.profile.features, look, folder)


def unavailable(study: Study, name: str) -> str:
    """Say why an encoder of the profile cannot be had on this machine; "" if it can."""
    config = study.profile.encoders.get(name)
    if config is not None and config.kind == "pretrained":
        try:
            pretrained(study, name)
        except StudyError as error:
            return str(error)
    return ""


def pretrained(study: Study, name: str) -> Encoder:
    """Return a model from elsewhere as an encoder: a diffusers pipeline, or a vision model of transformers.

    Images are enlarged to the side it was trained with (or the profile's `input_size`) and normalised as it expects.

    Raises:
        StudyError: there is no such model, or its folder cannot be read.
    """
    config, settings, size = study.profile.encoders[name], study.profile.features, study.profile.images.size
    folder = diffusion.model_folder(study, config.folder)
    if any((folder / part).is_file() for part in ("model_index.json", "scheduler_config.json")):
        unet, scheduler = diffusion.load(folder, size, study.device)
        return DiffusionEncoder(name, unet, scheduler, settings, study.seed)
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        expects = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = (torch.tensor(expects[key]).view(1, -1, 1, 1) for key in ("image_mean", "image_std"))
    except Exception as error:  # transformers, safetensors and json each fail in their own way
        why = f"{folder} is not a readable folder of a transformers vision model ({reason(error)})"
        raise StudyError(f"{why}: correct encoders.{name}.folder in the profile") from None
    model = getattr(model, "vision_model", model).to(study.device)
    side = config.input_size or getattr(model.config, "image_size", 224)

    def look(images: np.ndarray) -> torch.Tensor:
        x = train.to_model(images, study.device) / 2 + 0.5  # [0, 1]
        x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
        return (x - mean.to(x.device)) / std.to(x.device)

    try:
        encoder = NetworkEncoder(name, model, size, settings, look)
    except ValueError as error:
        raise StudyError(f"{name} cannot read images of {side} px ({reason(error)}): set its input_size") from None
    encoder.identity |= {"side": side, "mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    return encoder


class NetworkEncoder:
    """A frozen network read at its blocks: all taps of a timestep in one pass, which ends at the deepest.

    `look` turns images (B, R, R) uint8 into the network's input; `size` is R; `folder` that of its training, if any.
    A network without timesteps has only None. A classifier's own logits are the cell "head".
    """

    draws = 1  # of noise, whose features are averaged
    timesteps: Sequence[int | None] = (None,)
    patterns = ("*",)  # choose taps

    def __init__(
        self, name: str, model: torch.nn.Module, size: int, settings: Features, look: Look, folder: Path | None = None
    ) -> None:
        self.name, self.settings, self.look, self.folder = name, settings, look, folder
        device = next(model.parameters()).device.type
        self.model = train.to_device(model, settings.precision, device).eval().requires_grad_(False)
        network = getattr(model, "network", model)
        self.cost = train.cost(folder) if folder else {}
        self.cost["parameters"] = sum(p.numel() for p in network.parameters())
        blank = np.zeros((1, size, size), np.uint8)
        taps = features.find_taps(model, *self.inputs(blank, [""], self.timesteps[0], 0), patterns=self.patterns)
        if isinstance(model, networks.WithHead):
            taps.append(Tap("head", "head", "head", 1, model.head[-1].out_features, len(taps)))
        self.taps = {tap.name: tap for tap in taps}
        self.cells = [Cell(tap, t) for t in self.timesteps for tap in self.taps]
        self.layers = pd.DataFrame(taps, columns=Tap._fields).set_index("name").rename_axis("layer")
        weights = digest(*(value.detach().cpu().float().numpy() for value in model.state_dict().values()))
        self.identity = {"weights": weights, "size": size, "model": _config(network)}
        self.identity |= {key: getattr(settings, key) for key in ("pooling", "precision")}

    @property
    def predeclared(self) -> Cell:
        """The last layer."""
        return [cell for cell in self.cells if cell.layer != "head"][-1]

    def inputs(self, images: np.ndarray, ids: list[str], timestep: int | None, draw: int) -> tuple[Any, ...]:
        """Return what the network is called with for images (B, R, R) uint8."""
        return (self.look(images),)

    def encode(self, images: np.ndarray, ids: list[str], cells: list[Cell]) -> dict[Cell, np.ndarray]:
        """Return cell → (B, C) float32 for images (B, R, R) uint8."""
        found: dict[Cell, Any] = {}
        for timestep in dict.fromkeys(cell.timestep for cell in cells):
            taps = [self.taps[cell.layer] for cell in cells if cell.timestep == timestep]
            with features.tapped(self.model, taps, self.settings.pooling) as read:
                for draw in range(self.draws):
                    inputs = self.inputs(images, ids, timestep, draw)
                    with train.autocast(self.settings.precision, inputs[0].device.type):
                        for layer, value in read(*inputs).items():
                            cell = Cell(layer, timestep)
                            found[cell] = found.get(cell, 0) + value / self.draws
        return {cell: value.cpu().numpy() for cell, value in found.items()}


class DiffusionEncoder(NetworkEncoder):
    """A frozen U-Net read at taps and timesteps.

    `settings` gives taps, timesteps, pooling, noise mode and precision; `seed` is that of the noise. Images have the
    side `unet.config.sample_size`.
    """

    def __init__(
        self, name: str, unet: UNet2DModel, scheduler: DDPMScheduler, settings: Features, seed: int = 0, **given: Any
    ) -> None:
        self.scheduler, self.seed, self.timesteps, self.patterns = scheduler, seed, settings.timesteps, settings.taps
        self.draws = settings.noise_draws if settings.noise == "mean" else 1
        look = partial(train.to_model, device=unet.device)
        super().__init__(name, unet, unet.config.sample_size, settings, look, **given)
        self.identity |= {"schedule": _config(scheduler), "seed": seed, "noise": settings.noise, "draws": self.draws}

    @property
    def predeclared(self) -> Cell:
        """The profile's `features.predeclared`; StudyError if that is not among the cells."""
        known = {str(cell): cell for cell in self.cells}
        if self.settings.predeclared not in known:
            raise StudyError(f"features.predeclared = {self.settings.predeclared!r} is none of {', '.join(known)}")
        return known[self.settings.predeclared]

    def inputs(self, images: np.ndarray, ids: list[str], timestep: int, draw: int) -> tuple[torch.Tensor, int]:
        """Return images (B, C, R, R) at a noise level, and that level."""
        x = self.look(images).expand(-1, self.model.config.in_channels, -1, -1)
        return features.noised(x, self.scheduler, timestep, self.settings.noise, ids, self.seed, draw), timestep


class PixelEncoder:
    """Grey values, raw and as principal components: what is there before any network.

    Of the unlabelled training `rows` of `images` (N, R, R) uint8 at most 5,000 are used; each number of `components` is
    a cell; `seed` is that of the choice of images and of the randomised solver.
    """

    name = "pixels + PCA"

    def __init__(self, images: np.ndarray, rows: np.ndarray, components: Sequence[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        some = images[rows[np.sort(rng.permutation(len(rows))[:5000])]].reshape(-1, images.shape[1] * images.shape[2])
        most = min(max(components), *some.shape)
        self._pca = PCA(most, svd_solver="randomized", random_state=seed).fit(some.astype(np.float32))
        self._widths = {f"pixels.pca{min(n, most)}": min(n, most) for n in components}
        self.cells = [*(Cell(name) for name in self._widths), Cell("pixels.raw")]
        self.predeclared = self.cells[-2]
        widths = [*self._widths.values(), some.shape[1]]
        self.layers = pd.DataFrame({"stage": "pixels", "resolution": images.shape[1], "channels": widths, "order": 0})
        self.layers.index = pd.Index([cell.layer for cell in self.cells], name="layer")
        self.identity = {"pixels": digest(some), "components": list(components), "seed": seed}
        self.folder, self.cost = None, {"parameters": self._pca.components_.size, "images_seen": len(some)}

    def encode(self, images: np.ndarray, ids: list[str], cells: list[Cell]) -> dict[Cell, np.ndarray]:
        """Return cell → (B, C) float32 for images (B, R, R) uint8."""
        flat = images.reshape(len(images), -1).astype(np.float32)
        projected = self._pca.transform(flat).astype(np.float32)
        return {c: flat if c.layer == "pixels.raw" else projected[:, : self._widths[c.layer]] for c in cells}


def _config(model: Any) -> dict[str, Any]:
    """Return the architecture; keys such as _name_or_path say where it lay, not what it is."""
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else dict(model.config)
    return {key: value for key, value in config.items() if not key.startswith("_")}


def denoiser(study: Study, splits: Splits, settings: Features | None = None, random: bool = False) -> DiffusionEncoder:
    """Return the denoiser of a set as an encoder; with `random` the same U-Net with its initial weights.

    `settings` may replace the profile's features.
    """
    settings, folder = settings or study.profile.features, diffusion.denoiser(study, splits)
    unet, scheduler = diffusion.load(folder, study.profile.images.size, study.device)
    if not random:
        trained = None if study.profile.unet.pretrained else folder
        return DiffusionEncoder("diffusion", unet, scheduler, settings, study.seed, folder=trained)
    unet = diffusion.untrained(study).to(study.device)
    settings = settings.model_copy(update={"timesteps": settings.random_timesteps})
    return DiffusionEncoder("random U-Net", unet, scheduler, settings, study.seed)
