"""The networks that the denoiser is compared with, trained on the same images in the same loop."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from plankton_study.images.splits import Splits
from plankton_study.models import objectives, recipe
from plankton_study.models.batches import PixelScale
from plankton_study.models.diffusion import denoiser
from plankton_study.models.networks.outputs import WithHead
from plankton_study.models.networks.resnet import build_resnet
from plankton_study.models.networks.unet import DownPath
from plankton_study.models.networks.vit import build_mae, build_vit
from plankton_study.models.pretrained import open_denoiser
from plankton_study.models.recipe import Recipe
from plankton_study.models.training import StepLoss
from plankton_study.run.cache import digest
from plankton_study.run.errors import StudyError
from plankton_study.run.machine import processes
from plankton_study.run.schema import EncoderConfig
from plankton_study.run.study import Study

#: modules whose code turns images, and labels, into a trained network
SHAPED_BY = (
    *recipe.SHAPED_BY,
    "models.rivals",
    "models.objectives",
    "models.diffusion.denoiser",
    "models.diffusion.noise_schedule",
    "models.diffusion.pipeline",
    "models.pretrained",
    "models.networks.outputs",
    "models.networks.resnet",
    "models.networks.unet",
    "models.networks.vit",
)


class Rival:
    """One network of the profile's `encoders`: how it is built, trained and read.

    Supervised networks are trained on the labelled images of a setting and keep their classifier
    as a head. The others are trained on the unlabelled pool.

    Args:
        study, splits: the images it is trained on.
        name: a key of `encoders`.
        setting: "natural" or "balanced".
    """

    def __init__(self, study: Study, splits: Splits, name: str, setting: str) -> None:
        self.study = study
        self.splits = splits
        self.name = name
        self.config: EncoderConfig = study.profile.encoders[name]
        self.is_supervised = self.config.kind == "labels"
        self.rows = splits[self._part(setting)]
        self.codes = self._class_codes()
        self.start = self._denoiser_to_start_from()
        self.scale = self._pixel_scale()

    def initial(self) -> torch.nn.Module:
        """Return the network with its initial weights, in the form that features are read from."""
        return self._reading(self._build())

    def trained(self, budget: str) -> tuple[torch.nn.Module, Path]:
        """Return the trained network, in the form that features are read from, and its folder.

        Args:
            budget: "images" (as many as the denoiser sees) or "flops" (as many images as the FLOPs
                of the denoiser's training allow).
        """
        images_seen = recipe.images_to_see(self.study, self.splits)
        if budget == "flops":
            images_seen = round(images_seen * self._images_for_one_of_denoiser())
        folder = recipe.train(self.study, self.recipe(), images_seen)
        model = self.initial()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model, folder

    def recipe(self) -> Recipe:
        """Return how the network is trained."""
        validation = self.splits["validation"]
        if self.is_supervised:
            validation = validation[self.codes[validation] >= 0]
        data = recipe.training_images(self.splits, self.rows, validation, self.scale)
        replaced = {"batch_size", "learning_rate", "weight_decay"}
        return Recipe(
            stage="encoder",
            inputs=recipe.training_inputs(self.study, self.splits, data) | self._own_inputs(),
            shaped_by=SHAPED_BY,
            data=data,
            label=f"training {self.name} on {self.splits.collection.name}",
            build=self._build,
            make_loss=self._loss,
            save=self._save,
            changes=self.config.model_dump(include=replaced, exclude_none=True),
        )

    def _part(self, setting: str) -> str:
        if not self.is_supervised:
            return "pool"
        return "balanced" if setting == "balanced" else "train"

    def _class_codes(self) -> np.ndarray:
        """Return the class of every image of the collection, (N,) int64; -1 for other taxa.

        Classes are numbered in alphabetical order. Without labels the array is empty.
        """
        if not self.is_supervised:
            return np.zeros(0, np.int64)
        classes = np.unique(self.splits.taxa(self.rows).astype(str))
        every_row = np.arange(len(self.splits.collection))
        taxa = self.splits.taxa(every_row).astype(str)
        nearest = np.searchsorted(classes, taxa).clip(max=len(classes) - 1)
        return np.where(classes[nearest] == taxa, nearest, -1)

    def _denoiser_to_start_from(self) -> Path | None:
        if self.config.start != "denoiser":
            return None
        return denoiser.trained_denoiser(self.study, self.splits)

    def _pixel_scale(self) -> PixelScale:
        """Return what standardises its pixels: the same as for the denoiser."""
        scale = recipe.pixel_scale(self.study, self.splits)
        if self.config.network == "unet" and self.study.profile.unet.pretrained:
            return denoiser.initial_denoiser(self.study, scale).scale
        return scale

    def _images_for_one_of_denoiser(self) -> float:
        """Return how many images cost as many FLOPs as one image costs the denoiser."""
        denoiser_folder = denoiser.trained_denoiser(self.study, self.splits)
        denoiser_flops = recipe.training_cost(denoiser_folder).get("flops")
        if denoiser_flops is None:
            raise StudyError(
                "the denoiser was not trained here, so its FLOPs are unknown: "
                "set equal_flops = false"
            )
        _, own_folder = self.trained("images")
        return denoiser_flops / recipe.training_cost(own_folder)["flops"]

    def _own_inputs(self) -> dict[str, Any]:
        """Return what determines the training in addition to `recipe.training_inputs`."""
        network = "vit" if self.config.kind == "mae" else self.config.network
        return {
            "codes": digest(self.codes),
            "start": denoiser.denoiser_digest(self.start) if self.start else "",
            "encoder": self.config.model_dump(exclude={"equal_flops"}),
            "network": getattr(self.study.profile, network).model_dump(),
        }

    def _save(self, model: torch.nn.Module, folder: Path) -> None:
        weights = self._reading(model.cpu()).state_dict()
        contiguous = {key: value.contiguous() for key, value in weights.items()}
        save_file(contiguous, folder / "model.safetensors")

    def _loss(self) -> StepLoss:
        if processes().count > 1:
            # batch statistics and contrastive pairs would cover only a part of the batch
            raise StudyError(
                f"{self.name} trains in one process only: "
                "run its notebook without `accelerate launch`"
            )
        size = self.study.profile.images.size
        if self.config.kind == "labels":
            return objectives.classification_loss(self.config, size, self.codes)
        if self.config.kind == "mae":
            return objectives.masked_patch_loss(self.config, size)
        return objectives.contrastive_loss(self.config, size)

    def _build(self) -> torch.nn.Module:
        """Return the untrained network with the head or decoder that only training needs."""
        profile = self.study.profile
        torch.manual_seed(self.study.seed)
        if self.config.kind == "mae":
            return build_mae(profile.vit, profile.images.size, self.config.mask)
        network, width = self._build_network()
        if self.is_supervised:
            return WithHead(network, width, outputs=int(self.codes.max()) + 1)
        projection = self.config.projection
        return WithHead(network, width, outputs=projection, hidden=projection)

    def _build_network(self) -> tuple[torch.nn.Module, int]:
        """Return a network without a head, and the number of channels of its last map."""
        profile = self.study.profile
        if self.config.network == "resnet":
            return build_resnet(profile.resnet), profile.resnet.widths[-1]
        if self.config.network == "vit":
            return build_vit(profile.vit, profile.images.size), profile.vit.width
        if self.start:
            pipeline = open_denoiser(self.start, profile.images.size)
        else:
            pipeline = denoiser.initial_denoiser(self.study, self.scale)
        down_path = DownPath(pipeline.unet, pipeline.unshuffle).requires_grad_(True)
        return down_path, pipeline.unet.config.block_out_channels[-1]

    def _reading(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the part that features are read from: without projector, decoder or masking."""
        if not isinstance(model, WithHead):
            vit = build_vit(self.study.profile.vit, self.study.profile.images.size)
            vit.load_state_dict(model.vit.state_dict())
            return vit
        return model if self.is_supervised else model.network
