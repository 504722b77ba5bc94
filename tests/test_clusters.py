"""k-means: it finds what is there, and its agreement with classes is that of the textbook."""

import numpy as np
import pytest

from plankton_study import clusters, probes, splits


def blobs(rng, taxa=4, each=30, far=8.0):
    centres = rng.normal(size=(taxa, 6)) * far
    truth = np.repeat(np.arange(taxa), each)
    return centres[truth] + rng.normal(size=(len(truth), 6)), truth.astype(str)


def test_purity_is_the_share_of_the_commonest_taxon():
    assert clusters.purity(np.array(list("aabbb")), np.array([0, 0, 0, 1, 1])) == pytest.approx(
        4 / 5
    )


def test_planted_groups_are_found_from_every_start():
    x, truth = blobs(np.random.default_rng(0))
    labels, distance = clusters.kmeans(x, 4, 5)
    assert labels.shape == (5, len(x)) and distance.shape == (len(x),) and (distance > 0).all()
    assert clusters.AGREEMENT["NMI"](truth, labels[0]) > 0.95
    again, _ = clusters.kmeans(x, 4, 5)
    assert np.array_equal(labels, again)


def test_fewer_images_than_clusters_are_no_error():
    labels, _ = clusters.kmeans(np.eye(3), 10, 1)
    assert len(set(labels[0])) == 3


def test_draws_lie_around_the_value_although_repeated_images_raise_it():
    rng = np.random.default_rng(1)
    truth = rng.choice(list("abcdefgh"), 200)
    labels = rng.integers(20, size=(3, 200))  # no agreement but by chance
    found = clusters.agreement(truth, labels, np.arange(200), 200)
    assert list(found) == ["NMI", "ARI", "purity"]
    for name, values in found.items():
        assert values.shape == (201,)
        assert values[0] == pytest.approx(
            np.mean([clusters.AGREEMENT[name](truth, one) for one in labels])
        )
        assert values[1:].mean() == pytest.approx(values[0])
    perfect = clusters.agreement(
        truth, np.unique(truth, return_inverse=True)[1][None], np.arange(200), 20
    )
    assert perfect["NMI"][0] == pytest.approx(1) and perfect["purity"][0] == pytest.approx(1)


def test_every_cell_is_clustered_and_validation_images_choose(shared):
    parts = splits.make(shared, "shapes")
    found = clusters.cluster(shared, parts, "diffusion")
    assert len(found.table) == len(probes.probe(shared, parts, "diffusion").grid)
    best = found.table.loc[found.table["validation NMI"].idxmax()]
    assert str(found.selected) == f"{best['layer']}@t{best['timestep']}"
    assert np.array_equal(found.rows, probes.probe(shared, parts, "diffusion").rows["test"])
    assert found.labels.shape == (shared.profile.clusters.restarts, len(found.rows))
    assert found.labels.max() < len(parts.classes)
    assert found.agreement["NMI"][0] == pytest.approx(best["test NMI"])
    assert "head" not in set(clusters.cluster(shared, parts, "ResNet, labels").table["layer"])
