"""Did the denoiser learn, did it only memorise, and which of its properties matter?"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import pairwise_distances_argmin_min

from plankton_study.features.registry import diffusion_encoder
from plankton_study.images.splits import Splits
from plankton_study.models.batches import ORIENTATIONS, turned
from plankton_study.models.diffusion.denoiser import denoiser_digest, losses_at
from plankton_study.models.diffusion.linear_filter import LinearFilter
from plankton_study.models.diffusion.noise_schedule import loss_over_clean_error
from plankton_study.models.precision import resolved_precision
from plankton_study.models.pretrained import open_denoiser
from plankton_study.models.recipe import images_to_see, training_cost
from plankton_study.models.training import choose_held_out
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.metrics import METRICS
from plankton_study.probes.probe import best_lda_score
from plankton_study.questions.training.variants import DenoisedSet, with_changes
from plankton_study.run.cache import computed, digest
from plankton_study.run.files import read_json
from plankton_study.run.schema import DenoiserChanges
from plankton_study.run.study import Study

#: modules whose code turns images and a denoiser into the comparison with the linear filter
FILTER_SHAPED_BY = (
    "questions.training.denoising",
    "models.diffusion.denoiser",
    "models.diffusion.linear_filter",
    "models.diffusion.noise_schedule",
    "models.diffusion.pipeline",
    "models.batches",
    "models.precision",
    "models.pretrained",
    "models.networks.unet",
)
#: noise levels of this comparison, and the shares of the schedule between which they are spread
LEVELS = 10
ENDS_OF_LEVELS = (0.005, 0.975)
RATIO_DRAWS = 1000
#: column of the ablation
OVER_FILTER = "worst error over the linear filter's"
SAMPLING_STEPS = 50
SAMPLES = 16
UNSEEN_IMAGES = 64


def learning_curve(folder: Path) -> pd.DataFrame | None:
    """Return the learning curve of a denoiser; None for a pretrained model."""
    file = folder / "curve.csv"
    return pd.read_csv(file) if file.exists() else None


def compare_with_linear_filter(study: Study, splits: Splits, folder: Path) -> pd.DataFrame:
    """Compare a denoiser's error at ten noise levels with that of a linear filter.

    Both get the same noisy images, which neither was fitted to. The error is that of the clean
    image, the mean square over standardised pixels.

    Args:
        study: provides the device and the precision.
        splits: the images on which both were trained.
        folder: folder of the denoiser.

    Returns:
        Columns timestep, denoiser and linear filter (the errors), and ratio, an `Estimate` whose
        interval comes from a bootstrap over images.
    """
    images, pool = splits.collection.images, splits["pool"]
    held_out = choose_held_out(splits["validation"])
    inputs = {
        "images": splits.collection.digest,
        "pool": digest(pool),
        "held out": digest(held_out),
        "denoiser": denoiser_digest(folder),
        "precision": resolved_precision(study.profile.features.precision, study.device),
    }

    compute = partial(_errors_of_both, study, images, pool, images[held_out], folder)
    errors = computed(study, "linear_filter", inputs, FILTER_SHAPED_BY, compute)
    return pd.DataFrame(
        {
            "timestep": errors["timesteps"],
            "denoiser": errors["denoiser"].mean(axis=1),
            "linear filter": errors["linear filter"].mean(axis=1),
            "ratio": list(map(_ratio, errors["denoiser"], errors["linear filter"])),
        }
    )


def largest_ratio(tables: Iterable[pd.DataFrame]) -> Estimate:
    """Return the largest ratio in some tables of `compare_with_linear_filter`."""
    ratios = [ratio for table in tables for ratio in table["ratio"]]
    return max(ratios, key=attrgetter("value"))


def _errors_of_both(
    study: Study, images: np.ndarray, pool: np.ndarray, held_out: np.ndarray, folder: Path
) -> dict[str, np.ndarray]:
    """Return the timesteps, and the errors of denoiser and linear filter (timesteps, images).

    Args:
        study: provides the device and the precision.
        images: (N, R, R) uint8, of the whole collection.
        pool: rows that the filter is fitted to.
        held_out: (n, R, R) uint8, the images to denoise.
        folder: folder of the denoiser.
    """
    denoiser = open_denoiser(folder, study.profile.images.size, study.device)
    steps = denoiser.scheduler.config.num_train_timesteps
    timesteps = [int(share * steps) for share in np.linspace(*ENDS_OF_LEVELS, LEVELS)]
    shape = denoiser.to_model(held_out).shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    precision = study.profile.features.precision
    losses = losses_at(denoiser, held_out, noise, timesteps, precision)

    linear = LinearFilter(images, pool, denoiser.scale)
    clean = linear.standardised(held_out)
    pixel_noise = torch.nn.functional.pixel_shuffle(noise, denoiser.unshuffle)[:, 0]
    pixel_noise = pixel_noise.flatten(1).numpy()
    over_clean_error = loss_over_clean_error(denoiser.scheduler)
    of_denoiser, of_filter = [], []
    for timestep in timesteps:
        alpha_bar = denoiser.scheduler.alphas_cumprod[timestep].item()
        noisy = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * pixel_noise
        of_filter.append(((linear.denoise(noisy, alpha_bar) - clean) ** 2).mean(axis=1))
        of_denoiser.append(losses[timestep].to_numpy() / over_clean_error[timestep].item())
    return {
        "timesteps": np.array(timesteps),
        "denoiser": np.array(of_denoiser),
        "linear filter": np.array(of_filter),
    }


def _ratio(errors: np.ndarray, others: np.ndarray) -> Estimate:
    """Return the ratio of two mean errors on the same images."""
    images = len(errors)
    drawn = np.random.default_rng(0).integers(images, size=(RATIO_DRAWS, images))
    ratios = errors[drawn].mean(axis=1) / others[drawn].mean(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Estimate(float(errors.mean() / others.mean()), float(low), float(high), images)


def draw_samples(study: Study, folder: Path, number: int = SAMPLES) -> np.ndarray:
    """Return samples of a denoiser, (number, R, R) uint8, drawn by DDIM (Song et al. 2021).

    Args:
        study: provides size, device and seed.
        folder: folder of the denoiser.
        number: number of samples.
    """
    pipeline = open_denoiser(folder, study.profile.images.size, study.device)
    pipeline.set_progress_bar_config(disable=True)
    steps = min(SAMPLING_STEPS, study.profile.noise.steps)
    generator = torch.Generator().manual_seed(study.seed)
    return pipeline(number, generator, steps)


def nearest_images(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest other image of each image, in any of the 8 orientations used in training.

    Args:
        images: (N, R, R) uint8.
        others: (M, R, R) uint8.

    Returns:
        Row in `others`, (N,) int64, and root mean square difference of grey values, (N,) float32.
    """
    upright = torch.from_numpy(images)
    in_all = torch.cat([turned(upright, orientation) for orientation in range(ORIENTATIONS)])
    flat = in_all.flatten(1).float().numpy()
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


def denoiser_cost_table(sets: dict[str, DenoisedSet], folders: dict[str, Path]) -> pd.DataFrame:
    """Return the size of each denoiser and the cost of its training.

    Args:
        sets: title → images that a denoiser was trained on.
        folders: title → folder of that denoiser.

    Returns:
        Columns set, parameters, images seen, seconds and device.
    """
    lines = []
    for name, folder in folders.items():
        unet = open_denoiser(folder, sets[name].study.profile.images.size).unet
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
    """Train the denoisers of the profile's [ablation]; evaluate each by LDA on validation images.

    Returns:
        One row for each denoiser, the main one first; columns denoiser, different images, images
        seen, parameters, the largest error over that of the linear filter, and the score (%) with
        the name of the profile's metric.
        No rows if the profile has no ablation.
    """
    columns = [
        "denoiser",
        "different images",
        "images seen",
        "parameters",
        OVER_FILTER,
        f"{METRICS[study.profile.probes.metric]} (%)",
    ]
    ablation = study.profile.ablation
    unchanged = DenoiserChanges()
    variants: list[tuple[str, DenoiserChanges, float]] = []
    variants += [(label, changes, 1.0) for label, changes in ablation.denoisers.items()]
    variants += [(f"{share:.0%} of the images", unchanged, share) for share in ablation.pool]
    if variants:
        variants.insert(0, ("as in the study", unchanged, 1.0))
    lines = [_ablation_line(study, splits, *variant) for variant in variants]
    return pd.DataFrame(lines, columns=columns)


def _ablation_line(
    study: Study, splits: Splits, label: str, changes: DenoiserChanges, pool_share: float
) -> dict[str, Any]:
    images_seen = study.profile.ablation.images_seen
    variant = with_changes(study, splits, changes, images_seen)
    smaller = _with_smaller_pool(splits, pool_share)
    encoder = diffusion_encoder(variant, smaller)
    score = best_lda_score(variant, smaller, encoder)
    errors = compare_with_linear_filter(variant, smaller, encoder.folder)
    return {
        "denoiser": label,
        "different images": len(smaller["pool"]),
        "images seen": images_to_see(variant, smaller),
        "parameters": int(encoder.cost["parameters"]),
        OVER_FILTER: largest_ratio([errors]),
        f"{METRICS[study.profile.probes.metric]} (%)": score,
    }


def _with_smaller_pool(splits: Splits, share: float) -> Splits:
    """Return the splits with a random share of the unlabelled training images."""
    shuffled = np.random.default_rng(0).permutation(splits["pool"])
    smaller_pool = np.sort(shuffled[: round(share * len(shuffled))])
    return replace(splits, parts={**splits.parts, "pool": smaller_pool})
