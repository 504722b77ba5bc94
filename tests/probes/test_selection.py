"""What may be chosen, and how sure a choice is."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study.features.interface import HEAD, Cell
from plankton_study.images.splits import make_splits
from plankton_study.probes.intervals import Units
from plankton_study.probes.selection import candidate_cells, cells_of, near_best, probed_parts


def predictions_of(truth: np.ndarray, shares: list[float], seed: int = 0) -> np.ndarray:
    """Return predictions (cells, n) of which about these shares are right."""
    rng = np.random.default_rng(seed)
    is_right = rng.random((len(shares), len(truth))) < np.array(shares)[:, None]
    return np.where(is_right, truth, "wrong")


def single(n: int) -> Units:
    return Units.of(np.arange(n))


def test_equal_cells_share_the_selection():
    truth = np.random.default_rng(0).choice(["a", "b"], 500)
    predicted = predictions_of(truth, [0.6, 0.6])
    twice = np.vstack([predicted, predicted[0]])
    _, is_near, share = near_best(truth, twice, single(500), 200, "accuracy")
    assert is_near[0] == is_near[2] and share[2] == 0  # a tie goes to the first


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_cell_that_holds_the_class_wins_every_draw(metric):
    truth = np.random.default_rng(0).choice(["a", "b"], 400)
    predicted = predictions_of(truth, [0.3, 0.5, 0.9])
    error, is_near, share = near_best(truth, predicted, single(400), 200, metric)
    assert is_near.tolist() == [False, False, True] and share.tolist() == [0, 0, 1]
    if metric == "accuracy":
        assert error == pytest.approx((0.9 * 0.1 / 400) ** 0.5, rel=0.2)


def test_a_cell_is_near_the_best_by_their_paired_difference():
    """Two cells that fail on the same images differ clearly, although each is uncertain.

    The second cell has the mistakes of the first and ten more. By the standard error of the best
    cell (0.025) it would be near; in pairs it loses in every draw.
    """
    truth = np.array(["a", "b"] * 200)
    is_right = np.ones((2, 400), bool)
    is_right[:, :200] = np.arange(200) % 2 == 0
    is_right[1, 200:210] = False
    predicted = np.where(is_right, truth, "wrong")
    error, is_near, _ = near_best(truth, predicted, single(400), 300, "accuracy")
    lead = is_right[0].mean() - is_right[1].mean()
    assert lead == pytest.approx(0.025) and 0.02 < error < 0.03
    assert is_near.tolist() == [True, False]


def test_the_best_cell_is_best_by_the_metric_that_is_judged():
    """One cell names the common taxon, the other the rare ones too."""
    truth = np.array(["common"] * 90 + ["rare"] * 10)
    lazy = np.full(100, "common")
    fair = np.where(np.arange(100) < 20, "rare", truth)
    predicted = np.vstack([lazy, fair])
    for metric, best in (("accuracy", 0), ("macro_f1", 1)):
        share = near_best(truth, predicted, single(100), 100, metric).share
        assert share.argmax() == best


def test_nothing_is_distinguished_from_a_single_day():
    truth = np.array(["a", "b"] * 10)
    predicted = predictions_of(truth, [0.2, 0.9])
    one_day = Units.of(np.zeros(20, int))
    error, is_near, share = near_best(truth, predicted, one_day, 100, "accuracy")
    assert np.isnan(error) and is_near.all() and np.isnan(share).all()


@dataclass
class Network:
    """As much of an encoder as the choice of candidates looks at."""

    cells: list[Cell]
    predeclared: Cell


@settings(max_examples=100, deadline=None)
@given(
    layers=st.integers(1, 30),
    timesteps=st.integers(1, 5),
    number=st.integers(1, 9),
    layer=st.integers(0, 40),
    timestep=st.integers(0, 3),
    has_head=st.booleans(),
)
def test_a_search_looks_at_the_promised_cells(layers, timesteps, number, layer, timestep, has_head):
    layer, timestep = layer % layers, timestep % timesteps
    cells = [Cell(f"layer{i}", t) for t in range(timesteps) for i in range(layers)]
    encoder = Network([*cells, *[HEAD] * has_head], Cell(f"layer{layer}", timestep))
    assert candidate_cells(encoder, "all", number) == cells
    assert candidate_cells(encoder, "predeclared", number) == [encoder.predeclared]
    equal = candidate_cells(encoder, "equal", number)
    assert len(equal) == len(set(equal)) == min(number, layers)
    assert {cell.timestep for cell in equal} == {timestep}
    assert equal[-1].layer == f"layer{layers - 1}"
    steps = np.diff([int(cell.layer.removeprefix("layer")) for cell in equal])
    assert (steps > 0).all()
    assert len(steps) == 0 or steps.max() - steps.min() <= 1, "they are not evenly spaced"


def test_cells_are_read_from_a_table_with_and_without_timesteps():
    table = pd.DataFrame({"layer": ["up", "map"], "timestep": [20, None]})
    cells = [Cell("up", 20), Cell("map")]
    assert cells_of(table) == cells
    assert cells_of(table.astype({"timestep": "Int64"})) == cells


def test_a_shifted_part_keeps_the_taxa_with_enough_images_at_home_and_away(shared):
    splits = make_splits(shared, "shapes")
    counts = {
        part: pd.Series(splits.taxa(splits[part])).value_counts() for part in ("test", "later")
    }
    both = pd.DataFrame(counts).reindex(splits.classes).fillna(0).min(axis=1)
    assert both.min() < both.max(), "every taxon has as many images"
    for least in both[both > 0]:
        parts = probed_parts(splits, "natural", int(least))
        frequent = set(both.index[both >= least])
        if len(frequent) > 1:
            assert set(splits.taxa(parts["later"])) == frequent
        else:  # macro-F1 over one taxon would know no false positives
            assert "later" not in parts
    assert "later" not in probed_parts(splits, "natural", int(both.max()) + 1)
