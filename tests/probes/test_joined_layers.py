"""Probes on all layers of one timestep together."""

import numpy as np
import pandas as pd
import pytest
from penalised_lda import penalised_lda
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss
from sklearn.preprocessing import StandardScaler

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import ALL_LAYERS, HEAD, Cell, joined_cells
from plankton_study.images.splits import make_splits
from plankton_study.probes.linear import scaling
from plankton_study.probes.linear.lda import LdaPath, sharpness
from plankton_study.probes.linear.scaling import in_blocks
from plankton_study.probes.probe import probe_encoder, read_features
from plankton_study.probes.selection import JOINED
from plankton_study.questions.shift.shifted_parts import predict_elsewhere


@pytest.fixture
def splits(shared):
    return make_splits(shared, "shapes")


def test_a_cell_of_all_layers_joins_those_of_its_timestep_but_no_head():
    cells = [Cell("a", 5), Cell("b", 5), HEAD, Cell("a", 9)]
    assert joined_cells(Cell(ALL_LAYERS, 5), cells) == [Cell("a", 5), Cell("b", 5)]
    assert joined_cells(Cell("b", 5), cells) == [Cell("b", 5)]
    plain = [Cell("a"), Cell("b"), HEAD]
    assert joined_cells(Cell(ALL_LAYERS), plain) == [Cell("a"), Cell("b")]


def test_a_bank_joins_features_in_the_order_of_the_layers(tmp_path):
    cells = [Cell("wide", 5), Cell("narrow", 5), Cell("wide", 9)]
    arrays = {}
    for number, cell in enumerate(cells):
        width = 4 if cell.layer == "wide" else 2
        arrays[cell] = np.random.default_rng(number).normal(size=(6, width)).astype(np.float32)
        np.save(tmp_path / f"{cell}.npy", arrays[cell])
    bank = FeatureBank(tmp_path, np.arange(6) * 10, cells, pd.DataFrame())
    joined = Cell(ALL_LAYERS, 5)
    assert bank.width(joined) == 6
    rows = np.array([50, 0, 20])
    expected = np.hstack([arrays[cells[0]], arrays[cells[1]]])[[5, 0, 2]]
    assert np.array_equal(bank.take(joined, rows), expected)


@pytest.mark.parametrize("penalty", [1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("images", [30, 120])
@pytest.mark.parametrize("block_rows", [1000, 13])
def test_logits_equal_scikit_learns_also_with_more_features_than_images(
    monkeypatch, images, penalty, block_rows
):
    rng = np.random.default_rng(0)
    codes = np.arange(images) % 3
    # a steep spectrum, as of joined layers: small components within classes count as well
    spectrum = 10 ** np.linspace(0, -3, 60)
    mixing = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    features = (rng.normal(size=(images, 60)) + rng.normal(size=(3, 60))[codes]) * spectrum @ mixing
    features = StandardScaler().fit_transform(features).astype(np.float32)
    monkeypatch.setattr(scaling, "BLOCK_ROWS", block_rows)
    path = LdaPath([features[part] for part in in_blocks(np.arange(images))], codes)
    model = penalised_lda(penalty).fit(features.astype(float), codes)
    others = rng.normal(size=(50, 60)).astype(np.float32)
    weights, bias, _ = scorer = path.scorer(penalty)
    expected = model.decision_function(others)
    logits = others @ weights + bias
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    assert np.array_equal(scorer.predict([others]), expected.argmax(axis=1))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_sharpness_makes_the_probabilities_most_likely(scale):
    """Also of logits that are far too certain, or far too uncertain."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 400)
    logits = scale * (2 * np.eye(4)[codes] + rng.normal(0, 1.5, (400, 4)))
    best = sharpness(logits, codes)

    def loss(factor):
        return log_loss(codes, softmax(factor * logits, axis=1))

    assert loss(best) < min(loss(best / 1.3), loss(1.3 * best))


def test_the_probabilities_hold_the_class_shares_once(shared, splits):
    """Divided by the shares, as an adjusted prediction is, they are the scores of the features."""
    result = probe_encoder(shared, splits, "diffusion", search=JOINED)
    bank = read_features(shared, splits, "diffusion")[1]
    features = result.linear.scaler.transform(bank.take(result.selected, result.rows["test"]))
    path = LdaPath(
        [result.linear.scaler.transform(bank.take(result.selected, splits["train"]))],
        np.searchsorted(result.classes, splits.taxa(splits["train"]).astype(str)),
    )
    weights, bias, log_shares = path.scorer(result.linear.strength)
    expected = result.classes[(features @ weights + bias - log_shares).argmax(axis=1)]
    assert np.array_equal(result.predicted_taxa("test", adjusted=True), expected)


@pytest.mark.parametrize("name", ["diffusion", "ResNet, labels", "pixels + PCA"])
@pytest.mark.parametrize("setting", ["natural", "balanced"])
def test_the_timestep_and_the_penalty_are_selected_on_validation_images(
    shared, splits, name, setting
):
    result = probe_encoder(shared, splits, name, setting, search=JOINED)
    encoder = result.encoder
    timesteps = dict.fromkeys(cell.timestep for cell in encoder.cells if cell != HEAD)
    assert result.grid["layer"].tolist() == [ALL_LAYERS] * len(timesteps)
    assert result.selected.layer == ALL_LAYERS
    best = result.grid.loc[result.grid["macro_f1"].idxmax()]
    assert set(result.finalists["method"]) == {"LDA"}
    fit = result.finalists.loc[result.finalists["macro_f1"].idxmax()]
    assert fit["strength"] == result.linear.strength
    assert result.linear.strength in set(result.grid["penalty"])
    assert fit["macro_f1"] == best["macro_f1"]
    assert result.validation["linear"]["macro_f1"] == fit["macro_f1"]


def test_such_a_probe_is_the_discriminant_analysis_of_the_joined_features(shared, splits):
    result = probe_encoder(shared, splits, "diffusion", search=JOINED)
    _, bank = read_features(shared, splits, "diffusion")
    train = bank.take(result.selected, splits["train"])
    assert train.shape[1] == len(result.linear.weights)
    scaler = StandardScaler().fit(train)
    model = penalised_lda(result.linear.strength)
    model.fit(scaler.transform(train).astype(float), splits.taxa(splits["train"]).astype(str))
    rows = result.rows["test"]
    expected = model.decision_function(scaler.transform(bank.take(result.selected, rows)))
    predicted = result.classes[expected.argmax(axis=1)]
    assert np.array_equal(result.predicted_taxa("test"), predicted)
    truth = splits.taxa(rows).astype(str)
    assert f1_score(truth, predicted, average="macro") > 0.3


def test_such_a_probe_names_any_images(shared, splits):
    result = probe_encoder(shared, splits, "diffusion", search=JOINED)
    rows = result.rows["test"]
    records = splits.collection.records
    ids = records["id"].to_numpy()[rows].tolist()
    named = result.predict(splits.collection.images[rows], ids)
    assert np.array_equal(named, result.predicted_taxa("test"))


def test_such_a_probe_is_asked_elsewhere_on_the_same_layers(make_study, shared, splits):
    """Images that were not extracted before are read at the layers of the probe only."""
    result = probe_encoder(shared, splits, "diffusion", search=JOINED)
    rows = splits["novel"]
    on_parts, banks = predict_elsewhere(shared, splits, result, splits, {"novel": rows})
    timesteps = {cell.timestep for cell in banks["novel"].cells}
    assert result.selected.timestep in timesteps
    assert on_parts.heads["linear"]["novel"].shape == (len(rows), len(result.classes))
    direct = result.probabilities(banks["novel"], rows)
    np.testing.assert_allclose(on_parts.heads["linear"]["novel"], direct, atol=1e-6)
