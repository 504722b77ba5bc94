"""How few labels are enough? Linear probes trained on few labelled images per class."""

import numpy as np
import pandas as pd

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import Cell
from plankton_study.images.splits import Splits, draw_labels
from plankton_study.probes import intervals, metrics
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.linear.logistic import logistic_path
from plankton_study.probes.linear.scaling import scaled_features
from plankton_study.probes.probe import read_features
from plankton_study.probes.selection import probed_parts
from plankton_study.run.cache import computed
from plankton_study.run.progress import progress
from plankton_study.run.study import Study

#: modules whose code turns features and few labels into predictions
SHAPED_BY = (
    "questions.few_labels",
    "probes.linear.logistic",
    "probes.linear.scaling",
    "probes.selection",
    "features.bank",
    "features.interface",
    "images.division",
    "images.splits",
)


def probe_few_labels(study: Study, splits: Splits, name: str) -> dict[int, np.ndarray]:
    """Return the predictions of probes that were trained on few labels per class.

    Every encoder gets the same draws of labelled images. Nothing is selected, so no validation
    labels are used: the cell is the predeclared one, and the regularisation is `labels.strength`.
    Features are scaled by the statistics of all training images, without their labels.

    Returns:
        Labels per class → (draws, n test) predicted taxa. Numbers of labels that even the
        commonest class does not have are left out; if none remains, the smallest is kept.
    """
    config = study.profile.labels
    encoder, bank = read_features(study, splits, name)
    inputs = {
        "bank": bank.folder.name,
        "cell": str(encoder.predeclared),
        "splits": splits.digest,
        **config.model_dump(),
    }
    counts = _possible_counts(splits, config.counts)

    def compute() -> dict[str, np.ndarray]:
        label = f"probes of {name} from few labels"
        return _probe_draws(study, splits, bank, encoder.predeclared, counts, label)

    stored = computed(study, "few_labels", inputs, SHAPED_BY, compute)
    return {count: stored[str(count)] for count in counts}


def _possible_counts(splits: Splits, counts: tuple[int, ...]) -> list[int]:
    """Return the numbers of labels that at least one class has, or else the smallest number."""
    most = pd.Series(splits.taxa(splits["train"])).value_counts().max()
    return [count for count in counts if count <= most] or [min(counts)]


def _probe_draws(
    study: Study, splits: Splits, bank: FeatureBank, cell: Cell, counts: list[int], label: str
) -> dict[str, np.ndarray]:
    config = study.profile.labels
    rows = probed_parts(splits, "natural")
    train, test = scaled_features(bank, cell, rows["train"], rows["test"])
    features = train.whole()
    draws = [(count, draw) for count in counts for draw in range(config.draws)]
    predicted: dict[str, list[np.ndarray]] = {str(count): [] for count in counts}
    for count, draw in progress(label, draws):
        labelled = draw_labels(splits, count, draw)
        classes, codes = np.unique(splits.taxa(labelled).astype(str), return_inverse=True)
        labelled_features = features[np.searchsorted(rows["train"], labelled)]
        (model,) = logistic_path([labelled_features], codes, [config.strength])
        predicted[str(count)].append(classes[model.probabilities(test).argmax(axis=1)])
    return {count: np.array(label_draws) for count, label_draws in predicted.items()}


def score_curve(
    truth: np.ndarray,
    predicted: dict[int, np.ndarray],
    units: intervals.Units,
    draws: int,
    metric: str = "macro_f1",
) -> pd.DataFrame:
    """Return a metric by the number of labels.

    Args:
        truth: (n,) taxa.
        predicted: from `probe_few_labels`.
        units: what a bootstrap draw resamples.
        draws: number of bootstrap draws, the same for every encoder. Each uses the next draw of
            labels in turn.
        metric: a key of `metrics.scores`.

    Returns:
        A column for each number of labels; row 0 is the mean over draws of labels, the other rows
        are its bootstrap draws.
    """
    weights = intervals.draw_weights(units, draws)
    curve = {
        count: metrics.drawn_scores(truth, label_draws, weights)[metric]
        for count, label_draws in predicted.items()
    }
    return pd.DataFrame(curve)


def curve_estimates(curve: pd.DataFrame, n: int) -> dict[int, Estimate]:
    """Return number of labels → estimate, from the result of `score_curve` on n test images."""
    return {count: intervals.percentiles(curve[count].to_numpy(), n) for count in curve}


def labels_needed(curve: pd.DataFrame, level: np.ndarray) -> np.ndarray:
    """Return how many labels per class reach a level, interpolated on a logarithmic scale.

    Args:
        curve: from `score_curve`.
        level: (1 + draws,) the metric to reach.

    Returns:
        (1 + draws,); infinity if the level is never reached, the first count if it reaches the
        level already.
    """
    log_counts = np.log(curve.columns.to_numpy(dtype=float))
    rising = np.maximum.accumulate(curve.to_numpy(), axis=1)
    # reversed, so that the first count is used where values are equal
    needed = [
        np.interp(-target, -row[::-1], log_counts[::-1], left=np.inf)
        for target, row in zip(level, rising, strict=True)
    ]
    return np.exp(needed)


def labels_saved_table(curves: dict[str, pd.DataFrame], count: int, n: int) -> pd.DataFrame:
    """Return how many labels each encoder needs to reach the score of diffusion with `count`.

    Args:
        curves: encoder → result of `score_curve`.
        count: labels per class.
        n: number of test images.

    Returns:
        One row for each encoder; columns encoder, labels needed, ratio to diffusion (with its
        95 % interval in ratio, low and ratio, high; infinity if the level is not reached), and
        diffusion minus it with the same number of labels.
    """
    level = curves["diffusion"][count].to_numpy()
    needed_by_diffusion = labels_needed(curves["diffusion"], level)
    lines = []
    for name, curve in curves.items():
        needed = labels_needed(curve, level)
        ratio = needed / needed_by_diffusion
        low, high = np.nan, np.nan
        if len(ratio) > 1:
            low, high = np.percentile(ratio[1:], [2.5, 97.5], method="nearest")
        gain = intervals.percentiles(level - curve[count].to_numpy(), n, is_difference=True)
        if name == "diffusion":
            gain = None
        lines.append(
            {
                "encoder": name,
                "labels needed": needed[0],
                "ratio to diffusion": ratio[0],
                "ratio, low": low,
                "ratio, high": high,
                f"diffusion minus it at {count} labels (points)": gain,
            }
        )
    return pd.DataFrame(lines)
