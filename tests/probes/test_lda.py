"""LDA probes against scikit-learn's, on all features and on principal components."""

import numpy as np
import pandas as pd
import pytest
from penalised_lda import penalised_lda
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import Cell
from plankton_study.images.splits import make_splits
from plankton_study.probes.intervals import units_of
from plankton_study.probes.linear.lda import best_penalty, lda_grid
from plankton_study.probes.probe import probe_encoder, read_features
from plankton_study.probes.selection import near_best, probed_parts
from plankton_study.run.schema import Probes

TAXA = np.array(["a", "b", "c", "d"])


@pytest.fixture
def planted(tmp_path):
    """A bank, rows and taxa: 60 rows train, 40 validate, 30 test.

    Of its three cells one holds the class, one half of it, and one is noise.
    """
    rng = np.random.default_rng(0)
    taxa = rng.choice(TAXA, 130)
    signal = np.eye(4)[np.searchsorted(TAXA, taxa)] @ rng.normal(0, 1, (4, 12))
    cells = [Cell("noise", 10), Cell("half", 10), Cell("good", 10)]
    for cell, strength in zip(cells, (0, 0.3, 1.2), strict=True):
        scale = 10 ** rng.uniform(-2, 2, 12)
        values = (strength * signal + rng.normal(0, 1, signal.shape)) * scale + scale
        np.save(tmp_path / f"{cell}.npy", values.astype(np.float32))
    layers = pd.DataFrame({"stage": "up", "resolution": 8, "channels": 12, "order": range(3)})
    layers.index = pd.Index([cell.layer for cell in cells], name="layer")
    rows = {
        "train": np.arange(60),
        "validation": np.arange(60, 100),
        "test": np.arange(100, 130),
    }
    bank = FeatureBank(tmp_path, np.arange(130), cells, layers)
    return bank, rows, {part: taxa[index] for part, index in rows.items()}


def narrow_layer(bank: FeatureBank, layer: str, width: int) -> None:
    """Let a layer of a bank have fewer features than the others."""
    (cell,) = [cell for cell in bank.cells if cell.layer == layer]
    np.save(bank.folder / f"{cell}.npy", np.array(bank[cell][:, :width]))


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_probes_equal_scikit_learns_also_on_principal_components(planted, penalty):
    bank, rows, taxa = planted
    narrow_layer(bank, "noise", 3)
    config = Probes(penalties=(penalty,))
    grid = lda_grid(bank, bank.cells, rows, taxa, config)
    for number, cell in enumerate(bank.cells):
        scaler = StandardScaler().fit(bank.take(cell, rows["train"]))
        train = scaler.transform(bank.take(cell, rows["train"])).astype(float)
        validation = scaler.transform(bank.take(cell, rows["validation"])).astype(float)
        pca = PCA(3).fit(train)
        narrow_train, narrow_validation = pca.transform(train), pca.transform(validation)
        for train_x, validation_x, predicted, column in (
            (train, validation, grid.predicted[number], "macro_f1"),
            (
                narrow_train,
                narrow_validation,
                grid.predicted_at_equal_width[number],
                "equal_width",
            ),
        ):
            named = penalised_lda(penalty).fit(train_x, taxa["train"]).predict(validation_x)
            assert np.array_equal(predicted, named)
            macro_f1 = f1_score(taxa["validation"], named, average="macro")
            assert grid.table[column][number] == pytest.approx(macro_f1)
    assert not np.array_equal(grid.predicted, grid.predicted_at_equal_width)


def test_equal_width_is_the_smallest_of_the_compared_cells(planted):
    """A wide layer must not keep more features than the narrowest layer has."""
    bank, rows, taxa = planted
    assert lda_grid(bank, bank.cells, rows, taxa, Probes()).width == 12
    narrow_layer(bank, "half", 5)
    assert lda_grid(bank, bank.cells, rows, taxa, Probes()).width == 5
    wide_only = [cell for cell in bank.cells if cell.layer != "half"]
    assert lda_grid(bank, wide_only, rows, taxa, Probes()).width == 12


def test_the_penalty_is_selected_by_the_metric_of_the_profile(planted):
    """Of several penalties each cell gets the one whose probe scores best by that metric."""
    bank, rows, taxa = planted
    penalties = (1e-3, 1e-1, 1.0, 10.0, 100.0)
    for metric in ("accuracy", "macro_f1"):
        table = lda_grid(
            bank, bank.cells, rows, taxa, Probes(penalties=penalties, metric=metric)
        ).table
        for penalty in penalties:
            config = Probes(penalties=(penalty,), metric=metric)
            other = lda_grid(bank, bank.cells, rows, taxa, config).table
            assert (table[metric] >= other[metric]).all()


def test_a_penalty_that_names_only_the_common_taxon_is_best_by_accuracy_alone():
    truth = np.array(["common"] * 90 + ["rare"] * 10)
    lazy = np.full(100, "common")
    fair = np.where(np.arange(100) < 20, "rare", truth)
    predicted = {0.1: lazy, 0.01: fair}
    assert best_penalty(predicted, truth, "accuracy") == 0.1
    assert best_penalty(predicted, truth, "macro_f1") == 0.01


def test_the_grid_finds_the_cell_that_holds_the_class_and_keeps_to_the_candidates(planted):
    bank, rows, taxa = planted
    grid = lda_grid(bank, bank.cells, rows, taxa, Probes())
    assert grid.table["layer"].tolist() == ["noise", "half", "good"]
    assert grid.table["accuracy"].idxmax() == 2
    of_half = lda_grid(bank, bank.cells[1:2], rows, taxa, Probes())
    assert of_half.table["layer"].tolist() == ["half"]
    assert np.array_equal(of_half.predicted, grid.predicted[1:2])


def test_a_new_grid_over_a_probes_parts_is_the_stored_one(shared):
    splits = make_splits(shared, "shapes")
    config = shared.profile.probes
    result = probe_encoder(shared, splits, "diffusion")
    encoder, bank = read_features(shared, splits, "diffusion")
    validation = result.rows["validation"]
    rows = {
        "train": probed_parts(splits, "natural")["train"],
        "validation": validation,
        "same": validation,
        "later": result.rows["later"],
    }
    taxa = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
    table, predicted, narrow, width, _ = lda_grid(bank, encoder.cells, rows, taxa, config)
    truth, units = taxa["validation"], units_of(splits, validation)
    near_narrow = near_best(truth, narrow, units, config.draws, config.metric)
    assert result.grid["near_best_equal_width"].tolist() == near_narrow.is_near.tolist()
    sureness = near_best(truth, predicted, units, config.draws, config.metric)
    assert result.standard_error == pytest.approx(sureness.standard_error)
    assert result.equal_width == width
    shares = zip(encoder.cells, sureness.share, sureness.is_near, strict=True)
    assert result.near_best == {str(cell): share for cell, share, is_near in shares if is_near}
    for column in ("accuracy", "macro_f1", "penalty", "equal_width"):
        np.testing.assert_array_equal(table[column], result.grid[column])
    np.testing.assert_allclose(table["same"], table[config.metric])
    np.testing.assert_allclose((predicted == truth).mean(axis=1), table["accuracy"])
    assert table["later"].between(0, 1).all()
