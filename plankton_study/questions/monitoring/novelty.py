"""Unknown taxa: scores of how little an image looks like the known taxa."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from plankton_study.images.splits import Splits
from plankton_study.models.diffusion.denoiser import losses_at, trained_denoiser
from plankton_study.models.diffusion.noise_schedule import spread_timesteps
from plankton_study.models.pretrained import open_denoiser
from plankton_study.probes import intervals
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.linear.scaling import ScaledFeatures
from plankton_study.probes.result import ProbeResult
from plankton_study.probes.selection import probed_parts
from plankton_study.questions.compare import ProbeResults
from plankton_study.questions.shift.shifted_parts import predict_elsewhere
from plankton_study.run.study import Study

#: the scores by an encoder's features
SCORES_OF_FEATURES = ("maximum softmax", "k-NN distance", "Mahalanobis")
#: share of known validation images below the threshold
ACCEPTED_SHARE = 0.95
NEIGHBOURS = 5
#: of more features the principal components are used: a covariance takes their number cubed
MOST_FEATURES, COMPONENTS = 1_024, 256
#: bootstrap draws of the AUROC; fewer than elsewhere, since each sorts all images
MAX_DRAWS = 200
DENOISING_LEVELS = 5
IMAGES_IN_MEMORY = 1024

#: score → part → (n,) values; larger ones are more novel
Scores = dict[str, dict[str, np.ndarray]]


class NoveltyScorer:
    """Scores how little images look like the known taxa; larger values are more novel.

    Args:
        features: (n, C) standardised, of training images.
        codes: (n,) their classes.
    """

    def __init__(self, features: np.ndarray, codes: np.ndarray) -> None:
        self._components = _few_components(features)
        features = self._projected(features)
        neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features)))
        self._neighbours = neighbours.fit(features)
        means = np.array([features[codes == code].mean(axis=0) for code in np.unique(codes)])
        within = features - means[codes]
        precision = LedoitWolf(assume_centered=True).fit(within).precision_
        self._whitening = np.linalg.cholesky(precision)  # makes Mahalanobis distances Euclidean
        self._nearest_mean = NearestNeighbors(n_neighbors=1).fit(means @ self._whitening)

    def _projected(self, features: np.ndarray) -> np.ndarray:
        return features if self._components is None else self._components.transform(features)

    def scores(self, features: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores of some images.

        Args:
            features: (m, C), standardised in the same way.
            probabilities: (m, K) class probabilities.

        Returns:
            Score → (m,): "maximum softmax", 1 - largest probability; "k-NN distance", the mean
            distance to the nearest training images; and "Mahalanobis", the squared distance to
            the nearest class mean, with one shrunk covariance for all classes (Lee et al. 2018).
        """
        features = self._projected(features)
        to_neighbours, _ = self._neighbours.kneighbors(features)
        to_mean, _ = self._nearest_mean.kneighbors(features @ self._whitening)
        return {
            "maximum softmax": 1 - probabilities.max(axis=1),
            "k-NN distance": to_neighbours.mean(axis=1),
            "Mahalanobis": to_mean[:, 0] ** 2,
        }


def _few_components(features: np.ndarray) -> PCA | None:
    """Return the principal components of many features; None if there are few features."""
    if features.shape[1] <= MOST_FEATURES:
        return None
    number = min(COMPONENTS, len(features))
    return PCA(number, svd_solver="randomized", random_state=0).fit(features)


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


def _scored_parts(splits: Splits, result: ProbeResult) -> dict[str, np.ndarray]:
    """Return the rows of validation, test and novel images."""
    known = {part: result.rows[part] for part in ("validation", "test")}
    return known | {"novel": splits["novel"]}


def scores_of_encoder(study: Study, splits: Splits, result: ProbeResult) -> Scores:
    """Return the novelty scores by an encoder's features, for validation, test and novel images."""
    parts = _scored_parts(splits, result)
    train = probed_parts(splits, "natural")["train"]
    codes = np.unique(splits.taxa(train).astype(str), return_inverse=True)[1]
    on_parts, banks = predict_elsewhere(study, splits, result, splits, {"train": train, **parts})
    scorer = NoveltyScorer(on_parts.features(banks["train"], train).whole(), codes)
    scores: Scores = {}
    for part, rows in parts.items():
        features, probabilities = on_parts.features(banks[part], rows), on_parts.heads["linear"]
        for name, values in score_in_blocks(scorer, features, probabilities[part]).items():
            scores.setdefault(name, {})[part] = values
    return scores


def score_in_blocks(
    scorer: NoveltyScorer, features: ScaledFeatures, probabilities: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the novelty scores of images whose features are read block by block.

    Args:
        scorer: of the known taxa.
        features: of n images, standardised like those of the scorer.
        probabilities: (n, K) their class probabilities.
    """
    blocks = []
    start = 0
    for block in features:
        end = start + len(block)
        if len(block):
            blocks.append(pd.DataFrame(scorer.scores(block, probabilities[start:end])))
        start = end
    joined = pd.concat(blocks) if blocks else pd.DataFrame(columns=SCORES_OF_FEATURES, dtype=float)
    return {name: joined[name].to_numpy() for name in joined}


def scores_of_denoiser(study: Study, splits: Splits, result: ProbeResult) -> Scores:
    """Return the denoiser's error as a novelty score, for validation, test and novel images."""
    parts = _scored_parts(splits, result)
    errors = {part: denoising_error(study, splits, rows) for part, rows in parts.items()}
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
            for score, values in scores.items():
                judged = judge_score(study, splits, values, result.rows["test"], splits["novel"])
                line = {"set": name, "encoder": encoder, "score": score}
                lines.append(line | judged)
    columns = ["set", "encoder", "score", "AUROC (%)", "unknowns that pass (%)"]
    return pd.DataFrame(lines, columns=columns)


def judge_score(
    study: Study,
    splits: Splits,
    scores: dict[str, np.ndarray],
    test_rows: np.ndarray,
    novel_rows: np.ndarray,
) -> dict[str, Estimate]:
    """Return how well one score tells novel images from known test images.

    Args:
        study: provides the number of bootstrap draws.
        splits: splits of the images.
        scores: its values for the parts validation, test and novel.
        test_rows, novel_rows: the rows of these parts.

    Returns:
        AUROC (%) and unknowns that pass (%), see `novelty_table`.
    """
    test, novel = scores["test"], scores["novel"]
    is_novel = np.repeat([0, 1], [len(test), len(novel)])
    values = np.append(test, novel)
    units = intervals.units_of(splits, np.append(test_rows, novel_rows))
    draws = min(study.profile.probes.draws, MAX_DRAWS)
    weights = intervals.draw_weights(units, draws)
    areas = [area_under_roc(test, novel, weight) for weight in weights]
    passes = (values <= threshold_of(scores["validation"])) & (is_novel == 1)
    with np.errstate(invalid="ignore"):  # a draw without novel images has no answer
        rates = (weights @ passes) / (weights @ is_novel)
    return {
        "AUROC (%)": intervals.percentiles(np.array(areas), len(novel)),
        "unknowns that pass (%)": intervals.percentiles(rates, len(novel)),
    }


def area_under_roc(
    known: np.ndarray, novel: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Return the AUROC; NaN if only novel or only known images have a weight.

    Args:
        known, novel: scores of the images of each kind.
        weights: how often each image counts, the known ones first; None: each once.
    """
    is_novel = np.repeat([0, 1], [len(known), len(novel)])
    if weights is None:
        weights = np.ones(len(is_novel))
    if not weights[is_novel == 1].any() or not weights[is_novel == 0].any():
        return np.nan
    return float(roc_auc_score(is_novel, np.append(known, novel), sample_weight=weights))


def threshold_of(validation: np.ndarray) -> float:
    """Return the value that 95 % of the known validation images do not exceed."""
    return float(np.quantile(validation, ACCEPTED_SHARE))
