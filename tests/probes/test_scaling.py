"""Standardised features, and more rows than fit into memory."""

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import Cell
from plankton_study.probes.linear import scaling
from plankton_study.probes.linear.lda import lda_grid
from plankton_study.probes.linear.logistic import logistic_path
from plankton_study.probes.linear.scaling import in_blocks, scaled_features
from plankton_study.run.schema import Probes

TAXA = np.array(["a", "b", "c", "d"])
CELL = Cell("layer", 3)
ROWS = {
    "train": np.arange(120),
    "validation": np.arange(120, 160),
    "later": np.arange(160, 200),
}


@pytest.fixture
def long_bank(tmp_path):
    """A bank of one cell with 200 rows, and their taxa."""
    rng = np.random.default_rng(3)
    taxa = rng.choice(TAXA, 200)
    centres = 2 * rng.normal(size=(4, 20))
    x = rng.normal(size=(200, 20)) + centres[np.searchsorted(TAXA, taxa)] + 5
    np.save(tmp_path / f"{CELL}.npy", x.astype(np.float32))
    return FeatureBank(tmp_path, np.arange(200), [CELL], pd.DataFrame()), taxa


def test_features_are_scaled_by_the_training_rows(long_bank):
    bank, _ = long_bank
    train, validation = scaled_features(bank, CELL, ROWS["train"], ROWS["validation"])
    scaler = StandardScaler().fit(bank.take(CELL, ROWS["train"]))
    for features, part in ((train, "train"), (validation, "validation")):
        expected = scaler.transform(bank.take(CELL, ROWS[part]))
        np.testing.assert_allclose(features.whole(), expected, atol=1e-5)
        assert features.whole().dtype == np.float32


@pytest.mark.parametrize("block_rows", [7, 37, 119])
def test_blocks_give_what_all_rows_at_once_give(long_bank, monkeypatch, block_rows):
    bank, taxa = long_bank
    names = {part: taxa[index] for part, index in ROWS.items()}
    codes = np.searchsorted(TAXA, names["train"])

    def fit_probes():
        train, validation = scaled_features(bank, CELL, ROWS["train"], ROWS["validation"])
        weight = np.linspace(1, 2, 120)
        path = list(logistic_path(train, codes, [0.1, 1.0], weight, tolerance=1e-5))
        grid = lda_grid(bank, [CELL], ROWS, names, Probes())
        return train, grid.table, [model.probabilities(validation) for model in path]

    at_once, table, chances = fit_probes()
    assert len(at_once.parts) == 1
    monkeypatch.setattr(scaling, "BLOCK_ROWS", block_rows)
    blocks, table_of_blocks, chances_of_blocks = fit_probes()
    assert len(blocks.parts) == -(-120 // block_rows)
    assert max(len(block) for block in blocks) <= block_rows
    pd.testing.assert_frame_equal(table, table_of_blocks, atol=0.01)
    np.testing.assert_allclose(chances_of_blocks, chances, atol=1e-3)


def test_several_blocks_are_read_anew_in_each_iteration(long_bank, monkeypatch):
    bank, _ = long_bank
    monkeypatch.setattr(scaling, "BLOCK_ROWS", 37)
    (train,) = scaled_features(bank, CELL, ROWS["train"])
    rows_read = []
    take = FeatureBank.take

    def counted(bank, cell, rows):
        rows_read.append(len(rows))
        return take(bank, cell, rows)

    monkeypatch.setattr(FeatureBank, "take", counted)
    for _ in range(2):
        list(train)
    assert sum(rows_read) == 240


def test_a_block_may_hold_a_single_row(long_bank, monkeypatch):
    bank, taxa = long_bank
    names = {part: taxa[index] for part, index in ROWS.items()}
    codes = np.searchsorted(TAXA, names["train"])

    def fit_probes():
        (train,) = scaled_features(bank, CELL, ROWS["train"])
        (model,) = logistic_path(train, codes, [0.1])
        return lda_grid(bank, [CELL], ROWS, names, Probes()).table, model.probabilities(train)

    table, chances = fit_probes()
    monkeypatch.setattr(scaling, "BLOCK_ROWS", 1)
    assert [len(block) for block in in_blocks(ROWS["train"])] == [1] * 120
    table_of_rows, chances_of_rows = fit_probes()
    pd.testing.assert_frame_equal(table, table_of_rows, atol=0.01)
    np.testing.assert_allclose(chances_of_rows, chances, atol=1e-3)


def test_a_single_block_is_read_once(long_bank, monkeypatch):
    bank, _ = long_bank
    (train,) = scaled_features(bank, CELL, ROWS["train"])
    monkeypatch.delattr(FeatureBank, "take")
    assert np.array_equal(train.whole(), train.whole())


def test_blocks_hold_all_rows_in_order():
    blocks = in_blocks(np.arange(200_000))
    assert [len(block) for block in blocks] == [50_000] * 4
    assert np.array_equal(np.concatenate(blocks), np.arange(200_000))
    assert [len(block) for block in in_blocks(np.arange(0))] == [0]
