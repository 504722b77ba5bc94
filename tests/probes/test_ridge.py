"""Ridge probes against scikit-learn's, on all features and on principal components."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import Cell
from plankton_study.images.splits import make_splits
from plankton_study.probes.probe import probe_encoder, read_features
from plankton_study.probes.ridge import ridge_grid
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


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_ridge_equals_scikit_learns_ridge_also_on_principal_components(planted, penalty):
    bank, rows, taxa = planted
    config = Probes(ridge=(penalty,), width=3)
    grid = ridge_grid(bank, bank.cells, rows, taxa, config)
    targets = np.eye(4)[np.searchsorted(TAXA, taxa["train"])]
    for number, cell in enumerate(bank.cells):
        scaler = StandardScaler().fit(bank.take(cell, rows["train"]))
        train = scaler.transform(bank.take(cell, rows["train"])).astype(float)
        validation = scaler.transform(bank.take(cell, rows["validation"])).astype(float)
        pca = PCA(3).fit(train)
        narrow_train, narrow_validation = pca.transform(train), pca.transform(validation)
        for train_x, validation_x, is_right, column in (
            (train, validation, grid.is_right[number], "accuracy"),
            (
                narrow_train,
                narrow_validation,
                grid.is_right_at_equal_width[number],
                "equal_width",
            ),
        ):
            model = Ridge(alpha=penalty * len(train)).fit(train_x, targets)
            named = TAXA[model.predict(validation_x).argmax(axis=1)]
            expected = named == taxa["validation"]
            assert np.array_equal(is_right, expected)
            assert grid.table[column][number] == pytest.approx(expected.mean())
    assert not np.array_equal(grid.is_right, grid.is_right_at_equal_width)


def test_the_grid_finds_the_cell_that_holds_the_class_and_keeps_to_the_candidates(planted):
    bank, rows, taxa = planted
    grid = ridge_grid(bank, bank.cells, rows, taxa, Probes())
    assert grid.table["layer"].tolist() == ["noise", "half", "good"]
    assert grid.table["accuracy"].idxmax() == 2
    of_half = ridge_grid(bank, bank.cells[1:2], rows, taxa, Probes())
    assert of_half.table["layer"].tolist() == ["half"]
    assert np.array_equal(of_half.is_right, grid.is_right[1:2])


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
    table, is_right, is_right_narrow = ridge_grid(bank, encoder.cells, rows, taxa, config)
    groups = splits.groups(validation)
    is_near_narrow = near_best(is_right_narrow, groups, config.draws).is_near
    assert result.grid["near_best_equal_width"].tolist() == is_near_narrow.tolist()
    sureness = near_best(is_right, groups, config.draws)
    assert result.standard_error == pytest.approx(sureness.standard_error)
    shares = zip(encoder.cells, sureness.share, sureness.is_near, strict=True)
    assert result.near_best == {str(cell): share for cell, share, is_near in shares if is_near}
    for column in ("accuracy", "macro_f1", "penalty", "equal_width"):
        np.testing.assert_array_equal(table[column], result.grid[column])
    np.testing.assert_allclose(table["same"], table["accuracy"])
    np.testing.assert_allclose(is_right.mean(axis=1), table["accuracy"])
    assert table["later"].between(0, 1).all()
