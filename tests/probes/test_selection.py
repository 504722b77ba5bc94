"""What may be chosen, and how sure a choice is."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study.features.interface import HEAD, Cell
from plankton_study.images.splits import make_splits
from plankton_study.probes.selection import candidate_cells, cells_of, near_best, probed_parts


def test_equal_cells_share_the_selection():
    is_right = np.random.default_rng(0).random((2, 500)) < 0.6
    _, is_near, share = near_best(np.vstack([is_right, is_right[0]]), np.arange(500), 200)
    assert is_near[0] == is_near[2] and share[2] == 0  # a tie goes to the first


def test_the_cell_that_holds_the_class_wins_every_draw():
    rng = np.random.default_rng(0)
    is_right = rng.random((3, 400)) < np.array([[0.3], [0.5], [0.9]])
    error, is_near, share = near_best(is_right, np.arange(400), 200)
    assert is_near.tolist() == [False, False, True] and share.tolist() == [0, 0, 1]
    assert error == pytest.approx((0.9 * 0.1 / 400) ** 0.5, rel=0.2)


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


def test_a_shifted_part_keeps_the_taxa_with_enough_images(shared):
    splits = make_splits(shared, "shapes")
    counts = pd.Series(splits.taxa(splits["later"])).value_counts()
    counts = counts[counts.index.isin(splits.classes)]
    assert counts.min() < counts.max(), "every taxon of the part has as many images"
    for least in counts:
        kept = set(splits.taxa(probed_parts(splits, "natural", least)["later"]))
        assert kept == set(counts.index[counts >= least])
    assert "later" not in probed_parts(splits, "natural", counts.max() + 1)
