"""Encoders side by side: what the tables and figures of notebooks 04 and 05 are made of."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from plankton_study import compare, metrics, probes, splits
from plankton_study.profile import StudyError

NAMES = ["diffusion", "random U-Net", "pixels + PCA"]


@pytest.fixture(scope="module")
def ran(shared):
    parts = splits.make(shared, "shapes")
    results, absent = compare.run(shared, parts, "natural", names=NAMES)
    assert absent == {}
    return parts, results


def test_what_cannot_be_had_stands_in_the_table_without_a_number(shared, ran):
    parts, results = ran
    table = compare.scores(shared, parts, results, "test", ("linear", "end to end"), ["DINOv2"])
    assert table["encoder"].tolist() == [*NAMES, "DINOv2"]
    assert table["head"].tolist() == ["linear"] * 3 + ["not run"]
    assert (table.iloc[-1, 3:] == "").all()
    for name, shown in zip(NAMES, table["accuracy (%)"], strict=False):
        right = results[name].predicted("test") == parts.taxa(results[name].rows["test"])
        assert shown.startswith(f"{100 * right.mean():.1f} [")


def test_a_difference_is_diffusion_minus_the_other_and_p_is_corrected_within_a_metric(shared, ran):
    parts, results = ran
    table = compare.differences(shared, parts, results, "test").set_index(["metric", "encoder"])
    assert len(table) == 4
    single = {name: probes.evaluate(shared, parts, results[name], "test") for name in NAMES}
    for key, label in compare.METRICS.items():
        for name in NAMES[1:]:
            expected = single["diffusion"][key].value - single[name][key].value
            assert table.loc[(label, name), "estimate"].value == pytest.approx(expected)
        assert np.allclose(
            table.loc[label, "p_holm"], metrics.holm([e.p for e in table.loc[label, "estimate"]])
        )
    shown = compare.written(compare.differences(shared, parts, results, "test"))
    assert shown["p (Holm)"].tolist() == [f"{p:.3f}" for p in table["p_holm"]]
    assert all(estimate.text()[0] in "+-0" for estimate in shown["difference (points)"])


def test_a_point_is_filled_where_the_corrected_p_is_small():
    rows = [
        ("one", "labels", "accuracy", metrics.Estimate(0.1, 0.05, 0.15, 9, 0.01), 0.02),
        ("two", "nothing", "accuracy", metrics.Estimate(0, -1, 1, 9, 0.04), 0.08),
    ]
    columns = ["encoder", "learnt from", "metric", "estimate", "p_holm"]
    delta = pd.DataFrame([*rows, *[(*r[:2], "macro-F1", *r[3:]) for r in rows]], columns=columns)
    figure = compare.forest(delta)
    for ax in figure.axes:
        filled = [
            line.get_markerfacecolor() != "white"
            for line in ax.lines
            if line.get_marker() in ("o", "s")
        ]
        assert filled == [True, False]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one", "two"]


def test_searches_show_fewer_candidates_first(shared, ran):
    parts, results = ran
    table = compare.searches(shared, parts, results)
    most = [int(column.split("(")[1].split()[0]) for column in table.columns[1:]]
    assert most[0] == 1 and most == sorted(most)
    assert most[1] == shared.profile.probes.candidates
    assert most[2] == len(results["diffusion"].grid)
    shown = probes.evaluate(shared, parts, results["pixels + PCA"], "test")["macro_f1"].text()
    assert table.set_index("encoder").loc["pixels + PCA"].iloc[-1] == shown


def test_the_rival_is_chosen_by_the_probe_that_is_tested(shared):
    def result(macro_f1, *finalists):
        return SimpleNamespace(
            validation={"macro_f1": macro_f1}, finalists=pd.DataFrame({"macro_f1": finalists})
        )

    lucky = result(
        0.50, 0.50, 0.90
    )  # its best macro-F1 belongs to a probe that accuracy did not choose
    results = {
        "U-Net, labels": lucky,
        "ResNet, labels": result(0.60, 0.60, 0.40),
        "SimCLR": result(0.99, 0.99),
    }
    assert compare.best_on_validation(shared, results, "labels") == "ResNet, labels"
    assert compare.best_on_validation(shared, results, "self-supervised") == "SimCLR"
    with pytest.raises(StudyError, match="no encoder that learnt from 'elsewhere' is left"):
        compare.best_on_validation(shared, results, "elsewhere")
