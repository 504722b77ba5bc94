"""Do classes form clusters without labels? k-means on each cell, given the number of classes."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import HEAD, Cell
from plankton_study.images.splits import Splits
from plankton_study.probes import intervals
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.linear.scaling import scaled_features
from plankton_study.probes.probe import read_features
from plankton_study.probes.selection import cell_of, probed_parts
from plankton_study.run.cache import computed
from plankton_study.run.progress import progress
from plankton_study.run.study import Study

#: modules whose code turns features into clusters
SHAPED_BY = (
    "questions.clusters",
    "probes.intervals",
    "probes.linear.scaling",
    "probes.selection",
    "features.bank",
    "features.interface",
    "images.splits",
)


def purity(truth: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images that belong to the commonest taxon of their cluster."""
    return float(contingency_matrix(truth, labels).max(axis=0).sum() / len(truth))


#: measures of the agreement between clusters and classes
AGREEMENT = {
    "NMI": normalized_mutual_info_score,
    "ARI": adjusted_rand_score,
    "purity": purity,
}


class Clusters(NamedTuple):
    """k-means clusters of an encoder's cells, separately for validation and test images.

    Attributes:
        table: a row for each cell: layer, timestep, and NMI, ARI and purity on validation and on
            test images, as means over restarts; `<part> <measure> sd` is the standard deviation.
        selected: the cell with the best NMI on validation images.
        rows: (n,) test rows.
        labels: (restarts, n) their clusters in the selected cell, least inertia first.
        distance: (n,) their distance to the cluster centre, in the first restart.
        agreement: measure → (1 + draws,), see `draw_agreement`.
    """

    table: pd.DataFrame
    selected: Cell
    rows: np.ndarray
    labels: np.ndarray
    distance: np.ndarray
    agreement: dict[str, np.ndarray]

    def estimate(self, measure: str) -> Estimate:
        """Return an agreement measure with its 95 % interval."""
        return intervals.percentiles(self.agreement[measure], len(self.rows))

    def difference(self, other: "Clusters", measure: str = "NMI") -> Estimate:
        """Return a measure minus that of another encoder on the same images."""
        drawn = self.agreement[measure] - other.agreement[measure]
        return intervals.percentiles(drawn, len(self.rows), is_difference=True)


def cluster_encoder(study: Study, splits: Splits, name: str) -> Clusters:
    """Return the clusters of an encoder's cells in the natural setting.

    Features are standardised with the statistics of the training images. The clustering uses no
    labels except the number of classes; the labels of validation images select the cell.
    """
    _, bank = read_features(study, splits, name)
    config = study.profile.clusters
    inputs = {
        "bank": bank.folder.name,
        "splits": splits.digest,
        "clusters": config.model_dump(),
        "classes": splits.classes,
        "draws": study.profile.probes.draws,
        "group_by": splits.collection.entry.group_by,
    }

    def compute() -> dict[str, Any]:
        return _cluster_all_cells(study, splits, bank, name)

    stored = computed(study, "clusters", inputs, SHAPED_BY, compute)
    table = stored["table"]
    selected = cell_of(table.loc[table["validation NMI"].idxmax()])
    agreement = {measure: stored[measure] for measure in AGREEMENT}
    rows = probed_parts(splits, "natural")["test"]
    return Clusters(table, selected, rows, stored["labels"], stored["distance"], agreement)


def _cluster_all_cells(
    study: Study, splits: Splits, bank: FeatureBank, name: str
) -> dict[str, Any]:
    parts = probed_parts(splits, "natural")
    truth = {part: splits.taxa(rows).astype(str) for part, rows in parts.items()}
    cells = [cell for cell in bank.cells if cell != HEAD]
    number, restarts = len(splits.classes), study.profile.clusters.restarts
    lines: list[dict[str, Any]] = []
    labels, distance, best = None, None, -1.0
    for cell in progress(f"k-means of {len(cells)} cells of {name}", cells):
        rows = [parts["train"], parts["validation"], parts["test"]]
        _, validation, test = scaled_features(bank, cell, *rows)
        validation_labels, _ = kmeans(validation.whole(), number, restarts)
        test_labels, test_distance = kmeans(test.whole(), number, restarts)
        line = {"layer": cell.layer, "timestep": cell.timestep}
        line |= _mean_agreement("validation", truth["validation"], validation_labels)
        line |= _mean_agreement("test", truth["test"], test_labels)
        if line["validation NMI"] > best:
            best, labels, distance = line["validation NMI"], test_labels, test_distance
        lines.append(line)
    units = intervals.units_of(splits, parts["test"])
    drawn = draw_agreement(truth["test"], labels, units, study.profile.probes.draws)
    table = pd.DataFrame(lines).astype({"timestep": "Int64"})
    return {"table": table, "labels": labels, "distance": distance, **drawn}


def _mean_agreement(part: str, truth: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the mean and the standard deviation of each measure over restarts."""
    agreement = {}
    for name, measure in AGREEMENT.items():
        values = [measure(truth, of_restart) for of_restart in labels]
        agreement[f"{part} {name}"] = np.mean(values)
        agreement[f"{part} {name} sd"] = np.std(values)
    return agreement


def kmeans(x: np.ndarray, number: int, restarts: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster features from several k-means++ starts.

    Args:
        x: (n, C) features.
        number: number of clusters, limited to n.
        restarts: number of starts, each with its own seed.

    Returns:
        Labels (restarts, n), least inertia first; and the distances (n,) to the cluster centres in
        the first restart.
    """
    models = [
        KMeans(min(number, len(x)), n_init=1, random_state=seed).fit(x) for seed in range(restarts)
    ]
    models = sorted(models, key=lambda model: model.inertia_)
    labels = np.array([model.labels_ for model in models])
    return labels, models[0].transform(x).min(axis=1)


def draw_agreement(
    truth: np.ndarray, labels: np.ndarray, units: intervals.Units, draws: int
) -> dict[str, np.ndarray]:
    """Return bootstrap draws of the agreement between clusters and classes.

    Each draw uses the next restart in turn, and resampled groups. Repeated images raise these
    measures, so the draws are shifted to have the value as their mean. Draws of two clusterings
    of the same images are paired.

    Args:
        truth: (n,) taxa.
        labels: (restarts, n) clusters.
        units: what a bootstrap draw resamples.
        draws: number of bootstrap draws.

    Returns:
        Measure → (1 + draws,): the mean over restarts, then its draws.
    """
    weights = intervals.resample(units, draws).astype(int)
    agreement = {}
    for name, measure in AGREEMENT.items():
        value = np.mean([measure(truth, of_restart) for of_restart in labels])
        drawn = np.empty(len(weights))
        for draw, times in enumerate(weights):
            of_restart = labels[draw % len(labels)]
            drawn[draw] = measure(np.repeat(truth, times), np.repeat(of_restart, times))
        agreement[name] = intervals.with_centred_draws(value, drawn)
    return agreement


# --- what is in the clusters?


def cluster_members(splits: Splits, clusters: Clusters) -> pd.DataFrame:
    """Return one row for each test image: taxon, cluster, distance (to its centre) and row."""
    return pd.DataFrame(
        {
            "taxon": splits.taxa(clusters.rows).astype(str),
            "cluster": clusters.labels[0],
            "distance": clusters.distance,
            "row": clusters.rows,
        }
    )


def cluster_sizes(members: pd.DataFrame) -> pd.DataFrame:
    """Return for each cluster its size, its commonest taxon, and the share of that taxon."""
    by_cluster = members.groupby("cluster")["taxon"]
    return by_cluster.agg(size="size", taxon=_commonest, purity=_share_of_commonest)


def _commonest(taxa: pd.Series) -> str:
    return taxa.mode()[0]


def _share_of_commonest(taxa: pd.Series) -> float:
    return taxa.value_counts(normalize=True).iloc[0]


def split_taxa(members: pd.DataFrame, min_images: int = 10) -> pd.DataFrame:
    """Return the taxa by the number of clusters that are needed for half of their images.

    Returns:
        Columns taxon, clusters holding half of it, and images, the most divided taxa first.
    """
    by_taxon = members.groupby("taxon")["cluster"]
    table = by_taxon.agg(_clusters_holding_half).to_frame("clusters holding half of it")
    table["images"] = members["taxon"].value_counts()
    table = table[table["images"] >= min_images]
    order = ["clusters holding half of it", "images"]
    return table.sort_values(order, ascending=False).reset_index()


def _clusters_holding_half(clusters: pd.Series) -> int:
    shares = clusters.value_counts(normalize=True)
    return int((shares.cumsum() < 0.5).sum()) + 1


def merged_taxa(members: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of taxa that are the largest two of one cluster.

    Returns:
        Columns taxa and images of the smaller taxon, summed over clusters, largest first.
    """
    lines = []
    for _, taxa in members.groupby("cluster")["taxon"]:
        counts = taxa.value_counts()
        if len(counts) > 1:
            pair = " and ".join(sorted(counts.index[:2]))
            lines.append((pair, int(counts.iloc[1])))
    table = pd.DataFrame(lines, columns=["taxa", "images of the smaller taxon"])
    by_pair = table.groupby("taxa", sort=True)["images of the smaller taxon"].sum()
    return by_pair.sort_values(ascending=False, kind="stable").reset_index()
