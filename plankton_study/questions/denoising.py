"""Did the denoiser learn, did it only memorise, and which of its properties matter?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMPipeline, DDIMScheduler
from sklearn.metrics import pairwise_distances_argmin_min

from plankton_study.features.registry import diffusion_encoder
from plankton_study.images.splits import Splits
from plankton_study.models.pretrained import open_denoiser
from plankton_study.models.training import images_to_see, training_cost
from plankton_study.probes.metrics import METRICS
from plankton_study.probes.probe import best_ridge_score
from plankton_study.run.files import read_json
from plankton_study.run.schema import UNet
from plankton_study.run.study import Study

SAMPLING_STEPS = 50
SAMPLES = 16
UNSEEN_IMAGES = 64
ORIENTATIONS = 8


def learning_curve(folder: Path) -> pd.DataFrame | None:
    """Return the learning curve of a denoiser; None for a pretrained model."""
    file = folder / "curve.csv"
    return pd.read_csv(file) if file.exists() else None


def loss_by_level(folder: Path) -> pd.DataFrame | None:
    """Return the held-out loss by timestep; None for a pretrained model."""
    file = folder / "levels.csv"
    return pd.read_csv(file) if file.exists() else None


def draw_samples(study: Study, folder: Path, number: int = SAMPLES) -> np.ndarray:
    """Return samples of a denoiser, (number, R, R) uint8, drawn by DDIM (Song et al. 2021).

    Args:
        study: provides size, device and seed.
        folder: folder of the denoiser.
        number: number of samples.
    """
    unet, scheduler = open_denoiser(folder, study.profile.images.size, study.device)
    pipeline = DDIMPipeline(unet, DDIMScheduler.from_config(scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    steps = min(SAMPLING_STEPS, study.profile.noise.steps)
    generator = torch.Generator().manual_seed(study.seed)
    drawn = pipeline(number, generator, num_inference_steps=steps, output_type="np").images
    grey = drawn.mean(axis=3)
    return (grey * 255).round().astype(np.uint8)


def nearest_images(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest other image of each image, in any of the 8 orientations used in training.

    Args:
        images: (N, R, R) uint8.
        others: (M, R, R) uint8.

    Returns:
        Row in `others`, (N,) int64, and root mean square difference of grey values, (N,) float32.
    """
    orientations = []
    for turn in range(4):
        for flip in (1, -1):
            orientations.append(np.rot90(images, turn, (1, 2))[:, :, ::flip])
    turned = np.concatenate(orientations)
    flat = turned.reshape(len(turned), -1).astype(np.float32)
    flat_others = others.reshape(len(others), -1).astype(np.float32)
    rows, distances = pairwise_distances_argmin_min(flat, flat_others)
    rows = rows.reshape(ORIENTATIONS, -1)
    distances = distances.reshape(ORIENTATIONS, -1)
    best = distances.argmin(axis=0), np.arange(len(images))
    return rows[best], distances[best] / flat.shape[1] ** 0.5


def memorisation(splits: Splits, sample_distances: np.ndarray) -> dict[str, float]:
    """Compare how close samples and unseen images are to the training images.

    Args:
        splits: splits of the set that the denoiser was trained on.
        sample_distances: distances of the samples, from `nearest_images`.

    Returns:
        Median distance of "samples" and of "unseen images" (grey values, root mean square), and
        the share of "samples closer than any unseen image".
    """
    images = splits.collection.images
    unseen = np.random.default_rng(0).permutation(splits["validation"])[:UNSEEN_IMAGES]
    _, distances = nearest_images(images[unseen], images[splits["pool"]])
    return {
        "samples": float(np.median(sample_distances)),
        "unseen images": float(np.median(distances)),
        "samples closer than any unseen image": float((sample_distances < distances.min()).mean()),
    }


def denoiser_cost_table(study: Study, folders: dict[str, Path]) -> pd.DataFrame:
    """Return the size of each denoiser and the cost of its training.

    Args:
        study: provides the size of the images.
        folders: set → folder of its denoiser.

    Returns:
        Columns set, parameters, images seen, seconds and device.
    """
    lines = []
    for name, folder in folders.items():
        unet, _ = open_denoiser(folder, study.profile.images.size)
        cost = training_cost(folder)
        lines.append(
            {
                "set": name,
                "parameters": sum(parameter.numel() for parameter in unet.parameters()),
                "images seen": int(cost["images_seen"]) if cost else "pretrained",
                "seconds": round(cost["seconds"]) if cost else None,
                "device": read_json(folder / "origin.json")["device"] if cost else None,
            }
        )
    return pd.DataFrame(lines)


def ablation_table(study: Study, splits: Splits) -> pd.DataFrame:
    """Train the denoisers of the profile's [ablation]; evaluate each by ridge on validation images.

    Returns:
        One row for each denoiser, the main one first; columns denoiser, different images, images
        seen, parameters, held-out loss, and the score (%) with the name of the profile's metric.
        No rows if the profile has no ablation.
    """
    columns = [
        "denoiser",
        "different images",
        "images seen",
        "parameters",
        "held-out loss",
        f"{METRICS[study.profile.probes.metric]} (%)",
    ]
    ablation = study.profile.ablation
    variants: list[tuple[str, dict[str, Any], float]] = []
    variants += [(label, changes, 1.0) for label, changes in ablation.unet.items()]
    variants += [(f"{share:.0%} of the images", {}, share) for share in ablation.pool]
    if variants:
        variants.insert(0, ("as in the study", {}, 1.0))
    lines = [_ablation_line(study, splits, *variant) for variant in variants]
    return pd.DataFrame(lines, columns=columns)


def _ablation_line(
    study: Study, splits: Splits, label: str, unet_changes: dict[str, Any], pool_share: float
) -> dict[str, Any]:
    variant = _with_changed_unet(study, splits, unet_changes)
    smaller = _with_smaller_pool(splits, pool_share)
    encoder = diffusion_encoder(variant, smaller)
    score = best_ridge_score(variant, smaller, encoder)
    curve = pd.read_csv(encoder.folder / "curve.csv")
    return {
        "denoiser": label,
        "different images": len(smaller["pool"]),
        "images seen": images_to_see(variant, smaller),
        "parameters": int(encoder.cost["parameters"]),
        "held-out loss": float(curve["held_out"].iloc[-1]),
        f"{METRICS[study.profile.probes.metric]} (%)": score,
    }


def _with_changed_unet(study: Study, splits: Splits, changes: dict[str, Any]) -> Study:
    """Return the study with another U-Net, and with the ablation's number of images seen."""
    name = splits.collection.name
    images_seen = study.profile.ablation.images_seen or images_to_see(study, splits)
    config = study.profile.sets[name].model_copy(update={"images_seen": images_seen})
    unet = UNet(**(study.profile.unet.model_dump() | changes))
    profile = study.profile.model_copy(update={"sets": {name: config}, "unet": unet})
    return replace(study, profile=profile)


def _with_smaller_pool(splits: Splits, share: float) -> Splits:
    """Return the splits with a random share of the unlabelled training images."""
    shuffled = np.random.default_rng(0).permutation(splits["pool"])
    smaller_pool = np.sort(shuffled[: round(share * len(shuffled))])
    return replace(splits, parts={**splits.parts, "pool": smaller_pool})
