"""Unknown taxa: scores of how little an image looks like the known taxa."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from plankton_study.images.splits import Splits
from plankton_study.models.diffusion.denoiser import losses_at, trained_denoiser
from plankton_study.models.diffusion.noise_schedule import spread_timesteps
from plankton_study.models.pretrained import open_denoiser
from plankton_study.probes import intervals
from plankton_study.probes.result import ProbeResult
from plankton_study.probes.selection import probed_parts
from plankton_study.questions.compare import ProbeResults
from plankton_study.questions.shift.shifted_parts import predict_elsewhere
from plankton_study.run.study import Study

#: the parts whose images are scored
SCORED_PARTS = ("validation", "test", "novel")
#: share of known validation images below the threshold
ACCEPTED_SHARE = 0.95
NEIGHBOURS = 5
#: bootstrap draws of the AUROC; fewer than elsewhere, since each sorts all images
MAX_DRAWS = 200
DENOISING_LEVELS = 5
IMAGES_IN_MEMORY = 1024

#: score → part → (n,) values; larger ones are more novel
Scores = dict[str, dict[str, np.ndarray]]


def novelty_scores(
    train_features: np.ndarray, codes: np.ndarray, features: np.ndarray, probabilities: np.ndarray
) -> dict[str, np.ndarray]:
    """Score how little images look like the known taxa; larger values are more novel.

    Args:
        train_features: (n, C) standardised, of training images.
        codes: (n,) their classes.
        features: (m, C) of the images to score.
        probabilities: (m, K) their class probabilities.

    Returns:
        Score → (m,): "maximum softmax", 1 - largest probability; "k-NN distance", the mean
        distance to the nearest training images; and "Mahalanobis", the squared distance to the
        nearest class mean, with one shrunk covariance for all classes (Lee et al. 2018).
    """
    neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train_features)))
    distances, _ = neighbours.fit(train_features).kneighbors(features)
    return {
        "maximum softmax": 1 - probabilities.max(axis=1),
        "k-NN distance": distances.mean(axis=1),
        "Mahalanobis": _mahalanobis(train_features, codes, features),
    }


def _mahalanobis(train_features: np.ndarray, codes: np.ndarray, features: np.ndarray) -> np.ndarray:
    means = np.array([train_features[codes == code].mean(axis=0) for code in np.unique(codes)])
    within = train_features - means[codes]
    precision = LedoitWolf(assume_centered=True).fit(within).precision_
    whitening = np.linalg.cholesky(precision)  # makes Mahalanobis distances Euclidean
    nearest_mean = NearestNeighbors(n_neighbors=1).fit(means @ whitening)
    distance, _ = nearest_mean.kneighbors(features @ whitening)
    return distance[:, 0] ** 2


def denoising_error(
    study: Study, splits: Splits, rows: np.ndarray, levels: int = DENOISING_LEVELS
) -> np.ndarray:
    """Return the denoiser's error on images, (n,), averaged over evenly spread timesteps."""
    folder = trained_denoiser(study, splits)
    denoiser = open_denoiser(folder, study.profile.images.size, study.device)
    images = splits.collection.images
    shape = denoiser.to_model(images[:1]).shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(study.seed))
    timesteps = spread_timesteps(denoiser.scheduler.config.num_train_timesteps, levels)
    precision = study.profile.features.precision
    errors = []
    for part in np.split(rows, range(IMAGES_IN_MEMORY, len(rows), IMAGES_IN_MEMORY)):
        losses = losses_at(denoiser, images[part], noise, timesteps, precision)
        errors.append(losses.mean(axis=1).to_numpy())
    return np.concatenate(errors)


def scores_of_encoder(study: Study, splits: Splits, result: ProbeResult) -> Scores:
    """Return the novelty scores by an encoder's features, for validation, test and novel images."""
    train = probed_parts(splits, "natural")["train"]
    codes = np.unique(splits.taxa(train).astype(str), return_inverse=True)[1]
    parts = {
        "train": train,
        "validation": result.rows["validation"],
        "test": result.rows["test"],
        "novel": splits["novel"],
    }
    on_parts, banks = predict_elsewhere(study, splits, result, splits, parts)
    features = {part: on_parts.features(banks[part], rows).whole() for part, rows in parts.items()}
    scored = np.concatenate([features[part] for part in SCORED_PARTS])
    probabilities = np.concatenate([on_parts.heads["linear"][part] for part in SCORED_PARTS])
    ends = np.cumsum([len(parts[part]) for part in SCORED_PARTS])[:-1]
    scores: Scores = {}
    for name, values in novelty_scores(features["train"], codes, scored, probabilities).items():
        scores[name] = dict(zip(SCORED_PARTS, np.split(values, ends), strict=True))
    return scores


def scores_of_denoiser(study: Study, splits: Splits, result: ProbeResult) -> Scores:
    """Return the denoiser's error as a novelty score, for validation, test and novel images."""
    rows = {"validation": result.rows["validation"], "test": result.rows["test"]}
    rows["novel"] = splits["novel"]
    errors = {part: denoising_error(study, splits, index) for part, index in rows.items()}
    return {"denoising error": errors}


def novelty_table(study: Study, sets: dict[str, tuple[Splits, ProbeResults]]) -> pd.DataFrame:
    """Return how well novel taxa are detected.

    Args:
        study: provides the number of bootstrap draws.
        sets: name → splits with novel taxa, and the results of all encoders.

    Returns:
        One row for each set, encoder and score; columns set, encoder, score, AUROC (%) and
        unknowns that pass (%): the share of unknown images below the threshold that 95 % of the
        known validation images pass.
    """
    lines: list[dict[str, Any]] = []
    for name, (splits, results) in sets.items():
        for encoder, result in results.items():
            scores = scores_of_encoder(study, splits, result)
            if encoder == "diffusion":
                scores |= scores_of_denoiser(study, splits, result)
            for score, parts in scores.items():
                line = {"set": name, "encoder": encoder, "score": score}
                lines.append(line | _judge_score(study, splits, result, parts))
    columns = ["set", "encoder", "score", "AUROC (%)", "unknowns that pass (%)"]
    return pd.DataFrame(lines, columns=columns)


def _judge_score(
    study: Study, splits: Splits, result: ProbeResult, scores: dict[str, np.ndarray]
) -> dict[str, Any]:
    test, novel = scores["test"], scores["novel"]
    is_novel = np.repeat([0, 1], [len(test), len(novel)])
    values = np.append(test, novel)
    units = intervals.units_of(splits, np.append(result.rows["test"], splits["novel"]))
    draws = min(study.profile.probes.draws, MAX_DRAWS)
    weights = intervals.draw_weights(units, draws)
    areas = [roc_auc_score(is_novel, values, sample_weight=weight) for weight in weights]
    threshold = np.quantile(scores["validation"], ACCEPTED_SHARE)
    passes = (values <= threshold) & (is_novel == 1)
    rates = (weights @ passes) / (weights @ is_novel)
    return {
        "AUROC (%)": intervals.percentiles(np.array(areas), len(novel)),
        "unknowns that pass (%)": intervals.percentiles(rates, len(novel)),
    }
