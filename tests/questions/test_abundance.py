"""Abundances: planted shares are recovered, and distances are those of the textbook."""

import numpy as np
import pandas as pd
import pytest
from quapy.method.aggregative import EMQ
from scipy.special import softmax

from plankton_study.questions.monitoring.abundance import (
    ADJUSTED,
    COUNTING,
    EM,
    abundance_table,
    community_distances,
    estimate_abundances,
    mean_over_periods,
)


def draw_images(
    shares: np.ndarray, number: int, rng: np.random.Generator, distance: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of Gaussian classes, and exact probabilities under equal shares."""
    centres = distance * np.eye(len(shares))
    codes = rng.choice(len(shares), number, p=shares)
    x = centres[codes] + rng.normal(size=(number, len(shares)))
    return codes, softmax(-((x[:, None] - centres) ** 2).sum(axis=2) / 2, axis=1)


def test_with_prior_shift_only_em_recovers_the_true_abundances_within_its_interval():
    rng = np.random.default_rng(2)
    at_home, away = np.full(4, 0.25), np.array([0.7, 0.15, 0.1, 0.05])
    codes, known = draw_images(at_home, 2000, rng)
    _, chances = draw_images(away, 1000, rng)
    shares = estimate_abundances(chances, known, codes)
    draws = []
    for _ in range(100):
        drawn = chances[rng.integers(1000, size=1000)]
        draws.append(estimate_abundances(drawn, known, codes)[EM])
    low, high = np.percentile(draws, [1, 99], axis=0)
    assert ((low <= away) & (away <= high)).all()
    gap = {method: np.abs(estimated - away).sum() / 2 for method, estimated in shares.items()}
    assert gap[EM] < gap[COUNTING] / 2 and gap[ADJUSTED] < gap[COUNTING] / 2
    for estimated in shares.values():
        assert estimated.sum() == pytest.approx(1, abs=1e-3) and (estimated >= -1e-6).all()


def test_a_class_without_validation_images_is_counted_as_it_is():
    known = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]] * 5)
    chances = np.eye(3)[[0, 0, 1, 2]]
    shares = estimate_abundances(chances, known, np.array([0, 1] * 5))
    assert all(np.isfinite(estimated).all() for estimated in shares.values())
    assert shares[ADJUSTED][2] == pytest.approx(0.25, abs=0.02)


def test_em_stays_where_it_is_when_nothing_has_changed_although_probabilities_are_too_even():
    """A regularised probe gives rare classes too much.

    EM must not take that for a change of the mix.
    """
    at_home = np.array([0.6, 0.3, 0.05, 0.03, 0.02])
    codes, known = draw_images(at_home, 1500, np.random.default_rng(3), distance=1.5)
    known = softmax(0.5 * np.log(known * at_home), axis=1)
    shares = estimate_abundances(known, known, codes)
    np.testing.assert_allclose(shares[EM], known.mean(axis=0), atol=1e-6)
    from_true_shares, _ = EMQ.EM(at_home, known)
    assert np.abs(from_true_shares - at_home).sum() / 2 > 0.1, "the planted problem is too easy"


# --- distances between communities


def count_period(
    encoder: str, period: str, true: list[float], estimated: dict[str, list[float]]
) -> pd.DataFrame:
    """Return the rows of `abundances_by_period` for one period of three taxa."""
    tables = [
        pd.DataFrame(
            {
                "set": "shapes",
                "part": "later",
                "encoder": encoder,
                "method": method,
                "period": period,
                "images": 30,
                "taxon": ["a", "b", "c"],
                "true": true,
                "estimated": shares,
            }
        )
        for method, shares in estimated.items()
    ]
    return pd.concat(tables)


@pytest.fixture
def counted() -> pd.DataFrame:
    """Two days of one encoder and one of another, with known distances."""
    true = [0.5, 0.3, 0.2]
    first = {COUNTING: [0.7, 0.1, 0.2], EM: [0.5, 0.3, 0.2]}
    second = {COUNTING: [0, 1, 0], EM: [0.9, 0, 0.1]}
    other = {COUNTING: [0.4, 0.4, 0.2], EM: [0.2, 0.3, 0.5]}
    return pd.concat(
        [
            count_period("diffusion", "2021-07-01", true, first),
            count_period("diffusion", "2021-07-02", [1, 0, 0], second),
            count_period("pixels + PCA", "2021-07-01", true, other),
        ],
        ignore_index=True,
    )


def test_the_distance_of_communities_is_bray_curtis(counted):
    distances = community_distances(counted)
    assert distances.index.names == ["set", "part", "encoder", "period"]
    assert distances.columns.tolist() == [COUNTING, EM]
    by_day = distances.loc[("shapes", "later")]
    assert by_day.loc[("diffusion", "2021-07-01")].tolist() == pytest.approx([0.2, 0])
    assert by_day.loc[("diffusion", "2021-07-02")].tolist() == pytest.approx([1, 0.1])
    assert by_day.loc[("pixels + PCA", "2021-07-01")].tolist() == pytest.approx([0.1, 0.3])
    assert len(distances) == 3


def test_the_distance_does_not_depend_on_the_order_of_the_rows(counted):
    mixed = community_distances(counted.sample(frac=1, random_state=0))
    distances = community_distances(counted)
    pd.testing.assert_frame_equal(mixed.loc[distances.index, distances.columns], distances)


def test_methods_are_compared_with_counting_over_the_periods(shared, counted):
    table = abundance_table(shared, counted)
    lines = table.set_index(["encoder", "method"])
    assert len(table) == 4
    of_em = lines.loc[("diffusion", EM)]
    assert of_em["periods"] == 2 and of_em["Bray-Curtis (%)"].value == pytest.approx(0.05)
    assert of_em["better than counting by (points)"].value == pytest.approx(0.6 - 0.05)
    assert lines.loc[("diffusion", COUNTING), "Bray-Curtis (%)"].value == pytest.approx(0.6)
    assert lines.loc[("diffusion", COUNTING), "better than counting by (points)"] is None
    assert lines.loc[("pixels + PCA", EM), "better than counting by (points)"].value < 0
    nothing = abundance_table(shared, counted.iloc[:0])
    assert nothing.empty and nothing.columns.tolist() == table.columns.tolist()


def test_a_mean_over_periods_has_an_interval_over_resampled_periods(shared):
    estimate = mean_over_periods(shared, np.arange(10) / 10, is_difference=True)
    assert estimate.value == pytest.approx(0.45) and estimate.n == 10
    assert 0 < estimate.low < 0.45 < estimate.high < 0.9 and estimate.p is not None
