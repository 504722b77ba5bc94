"""What else features tell, each with a planted nuisance."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from plankton_study.images.splits import make_splits
from plankton_study.questions.shift.nuisances import (
    cells_at_home_and_away,
    home_away_auroc,
    nuisances_table,
    rank_correlation,
    readable_variance,
)
from plankton_study.questions.shift.shifted_parts import shifted_parts


def test_a_planted_nuisance_is_found_and_the_taxon_is_not_taken_for_one():
    rng = np.random.default_rng(0)
    taxa = rng.choice(["big", "small"], 600)
    is_big = taxa == "big"
    size = np.where(is_big, 5.0, 1.0) + rng.normal(0, 0.5, 600)
    noise = rng.normal(size=(600, 8))
    tell_the_taxon = is_big[:, None] + rng.normal(0, 0.1, (600, 3))

    def read_size(features):
        return readable_variance(features[:400], features[400:], size[:400], size[400:], taxa)

    assert read_size(np.column_stack([noise, size])) > 0.9
    assert read_size(noise) < 0.05
    only_the_taxon = read_size(np.column_stack([noise, tell_the_taxon]))
    assert only_the_taxon < 0.05, "size that the taxon alone tells is no nuisance"


def test_another_camera_is_told_apart_and_another_mix_is_not():
    rng = np.random.default_rng(1)
    is_away = np.repeat([False, True], 300)
    taxa = np.where(rng.random(600) < np.where(is_away, 0.8, 0.2), "a", "b")
    days = np.repeat(np.arange(60), 10)
    features = np.column_stack([(taxa == "a") + rng.normal(0, 0.3, 600), rng.normal(size=(600, 4))])
    assert home_away_auroc(features, is_away, taxa, days) == pytest.approx(0.5, abs=0.12)
    features[:, 2] += 2 * is_away
    assert home_away_auroc(features, is_away, taxa, days) > 0.9


def test_a_side_of_a_single_day_cannot_be_told_apart():
    rng = np.random.default_rng(2)
    is_away = np.repeat([False, True], 50)
    taxa, features = np.full(100, "a"), rng.normal(size=(100, 3))
    days = np.where(is_away, 99, np.arange(100) // 10)
    assert np.isnan(home_away_auroc(features, is_away, taxa, days))


def test_a_rank_correlation_has_an_interval_over_cells():
    cells = pd.DataFrame({"home": np.arange(20.0), "away": np.arange(20.0) ** 2})
    estimate = rank_correlation(cells, "home", "away", np.random.default_rng(0))
    assert [estimate.value, estimate.low, estimate.high] == pytest.approx([1, 1, 1])
    assert estimate.n == 20


def test_the_correlation_of_a_constant_column_is_not_defined():
    """Four cells that all have the same accuracy away, as in a tiny study."""
    cells = pd.DataFrame({"home": [0.1, 0.2, 0.3, 0.4], "away": [0.5] * 4})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = rank_correlation(cells, "home", "away", np.random.default_rng(0))
    assert estimate.text(1, 2) == "not defined"


def test_a_nuisance_that_no_cell_encodes_has_no_correlation_with_the_loss():
    """An R² below zero says nothing; a correlation of such values would be read as a finding."""
    loss = np.linspace(0, 0.3, 12)
    cells = pd.DataFrame(
        {
            "layer": "up",
            "size": -0.1 - loss,
            "day": np.linspace(-0.1, 0.4, 12),
            "home or away: later": 0.5 + loss,
            "home of later": 0.8,
            "later": 0.8 - loss,
        }
    )
    part = SimpleNamespace(set="shapes", part="later")
    table = nuisances_table([part], {"shapes": cells}).set_index("nuisance")
    correlation = table["correlation with loss"]
    assert correlation["size"] == "none"
    assert correlation["day"].value == pytest.approx(1)
    assert correlation["home or away"].value == pytest.approx(1)


def test_cells_lose_their_score_over_the_same_taxa(shared):
    splits = make_splits(shared, "shapes")
    parts = shifted_parts(shared, {"shapes": splits})
    (grid,) = cells_at_home_and_away(shared, parts).values()
    assert {"later", "home of later", "macro_f1"} <= set(grid)
    assert grid["later"].between(0, 1).all() and grid["home of later"].between(0, 1).all()
