"""Recipes: what is trained, on which images and how. A recipe gives a network for every budget."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plankton_study.images.splits import Splits
from plankton_study.models.batches import MINUS_ONE_TO_ONE, PixelScale, measure_scale
from plankton_study.models.precision import resolved_precision
from plankton_study.models.training import (
    STATE,
    StepLoss,
    Trainer,
    TrainingImages,
    choose_held_out,
    number_of_steps,
    steps_before_cooldown,
)
from plankton_study.run.cache import digest, keep
from plankton_study.run.files import read_json
from plankton_study.run.machine import processes
from plankton_study.run.study import Study

#: modules whose code turns images and a loss into trained weights
SHAPED_BY = ("models.recipe", "models.training", "models.batches", "models.precision")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training except the number of images seen.

    Attributes:
        stage: folder of the cache for the trained networks.
        inputs: JSON values that determine the training, for the cache key.
        shaped_by: modules whose code turns these inputs into a trained network.
        data: the images.
        label: text of the progress display.
        build: returns the untrained network.
        make_loss: returns the loss of a batch.
        save: writes the trained network to a folder.
        changes: keys of `profile.training` that differ.
    """

    stage: str
    inputs: dict[str, Any]
    shaped_by: tuple[str, ...]
    data: TrainingImages
    label: str
    build: Callable[[], torch.nn.Module]
    make_loss: Callable[[], StepLoss]
    save: Callable[[torch.nn.Module, Path], None]
    changes: dict[str, Any] = field(default_factory=dict)


def train(study: Study, recipe: Recipe, images_seen: int) -> Path:
    """Return the folder of the network that a recipe gives; the first call trains it.

    It starts from the latest state that it shares with the budgets of the profile's
    `curve.images_seen`. The result is the same as in one go.
    """

    def make(folder: Path) -> None:
        steps = _steps(study, recipe, images_seen)
        cooldown_start = steps_before_cooldown(steps, study.profile.training.cooldown)
        trainer = _trainer(study, recipe, folder, images_seen, cooldown_start)
        trainer.run()
        if processes().is_first:
            recipe.save(trainer.model, folder)

    inputs = recipe.inputs | {"images_seen": images_seen}
    return keep(study, recipe.stage, inputs, recipe.shaped_by, make, resume=True)


def _state_after(study: Study, recipe: Recipe, steps: int) -> Path:
    """Return the file of a training's state after some steps at the constant rate."""
    images_seen = steps * _batch_size(study, recipe)

    def make(folder: Path) -> None:
        _trainer(study, recipe, folder, images_seen, steps - 1, has_cooldown=False).run()

    inputs = recipe.inputs | {"steps at the constant rate": steps}
    return keep(study, "state", inputs, recipe.shaped_by, make, resume=True) / STATE


def _trainer(
    study: Study,
    recipe: Recipe,
    folder: Path,
    images_seen: int,
    latest_start: int,
    has_cooldown: bool = True,
) -> Trainer:
    """Return a trainer that starts from the latest state that other budgets share with it.

    Args:
        study, recipe, folder, images_seen, has_cooldown: see `Trainer`.
        latest_start: the last step at which it may start.
    """
    shared = [step for step in _shared_steps(study, recipe) if step <= latest_start]
    start = _state_after(study, recipe, shared[-1]) if shared else None
    return Trainer(
        study,
        folder,
        recipe.build(),
        recipe.make_loss(),
        recipe.data,
        images_seen,
        recipe.label,
        recipe.changes,
        has_cooldown,
        start,
    )


def _shared_steps(study: Study, recipe: Recipe) -> list[int]:
    """Return the steps at which the budgets of the curve begin their cooldown, ascending."""
    cooldown = study.profile.training.cooldown
    all_steps = [_steps(study, recipe, budget) for budget in study.profile.curve.images_seen]
    return sorted({steps_before_cooldown(steps, cooldown) for steps in all_steps})


def _steps(study: Study, recipe: Recipe, images_seen: int) -> int:
    return number_of_steps(images_seen, _batch_size(study, recipe))


def _batch_size(study: Study, recipe: Recipe) -> int:
    return recipe.changes.get("batch_size", study.profile.training.batch_size)


# --- what all recipes of a set share


def images_to_see(study: Study, splits: Splits) -> int:
    """Return the number of images that every network sees when trained on a set."""
    config = study.profile.sets[splits.collection.name]
    return config.images_seen or study.profile.training.images_seen


def with_images_seen(study: Study, splits: Splits, images_seen: int) -> Study:
    """Return the study with another budget for the networks of a set."""
    name, profile = splits.collection.name, study.profile
    config = profile.sets[name].model_copy(update={"images_seen": images_seen})
    sets = profile.sets | {name: config}
    return replace(study, profile=profile.model_copy(update={"sets": sets}))


def pixel_scale(study: Study, splits: Splits) -> PixelScale:
    """Return what standardises the pixels of a set, measured on its unlabelled training images."""
    if not study.profile.training.standardise:
        return MINUS_ONE_TO_ONE
    return measure_scale(splits.collection.images, splits["pool"])


def training_images(
    splits: Splits, rows: np.ndarray, validation: np.ndarray, scale: PixelScale
) -> TrainingImages:
    """Return the images of a training.

    Args:
        splits: splits of the set.
        rows: rows to train on.
        validation: rows from which those of the learning curve are taken.
        scale: what standardises the pixels.
    """
    held_out = choose_held_out(validation)
    return TrainingImages(splits.collection.images, rows, held_out, scale)


def training_inputs(study: Study, splits: Splits, data: TrainingImages) -> dict[str, Any]:
    """Return what determines a training besides network, loss and budget, for the cache key."""
    settings = study.profile.training.model_dump(exclude={"checkpoint_seconds", "images_seen"})
    # on another machine, "auto" may mean another precision, which gives other weights
    settings["precision"] = resolved_precision(settings["precision"], study.device)
    return {
        "images": splits.collection.digest,
        "rows": digest(data.rows),
        "held out": digest(data.held_out),
        "scale": list(data.scale),
        "training": settings,
        "size": study.profile.images.size,
        "seed": study.seed,
    }


def training_cost(folder: Path) -> dict[str, float]:
    """Return the cost that `Trainer` wrote to a folder; empty for models not trained here."""
    path = folder / "cost.json"
    return read_json(path) if path.is_file() else {}
