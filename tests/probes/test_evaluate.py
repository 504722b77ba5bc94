"""Judging a result on some taxa and against others, and the rank of an encoder."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from plankton_study.images.splits import make_splits
from plankton_study.probes.probe import best_lda_score, probe_encoder
from plankton_study.probes.result import evaluate


def test_a_result_judged_on_some_taxa_and_against_itself(shared):
    splits = make_splits(shared, "shapes")
    result = probe_encoder(shared, splits, "pixels + PCA", setting="balanced").of_each_draw[1]
    truth = splits.taxa(result.rows["test"]).astype(str)
    named = result.predicted_taxa("test")
    assert set(truth) == {"bar", "disc"}
    of_bars = evaluate(shared, splits, result, "test", taxa=("bar",))
    is_bar = truth == "bar"
    macro_f1 = f1_score(truth, named, labels=["bar"], average="macro")
    assert of_bars["accuracy"].value == pytest.approx(np.mean(named[is_bar] == truth[is_bar]))
    assert of_bars["accuracy"].n == is_bar.sum()
    assert of_bars["macro_f1"].value == pytest.approx(macro_f1)
    for delta in evaluate(shared, splits, result, "test", minus=result).values():
        assert delta[:3] == (0, 0, 0) and delta.p == 1


def test_results_of_other_images_are_not_compared(shared):
    splits = make_splits(shared, "shapes")
    result = probe_encoder(shared, splits, "pixels + PCA", setting="balanced")
    natural = probe_encoder(shared, splits, "pixels + PCA")
    rows = {**natural.rows, "test": natural.rows["test"][::-1]}
    with pytest.raises(ValueError, match="same images"):
        evaluate(shared, splits, result, "test", minus=replace(natural, rows=rows))


def test_the_rank_of_an_encoder_is_its_best_score_in_the_grid(shared):
    splits = make_splits(shared, "shapes")
    for setting in ("natural", "balanced"):
        result = probe_encoder(shared, splits, "pixels + PCA", setting)
        score, error = best_lda_score(shared, splits, result.encoder, setting)
        assert score == pytest.approx(result.grid["macro_f1"].max())
        assert error == pytest.approx(result.standard_error)
