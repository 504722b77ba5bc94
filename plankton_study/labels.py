"""How few labels are enough? Linear probes on the predeclared cell, from few labelled images of each class."""

import numpy as np
import pandas as pd

from plankton_study import metrics, probes
from plankton_study.linear import logistic_path, standardised
from plankton_study.progress import progress
from plankton_study.splits import Splits, label_fraction
from plankton_study.store import computed
from plankton_study.study import Study


def few_labels(study: Study, splits: Splits, encoder: str) -> dict[int, np.ndarray]:
    """Return what probes say of the test images when each class has few labels; computed on the first call.

    Every encoder gets the same draws of labelled images. Nothing is selected, so no validation label is used: the cell
    is the predeclared one, the regularisation `labels.strength`; unlabelled training images scale the features.

    Returns:
        Labels a class (those of the profile that the commonest class has) → (draws, n test) taxa.
    """
    config, rows = study.profile.labels, probes.parts_of(splits, "natural")
    made, bank = probes.read(study, splits, encoder)
    what = {"bank": bank.folder.name, "cell": str(made.predeclared), "splits": splits.digest, **config.model_dump()}
    most = pd.Series(splits.taxa(rows["train"])).value_counts().max()
    counts = [count for count in config.counts if count <= most] or [min(config.counts)]

    def compute() -> dict[str, np.ndarray]:
        blocks, z = standardised(bank, made.predeclared, rows["train"], rows["test"])
        x = blocks.whole()
        told: dict[str, list[np.ndarray]] = {}
        drawn = [(count, draw) for count in counts for draw in range(config.draws)]
        for count, draw in progress(f"probes of {encoder} from few labels", drawn):
            some = label_fraction(splits, count, draw)
            classes, codes = np.unique(splits.taxa(some).astype(str), return_inverse=True)
            (model,) = logistic_path([x[np.searchsorted(rows["train"], some)]], codes, [config.strength])
            told.setdefault(str(count), []).append(classes[model.probabilities(z).argmax(axis=1)])
        return {count: np.array(each) for count, each in told.items()}

    stored = computed(study, "labels", what, ["labels", "linear", "probes", "splits"], compute)
    return {count: stored[str(count)] for count in counts}


def curve(
    truth: np.ndarray, predicted: dict[int, np.ndarray], groups: np.ndarray, draws: int, metric: str = "macro_f1"
) -> pd.DataFrame:
    """Return a metric by number of labels (columns): the mean over draws of labels (row 0), and bootstrap draws of it.

    A bootstrap draw takes one draw of labels, in turn, and resampled groups of test images; the same for every encoder.
    """
    weights = metrics.resample(groups, draws)
    found = {}
    for count, each in predicted.items():
        value = np.mean([metrics.scores(truth, one)[metric][0] for one in each])
        drawn = np.empty(draws)
        for number, one in enumerate(each):
            drawn[number :: len(each)] = metrics.scores(truth, one, weights[number :: len(each)])[metric]
        found[count] = np.append(value, drawn)
    return pd.DataFrame(found)


def needed(curves: pd.DataFrame, level: np.ndarray) -> np.ndarray:
    """Return how many labels a class reach a level, (1 + draws,), between the counts on a logarithmic scale.

    `curves` is from `curve`, `level` (1 + draws,) the metric to reach. Never reached: infinity; at once: the first.
    """
    counts, rising = np.log(curves.columns.to_numpy(dtype=float)), np.maximum.accumulate(curves.to_numpy(), axis=1)
    # backwards, so that of equal values the first count is taken
    found = [np.interp(-at, -row[::-1], counts[::-1], left=np.inf) for at, row in zip(level, rising, strict=True)]
    return np.exp(found)
