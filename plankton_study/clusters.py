"""Do classes form groups by themselves? k-means on each cell, with as many clusters as classes."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from plankton_study import metrics, probes
from plankton_study.features import Cell
from plankton_study.linear import standardised
from plankton_study.progress import progress
from plankton_study.splits import Splits
from plankton_study.store import computed
from plankton_study.study import Study


def purity(truth: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images that belong to the commonest taxon of their cluster."""
    return float(contingency_matrix(truth, labels).max(axis=0).sum() / len(truth))


AGREEMENT = {"NMI": normalized_mutual_info_score, "ARI": adjusted_rand_score, "purity": purity}


class Clusters(NamedTuple):
    """k-means of an encoder's cells, on validation and test images apart.

    Attributes:
        table: a row a cell: layer, timestep, and NMI, ARI and purity on validation and on test images, as means over
            restarts; `<part> <measure> sd` is their standard deviation.
        selected: the cell with the best NMI on validation images.
        rows: (n,) test rows; `labels` (restarts, n) their clusters in the selected cell, the restart of least inertia
            first; `distance` (n,) to the centre of that one's clusters.
        agreement: measure → (1 + draws,), see `agreement`, of these labels.
    """

    table: pd.DataFrame
    selected: Cell
    rows: np.ndarray
    labels: np.ndarray
    distance: np.ndarray
    agreement: dict[str, np.ndarray]


def cluster(study: Study, splits: Splits, encoder: str) -> Clusters:
    """Return the clusters of an encoder's cells in the natural setting; computed on the first call.

    Features are standardised with the statistics of the training images. Of labels only the number of classes enters
    the clustering; those of validation images choose the cell.
    """
    (_, bank), config = probes.read(study, splits, encoder), study.profile.clusters
    parts = probes.parts_of(splits, "natural")
    rows = {part: parts[part] for part in ("train", "validation", "test")}
    what = {"bank": bank.folder.name, "splits": splits.digest, "clusters": config.model_dump()}
    what |= {"classes": splits.classes, "draws": study.profile.probes.draws, "by": splits.collection.entry.group_by}
    candidates = [cell for cell in bank.cells if cell != probes.HEAD]

    def compute() -> dict[str, Any]:
        truth = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
        table, labels = [], {}
        for cell in progress(f"k-means of {len(candidates)} cells of {encoder}", candidates):
            _, *scaled = standardised(bank, cell, *rows.values())
            row: dict[str, Any] = {"layer": cell.layer, "timestep": cell.timestep}
            for part, z in zip(("validation", "test"), scaled, strict=True):
                found = kmeans(z.whole(), len(splits.classes), config.restarts)
                for name, measure in AGREEMENT.items():
                    each = [measure(truth[part], one) for one in found[0]]
                    row |= {f"{part} {name}": np.mean(each), f"{part} {name} sd": np.std(each)}
            if row["validation NMI"] > max((one["validation NMI"] for one in table), default=-1):
                labels = dict(zip(("labels", "distance"), found, strict=True))
            table.append(row)
        drawn = agreement(truth["test"], labels["labels"], splits.groups(rows["test"]), study.profile.probes.draws)
        return {"table": pd.DataFrame(table).astype({"timestep": "Int64"}), **labels, **drawn}

    found = computed(study, "clusters", what, ["clusters", "linear", "metrics", "probes", "splits"], compute)
    (selected,) = probes.as_cells(found["table"].loc[[found["table"]["validation NMI"].idxmax()]])
    drawn = {name: found[name] for name in AGREEMENT}
    return Clusters(found["table"], selected, rows["test"], found["labels"], found["distance"], drawn)


def kmeans(x: np.ndarray, number: int, restarts: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster (n, C) features from several k-means++ starts, each with a seed of its own.

    Returns: labels (restarts, n), those of least inertia first; and the distance (n,) to the centre under these.
    """
    models = [KMeans(min(number, len(x)), n_init=1, random_state=seed).fit(x) for seed in range(restarts)]
    models = sorted(models, key=lambda model: model.inertia_)
    return np.array([model.labels_ for model in models]), models[0].transform(x).min(axis=1)


def agreement(truth: np.ndarray, labels: np.ndarray, groups: np.ndarray, draws: int) -> dict[str, np.ndarray]:
    """Return the mean over restarts, and bootstrap draws of it, of each measure: (1 + draws,) float64.

    A draw takes a restart, in turn, and resampled groups. Repeated images raise these measures, so the draws are moved
    to have the value as their mean. Draws of two clusterings of the same images are paired.

    `truth` (n,) are taxa, `labels` (restarts, n) clusters; `groups` as in `metrics.resample`.
    """
    weights = metrics.resample(groups, draws).astype(int)
    found = {}
    for name, measure in AGREEMENT.items():
        value = np.mean([measure(truth, one) for one in labels])
        drawn = [measure(np.repeat(truth, n), np.repeat(labels[i % len(labels)], n)) for i, n in enumerate(weights)]
        found[name] = np.append(value, np.array(drawn) - np.mean(drawn) + value)
    return found
