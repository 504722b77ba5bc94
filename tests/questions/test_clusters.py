"""k-means: it finds what is there, and its agreement with classes is that of the textbook."""

import numpy as np
import pandas as pd
import pytest

from plankton_study.images.splits import make_splits
from plankton_study.probes.intervals import Units
from plankton_study.probes.probe import probe_encoder
from plankton_study.questions.clusters import (
    AGREEMENT,
    cluster_encoder,
    cluster_members,
    cluster_sizes,
    draw_agreement,
    kmeans,
    merged_taxa,
    purity,
    split_taxa,
)


def draw_blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return features and taxa of four groups of thirty images that lie far apart."""
    centres = 8 * rng.normal(size=(4, 6))
    truth = np.repeat(np.arange(4), 30)
    return centres[truth] + rng.normal(size=(len(truth), 6)), truth.astype(str)


def test_purity_is_the_share_of_the_commonest_taxon():
    clusters = np.array([0, 0, 0, 1, 1])
    assert purity(np.array(list("aabbb")), clusters) == pytest.approx(4 / 5)


def test_planted_groups_are_found_from_every_start():
    x, truth = draw_blobs(np.random.default_rng(0))
    labels, distance = kmeans(x, 4, 5)
    assert labels.shape == (5, len(x)) and distance.shape == (len(x),) and (distance > 0).all()
    assert AGREEMENT["NMI"](truth, labels[0]) > 0.95
    again, _ = kmeans(x, 4, 5)
    assert np.array_equal(labels, again)


def test_fewer_images_than_clusters_are_no_error():
    labels, _ = kmeans(np.eye(3), 10, 1)
    assert len(set(labels[0])) == 3


def test_draws_lie_around_the_value_although_repeated_images_raise_it():
    rng = np.random.default_rng(1)
    truth = rng.choice(list("abcdefgh"), 200)
    labels = rng.integers(20, size=(3, 200))  # no agreement but by chance
    agreement = draw_agreement(truth, labels, Units.of(np.arange(200)), 200)
    assert list(agreement) == ["NMI", "ARI", "purity"]
    for name, values in agreement.items():
        over_restarts = [AGREEMENT[name](truth, of_restart) for of_restart in labels]
        assert values.shape == (201,)
        assert values[0] == pytest.approx(np.mean(over_restarts))
        assert values[1:].mean() == pytest.approx(values[0])
    codes = np.unique(truth, return_inverse=True)[1]
    perfect = draw_agreement(truth, codes[None], Units.of(np.arange(200)), 20)
    assert perfect["NMI"][0] == pytest.approx(1) and perfect["purity"][0] == pytest.approx(1)


def test_every_cell_is_clustered_and_validation_images_choose(shared):
    splits = make_splits(shared, "shapes")
    clusters = cluster_encoder(shared, splits, "diffusion")
    result = probe_encoder(shared, splits, "diffusion")
    assert len(clusters.table) == len(result.grid)
    best = clusters.table.loc[clusters.table["validation NMI"].idxmax()]
    assert str(clusters.selected) == f"{best['layer']}@t{best['timestep']}"
    assert np.array_equal(clusters.rows, result.rows["test"])
    assert clusters.labels.shape == (shared.profile.clusters.restarts, len(clusters.rows))
    assert clusters.labels.max() < len(splits.classes)
    assert clusters.agreement["NMI"][0] == pytest.approx(best["test NMI"])
    assert "head" not in set(cluster_encoder(shared, splits, "ResNet, labels").table["layer"])


def test_agreement_is_reported_with_an_interval_and_compared_on_the_same_draws(shared):
    splits = make_splits(shared, "shapes")
    clusters = cluster_encoder(shared, splits, "diffusion")
    estimate = clusters.estimate("NMI")
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.n == len(clusters.rows)
    itself = clusters.difference(clusters)
    assert itself[:3] == (0, 0, 0) and itself.p == 1


# --- what is in the clusters?


def made_up_members(*clusters: str) -> pd.DataFrame:
    """Return the members of clusters, each given by the taxa of its images, a letter each."""
    lines = [(taxon, cluster) for cluster, taxa in enumerate(clusters) for taxon in taxa]
    return pd.DataFrame(lines, columns=["taxon", "cluster"])


def test_members_are_the_test_images_with_their_cluster(shared):
    splits = make_splits(shared, "shapes")
    clusters = cluster_encoder(shared, splits, "diffusion")
    members = cluster_members(splits, clusters)
    assert members["row"].tolist() == clusters.rows.tolist()
    assert members["taxon"].tolist() == splits.taxa(clusters.rows).tolist()
    assert members["cluster"].tolist() == clusters.labels[0].tolist()
    assert (members["distance"] >= 0).all()


def test_a_cluster_has_a_size_and_a_commonest_taxon():
    sizes = cluster_sizes(made_up_members("aaab", "cc", "abccc"))
    assert sizes.index.name == "cluster" and sizes.index.tolist() == [0, 1, 2]
    assert sizes["size"].tolist() == [4, 2, 5]
    assert sizes["taxon"].tolist() == ["a", "c", "c"]
    assert sizes["purity"].tolist() == pytest.approx([3 / 4, 1, 3 / 5])


def test_the_most_divided_taxa_come_first():
    quarter = 3 * "a"
    members = made_up_members(
        quarter + 20 * "b", quarter + 6 * "c", quarter + 6 * "c", quarter + 6 * "c" + 5 * "d"
    )
    table = split_taxa(members)
    assert table.columns.tolist() == ["taxon", "clusters holding half of it", "images"]
    # half of a lies in two of its four clusters; d has too few images
    assert table["taxon"].tolist() == ["c", "a", "b"]
    assert table["clusters holding half of it"].tolist() == [2, 2, 1]
    assert table["images"].tolist() == [18, 12, 20]
    with_few = split_taxa(members, min_images=5).set_index("taxon")
    assert with_few.loc["d"].tolist() == [1, 5]


def test_merged_taxa_are_the_largest_two_of_a_cluster():
    table = merged_taxa(made_up_members("aaaaabbb", "bbbbaac", "ccc", "cccca"))
    assert table.columns.tolist() == ["taxa", "images of the smaller taxon"]
    assert table["taxa"].tolist() == ["a and b", "a and c"]
    assert table["images of the smaller taxon"].tolist() == [3 + 2, 1]


def test_pure_clusters_merge_nothing():
    assert len(merged_taxa(made_up_members("aaa", "bb"))) == 0
