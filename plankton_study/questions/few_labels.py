"""How few labels are enough? Linear probes from few labelled images of each class."""

import numpy as np
import pandas as pd

from plankton_study.features.bank import FeatureBank
from plankton_study.features.encoder import Cell
from plankton_study.images.splits import Splits, draw_labels
from plankton_study.probes import metrics
from plankton_study.probes.logistic import logistic_path
from plankton_study.probes.metrics import Estimate
from plankton_study.probes.probe import read_features
from plankton_study.probes.scaling import scaled_features
from plankton_study.probes.selection import probed_parts
from plankton_study.run.cache import computed
from plankton_study.run.progress import progress
from plankton_study.run.study import Study

#: modules whose code turns features and few labels into predictions
SHAPED_BY = (
    "questions.few_labels",
    "probes.logistic",
    "probes.scaling",
    "probes.selection",
    "features.bank",
    "images.splits",
)


def probe_few_labels(study: Study, splits: Splits, name: str) -> dict[int, np.ndarray]:
    """Return what probes name the test images when each class has few labels.

    Every encoder gets the same draws of labelled images. Nothing is selected, so no validation
    label is used: the cell is the predeclared one, and the regularisation is `labels.strength`.
    Unlabelled training images scale the features.

    Returns:
        Labels of each class → (draws, n test) taxa. Numbers that even the commonest class does
        not have are left out.
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
    """Return the numbers of labels that at least one class has; at least the smallest number."""
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
    named: dict[str, list[np.ndarray]] = {str(count): [] for count in counts}
    for count, draw in progress(label, draws):
        labelled = draw_labels(splits, count, draw)
        classes, codes = np.unique(splits.taxa(labelled).astype(str), return_inverse=True)
        own_features = features[np.searchsorted(rows["train"], labelled)]
        (model,) = logistic_path([own_features], codes, [config.strength])
        named[str(count)].append(classes[model.probabilities(test).argmax(axis=1)])
    return {count: np.array(of_draws) for count, of_draws in named.items()}


def score_curve(
    truth: np.ndarray,
    predicted: dict[int, np.ndarray],
    groups: np.ndarray,
    draws: int,
    metric: str = "macro_f1",
) -> pd.DataFrame:
    """Return a metric by the number of labels.

    Args:
        truth: (n,) taxa.
        predicted: from `probe_few_labels`.
        groups: (n,) what resampling keeps together.
        draws: number of bootstrap draws. One takes one draw of labels, in turn, and resampled
            groups of test images, the same for every encoder.
        metric: a key of `metrics.scores`.

    Returns:
        A column for each number of labels; row 0 is the mean over draws of labels, the others
        are its bootstrap draws.
    """
    weights = metrics.resample(groups, draws)
    curve = {}
    for count, of_draws in predicted.items():
        values = [metrics.scores(truth, named)[metric][0] for named in of_draws]
        drawn = np.empty(draws)
        for number, named in enumerate(of_draws):
            own = slice(number, None, len(of_draws))
            drawn[own] = metrics.scores(truth, named, weights[own])[metric]
        curve[count] = np.append(np.mean(values), drawn)
    return pd.DataFrame(curve)


def curve_estimates(curve: pd.DataFrame, n: int) -> dict[int, Estimate]:
    """Return number of labels → estimate, from `score_curve` over n test images."""
    return {count: metrics.percentiles(curve[count].to_numpy(), n) for count in curve}


def labels_needed(curve: pd.DataFrame, level: np.ndarray) -> np.ndarray:
    """Return how many labels of each class reach a level, between the counts on a log scale.

    Args:
        curve: from `score_curve`.
        level: (1 + draws,) the metric to reach.

    Returns:
        (1 + draws,); infinity if it is never reached, the first count if it is reached at once.
    """
    log_counts = np.log(curve.columns.to_numpy(dtype=float))
    rising = np.maximum.accumulate(curve.to_numpy(), axis=1)
    # backwards, so that of equal values the first count is taken
    needed = [
        np.interp(-wanted, -row[::-1], log_counts[::-1], left=np.inf)
        for wanted, row in zip(level, rising, strict=True)
    ]
    return np.exp(needed)


def labels_saved_table(curves: dict[str, pd.DataFrame], count: int, n: int) -> pd.DataFrame:
    """Return how many labels each encoder needs for what diffusion reaches with `count`.

    Args:
        curves: encoder → `score_curve`.
        count: labels of each class.
        n: number of test images.

    Returns:
        One row for each encoder; columns encoder, labels needed, times diffusion's (with from and
        to, its 95 % interval; infinity where the level is not reached), and the difference of
        diffusion to it at equal labels.
    """
    level = curves["diffusion"][count].to_numpy()
    own = labels_needed(curves["diffusion"], level)
    lines = []
    for name, curve in curves.items():
        needed = labels_needed(curve, level)
        ratio = needed / own
        low, high = np.percentile(ratio[1:], [2.5, 97.5], method="nearest")
        gain = metrics.percentiles(level - curve[count].to_numpy(), n, is_difference=True)
        lines.append(
            {
                "encoder": name,
                "labels needed": needed[0],
                "times diffusion's": ratio[0],
                "from": low,
                "to": high,
                f"diffusion minus it at {count} labels (points)": (
                    None if name == "diffusion" else gain
                ),
            }
        )
    return pd.DataFrame(lines)
