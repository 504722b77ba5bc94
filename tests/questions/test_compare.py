"""Encoders side by side: what the tables and figures of the comparison are made of."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from plankton_study.images.splits import Splits, make_splits
from plankton_study.probes.intervals import holm
from plankton_study.probes.probe import probe_encoder
from plankton_study.probes.result import evaluate
from plankton_study.probes.selection import JOINED
from plankton_study.questions.compare import (
    METRICS,
    Comparison,
    best_on_validation,
    commonest_confusions,
    compare_encoders,
    cost_table,
    differences,
    differences_table,
    f1_by_taxon,
    fine_tuning_table,
    loss_trend,
    read_outs_table,
    scores_table,
    searches_table,
)
from plankton_study.report.formatting import text_table
from plankton_study.run.errors import StudyError

NAMES = ["diffusion", "random U-Net", "pixels + PCA"]


@pytest.fixture(scope="module")
def splits(shared) -> Splits:
    return make_splits(shared, "shapes")


@pytest.fixture(scope="module")
def comparison(shared, splits) -> Comparison:
    comparison = compare_encoders(shared, splits, "natural", names=NAMES)
    assert list(comparison.results) == NAMES and comparison.absent == {}
    return comparison


# --- scores, differences and searches


def test_what_is_not_available_stands_in_the_table_without_a_number(shared, splits, comparison):
    with_absent = comparison._replace(absent={"DINOv2": "there is no such folder"})
    table = scores_table(shared, splits, with_absent, "test", ("linear", "end to end"))
    assert table["encoder"].tolist() == [*NAMES, "DINOv2"]
    assert table["head"].tolist() == ["linear"] * 3 + ["not run"]
    assert (text_table(table).iloc[-1, 3:] == "").all()
    for name, accuracy in zip(NAMES, table["accuracy (%)"], strict=False):
        result = comparison.results[name]
        is_right = result.predicted_taxa("test") == splits.taxa(result.rows["test"])
        assert accuracy.value == pytest.approx(is_right.mean())
        assert accuracy.text().startswith(f"{100 * is_right.mean():.1f} [")


def test_an_encoder_that_is_not_available_is_left_out_with_the_reason(make_study, shared):
    elsewhere = '[encoders.DINOv2]\nkind = "pretrained"\nfolder = "no/such/folder"\n'
    study = make_study(more=elsewhere, cache=shared.cache)
    splits = make_splits(study, "shapes")
    names = ["pixels + PCA", "DINOv2"]
    comparison = compare_encoders(study, splits, "natural", names=names)
    assert list(comparison.results) == ["pixels + PCA"]
    assert list(comparison.absent) == ["DINOv2"]
    assert "no/such/folder" in comparison.absent["DINOv2"]


def test_a_comparison_knows_whether_its_images_are_the_same(comparison):
    assert comparison.same_images()
    pixels = comparison.results["pixels + PCA"]
    fewer = replace(pixels, rows={**pixels.rows, "later": pixels.rows["later"][1:]})
    others = {**comparison.results, "pixels + PCA": fewer}
    assert not Comparison(others, {}).same_images()


def test_a_difference_is_diffusion_minus_the_other_and_p_is_corrected_within_a_metric(
    shared, splits, comparison
):
    table = differences(shared, splits, comparison.results, "test")
    assert len(table) == 4
    by_metric = table.set_index(["metric", "encoder"])
    scores = {
        name: evaluate(shared, splits, result, "test")
        for name, result in comparison.results.items()
    }
    for metric, label in METRICS.items():
        for name in NAMES[1:]:
            expected = scores["diffusion"][metric].value - scores[name][metric].value
            assert by_metric.loc[(label, name), "estimate"].value == pytest.approx(expected)
        of_metric = by_metric.loc[label]
        p_values = [estimate.p for estimate in of_metric["estimate"]]
        assert np.allclose(of_metric["p_holm"], holm(p_values))
    shown = differences_table(table)
    assert shown["p (Holm)"].tolist() == table["p_holm"].tolist()
    assert shown["diffusion minus"].tolist() == table["encoder"].tolist()
    assert all(estimate.text()[0] in "+−0" for estimate in shown["difference (points)"])


def test_searches_show_fewer_candidates_first(shared, splits, comparison):
    results = comparison.results
    table = searches_table(shared, splits, results)
    largest = [int(column.split("(")[1].split()[0]) for column in table.columns[1:]]
    assert largest[0] == 1 and largest == sorted(largest)
    assert largest[1] == shared.profile.probes.candidates
    assert largest[2] == len(results["diffusion"].grid)
    macro_f1 = evaluate(shared, splits, results["pixels + PCA"], "test")["macro_f1"]
    assert table.set_index("encoder").loc["pixels + PCA"].iloc[-1] == macro_f1


def test_both_read_outs_are_those_of_their_searches(shared, splits, comparison):
    table = read_outs_table(shared, splits, comparison.results).set_index("encoder")
    joined = probe_encoder(shared, splits, "pixels + PCA", search=JOINED)
    expected = evaluate(shared, splits, joined, "test")["macro_f1"]
    row = table.loc["pixels + PCA"]
    assert row["all layers (%)"] == expected
    single = evaluate(shared, splits, comparison.results["pixels + PCA"], "test")["macro_f1"]
    assert row["one cell (%)"] == single
    assert row["gain (points)"].value == pytest.approx(expected.value - single.value)
    lead = table.loc["diffusion", "all layers (%)"].value - expected.value
    assert row["diffusion minus it (points)"].value == pytest.approx(lead)
    assert table.loc["diffusion", "diffusion minus it (points)"] is None
    assert int(table.loc["diffusion", "timestep"]) in shared.profile.features.timesteps


def test_the_rival_is_chosen_by_the_probe_that_is_tested(shared):
    def result(macro_f1, end_to_end):
        scores = {"linear": {"macro_f1": macro_f1}, "end to end": {"macro_f1": end_to_end}}
        draw = SimpleNamespace(validation=scores)
        return SimpleNamespace(validation=scores, of_each_draw=(draw, draw))

    lucky = result(0.50, 0.90)
    results = {
        "U-Net, labels": lucky,
        "ResNet, labels": result(0.60, 0.40),
        "SimCLR": result(0.99, 0.99),
    }
    assert best_on_validation(shared, results, "labels", "end to end") == "U-Net, labels"
    assert best_on_validation(shared, results, "labels") == "ResNet, labels"
    assert best_on_validation(shared, results, "self-supervised") == "SimCLR"
    with pytest.raises(StudyError, match="no encoder that learnt from 'elsewhere' is left"):
        best_on_validation(shared, results, "elsewhere")


def test_without_unets_trained_with_labels_the_table_of_fine_tuning_is_empty(shared):
    splits = make_splits(shared, "shapes")
    only_diffusion = Comparison({"diffusion": probe_encoder(shared, splits, "diffusion")}, {})
    table = fine_tuning_table(shared, splits, only_diffusion)
    assert table.empty
    assert {"encoder", "head"} <= set(table.columns)


# --- learning and cost


@pytest.mark.parametrize(
    ("losses", "trend"),
    [
        ([9.0, 1.00, 0.99, 0.97], "still falling"),
        ([9.0, 1.00, 0.90, 0.99], "flat"),
        ([9.0, 1.00, 2.00, 1.01], "flat"),
        ([0.1, 1.00, 1.01, 1.03], "rising"),
        ([1.0, 0.5], "still falling"),
        ([1.0], "flat"),
    ],
)
def test_the_trend_of_a_loss_is_that_of_the_last_doubling_before_the_cooldown(losses, trend):
    seen = [250 * 2 ** (point / 2) for point in range(len(losses))]
    curve = pd.DataFrame({"images_seen": seen, "held_out": losses})
    curve.loc[len(curve)] = {"images_seen": seen[-1] / 0.8, "held_out": 0.1}  # cooled down
    assert loss_trend(curve, cooldown=0.2) == trend


def test_costs_are_listed_as_far_as_they_are_known(shared):
    costs = {
        "diffusion": {"parameters": 1000.0, "images_seen": 320, "flops": 5e9, "seconds": 12.6},
        "random U-Net": {"parameters": 1000},
        "pixels + PCA": {"parameters": 80, "images_seen": 45},
    }
    results = {
        name: SimpleNamespace(encoder=SimpleNamespace(cost=cost)) for name, cost in costs.items()
    }
    table = cost_table(shared, results)
    columns = ["encoder", "learnt from", "parameters", "images seen", "training GFLOPs", "seconds"]
    assert table.columns.tolist() == columns
    assert table["learnt from"].tolist() == ["diffusion", "nothing", "nothing"]
    texts = text_table(table).set_index("encoder")[columns[2:]]
    assert texts.loc["diffusion"].tolist() == ["1,000", "320", "1,600", "13"]
    assert texts.loc["random U-Net"].tolist() == ["1,000", "", "", ""]
    assert texts.loc["pixels + PCA"].tolist() == ["80", "45", "", ""]
    assert all(type(value) is int for value in table.iloc[0, 2:])


# --- taxa and confusions


@dataclass
class NamedImages:
    """As much of a result as the tables of taxa look at: what images were named."""

    name: str
    rows: dict[str, np.ndarray]
    taxa: dict[str, np.ndarray]

    def predicted_taxa(self, part: str) -> np.ndarray:
        return self.taxa[part]


def made_up_splits(taxa: str) -> Splits:
    """Return splits of a collection with these taxa, a letter each."""
    collection = SimpleNamespace(records=pd.DataFrame({"taxon": list(taxa)}))
    return Splits(collection, {}, (), (), {})


def test_f1_by_taxon_shows_the_smallest_gain_first():
    splits = made_up_splits("xxaaabbc")
    rows = {"test": np.arange(2, 8)}
    first = NamedImages("first", rows, {"test": np.array(list("aaabba"))})
    second = NamedImages("second", rows, {"test": np.array(list("aabbbc"))})
    table = f1_by_taxon(splits, first, second)
    assert table.columns.tolist() == ["taxon", "images", "first", "second", "gain"]
    assert table["taxon"].tolist() == ["c", "a", "b"]
    assert table["images"].tolist() == [1, 3, 2]
    assert table["first"].tolist() == pytest.approx([0, 600 / 7, 100])
    assert table["second"].tolist() == pytest.approx([100, 80, 80])
    assert table["gain"].tolist() == pytest.approx([-100, 600 / 7 - 80, 20])


def test_the_commonest_confusions_come_first_with_their_images():
    splits = made_up_splits("xaaabbbbc")
    rows = {"later": np.arange(1, 9)}
    result = NamedImages("made up", rows, {"later": np.array(list("abcaaabb"))})
    table = commonest_confusions(splits, result, number=3, part="later")
    assert table.columns.tolist() == ["true", "taken for", "count", "rows"]
    pairs = list(zip(table["true"], table["taken for"], table["count"], strict=True))
    assert pairs == [("b", "a", 3), ("a", "b", 1), ("a", "c", 1)]
    assert table["rows"].tolist() == [[4, 5, 6], [2], [3]]


def test_a_probe_without_errors_has_no_confusions():
    splits = made_up_splits("ab")
    rows = np.arange(2)
    result = NamedImages("made up", {"test": rows}, {"test": np.array(["a", "b"])})
    assert len(commonest_confusions(splits, result)) == 0
