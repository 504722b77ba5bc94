"""The attentive probe: what it reads, how it is selected, and that it stands beside others."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import Cell
from plankton_study.images.splits import make_splits
from plankton_study.probes import attentive
from plankton_study.probes.attentive import ATTENTIVE, AttentiveProbe, attend
from plankton_study.probes.probe import probe_encoder
from plankton_study.probes.result import evaluate
from plankton_study.questions import compare
from plankton_study.run.schema import Attentive


@pytest.fixture
def splits(shared):
    return make_splits(shared, "shapes")


def with_keys(study, **keys):
    """Return the study with other keys of [attentive]."""
    settings = study.profile.attentive.model_copy(update=keys)
    return replace(study, profile=study.profile.model_copy(update={"attentive": settings}))


def test_a_query_takes_the_class_from_the_cell_that_the_image_points_to(shared, tmp_path):
    """Each of two cells says a class, and whether it counts.

    No linear classifier of all features finds the class: that needs the product of the two.
    """
    rng = np.random.default_rng(0)
    images = 900
    claimed = rng.integers(0, 2, (images, 2))  # what each of the two cells says
    pointer = rng.integers(0, 2, images)
    codes = claimed[np.arange(images), pointer]
    cells = [Cell("a", 10), Cell("a", 20)]
    for position, cell in enumerate(cells):
        # each cell says its class, and whether it counts
        counts = np.where(pointer == position, 3.0, -3.0)
        said = np.where(claimed[:, position] == 1, 2.0, -2.0)
        values = np.column_stack([said, counts]) + rng.normal(0, 0.3, (images, 2))
        np.save(tmp_path / f"{cell}.npy", values.astype(np.float32))
    bank = FeatureBank(tmp_path, np.arange(images), cells, pd.DataFrame())
    parts = {"validation": np.arange(600, 700), "test": np.arange(700, images)}
    classes = np.array(["first", "second"])
    study = with_keys(shared, width=16, queries=2, epochs=(40,), learning_rate=2e-2)
    fitting = attentive._Fitting(study, "planted", bank, cells, np.arange(600), codes[:600])
    predicted = fitting.run(parts, classes, classes[codes[600:700]])
    joined = np.concatenate([bank[cell] for cell in cells], axis=1)
    linear = LogisticRegression().fit(joined[:600], codes[:600])
    assert linear.score(joined[700:], codes[700:]) < 0.85
    right = predicted["test"].argmax(axis=1) == codes[700:]
    assert right.mean() > 0.95
    assert predicted["scores"]["accuracy"] > 0.95


def test_the_head_stands_beside_the_others_and_is_the_same_again(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    attending = attend(shared, splits, result)
    assert set(attending.heads) == {*result.heads, ATTENTIVE}
    for part, rows in result.rows.items():
        chances = attending.heads[ATTENTIVE][part]
        assert chances.shape == (len(rows), len(result.classes))
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    scores = evaluate(shared, splits, attending, "test", ATTENTIVE)
    assert 0 <= scores["macro_f1"].low <= scores["macro_f1"].high <= 1
    again = attend(replace(shared, cache=shared.cache / "again"), splits, result)
    np.testing.assert_allclose(
        again.heads[ATTENTIVE]["test"], attending.heads[ATTENTIVE]["test"], atol=1e-6
    )


def test_the_length_of_its_training_is_selected_on_validation_images(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    alone = [attend(with_keys(shared, epochs=(epochs,)), splits, result) for epochs in (1, 6)]
    both = attend(with_keys(shared, epochs=(1, 6)), splits, result)
    scores = [fit.validation[ATTENTIVE]["macro_f1"] for fit in alone]
    assert scores[0] != scores[1]
    assert both.validation[ATTENTIVE]["macro_f1"] == max(scores)


def test_each_draw_of_balanced_labels_has_a_probe_of_its_own(shared, splits):
    result = probe_encoder(shared, splits, "MAE", "balanced")
    attending = attend(shared, splits, result)
    assert len(attending.of_each_draw) == len(result.of_each_draw) > 1
    first, second = (draw.heads[ATTENTIVE]["test"] for draw in attending.of_each_draw[:2])
    assert not np.allclose(first, second)


@pytest.mark.parametrize("steps", [1, 10, 500])
def test_its_learning_rate_rises_shortly_and_falls_to_nearly_zero(steps):
    factors = [attentive._rate_factor(step, steps) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert np.argmax(factors) <= 0.15 * steps
    if steps == 500:
        assert factors[-1] < 0.01 and factors[0] < 0.05


def test_a_layer_has_one_projection_for_all_timesteps():
    widths = {Cell("a", 10): 4, Cell("b", 10): 6, Cell("a", 20): 4, Cell("b", 20): 6}
    probe = AttentiveProbe(widths, 3, Attentive(width=8, queries=2))
    assert [linear.in_features for linear in probe.project] == [4, 6]
    features = [torch.randn(5, width) for width in widths.values()]
    assert probe.eval()(features).shape == (5, 3)


def test_read_outs_show_it_for_natural_labels_only(shared, splits):
    names = ("diffusion", "SimCLR")
    for setting, has_it in (("natural", True), ("balanced", False)):
        results = compare.compare_encoders(shared, splits, setting, names=names).results
        table = compare.read_outs_table(shared, splits, results)
        assert ("attentive (%)" in table) == has_it
