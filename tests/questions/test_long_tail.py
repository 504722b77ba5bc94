"""Tail, middle and head: which taxon belongs where, and how well each region is named."""

import pandas as pd
import pytest
from sklearn.metrics import f1_score

from plankton_study.images.splits import make_splits
from plankton_study.questions.compare import compare_encoders
from plankton_study.questions.long_tail import (
    REMEDIES,
    describe_region,
    label_counts,
    regions_table,
    remedies_table,
    tail_regions,
)

BOUNDS = (20, 100)


def test_taxa_belong_to_tail_middle_or_head_by_their_images():
    counts = pd.Series({"a": 500, "b": 100, "c": 99, "d": 20, "e": 19, "f": 1})
    regions = tail_regions(counts, BOUNDS)
    assert regions == {"tail": ("e", "f"), "middle": ("c", "d"), "head": ("a", "b")}
    assert list(regions) == ["tail", "middle", "head"]


def test_a_region_without_taxa_is_left_out():
    assert tail_regions(pd.Series({"a": 500, "b": 3}), BOUNDS) == {"tail": ("b",), "head": ("a",)}
    assert tail_regions(pd.Series({"a": 50}), BOUNDS) == {"middle": ("a",)}


def test_a_region_is_described_by_the_images_of_its_taxa():
    assert describe_region("tail", BOUNDS) == "fewer than 20"
    assert describe_region("middle", BOUNDS) == "20 to 99"
    assert describe_region("head", BOUNDS) == "100 or more"


@pytest.fixture(scope="module")
def compared(shared):
    splits = make_splits(shared, "shapes")
    names = ["diffusion", "pixels + PCA"]
    return splits, compare_encoders(shared, splits, "natural", names=names).results


def test_the_tables_of_a_run_judge_the_taxa_of_each_region(shared, compared):
    splits, results = compared
    counts = label_counts(splits)
    assert counts.sum() == len(splits["train"]) and counts.is_monotonic_decreasing
    most = int(counts.max())
    regions = tail_regions(counts, (most, most + 1))
    assert [len(taxa) for taxa in regions.values()] == [2, 1]
    table = regions_table(shared, splits, results, regions)
    assert len(table) == len(results) * len(regions)
    lines = table.set_index(["encoder", "region"])
    pixels = results["pixels + PCA"]
    truth = splits.taxa(pixels.rows["test"]).astype(str)
    tested_tail = sorted(set(truth) & set(regions["tail"]))
    macro_f1 = f1_score(truth, pixels.predicted_taxa("test"), labels=tested_tail, average="macro")
    of_tail = lines.loc[("pixels + PCA", "tail")]
    assert of_tail["macro-F1 (%)"].value == pytest.approx(macro_f1)
    assert of_tail["images"] == sum(taxon in regions["tail"] for taxon in truth)
    of_diffusion = lines.loc[("diffusion", "tail")]
    gain = of_diffusion["macro-F1 (%)"].value - macro_f1
    assert of_tail["diffusion minus it (points)"].value == pytest.approx(gain)
    assert of_diffusion["diffusion minus it (points)"] is None


def test_every_remedy_is_judged_for_every_encoder(shared, compared):
    splits, results = compared
    table = remedies_table(shared, splits, results, splits.classes)
    assert table["encoder"].tolist() == [name for name in results for _ in REMEDIES]
    assert table["probe"].tolist() == list(REMEDIES) * len(results)
    # all taxa are in the last column, so it repeats the one before it
    assert table["macro-F1, rare taxa (%)"].tolist() == table["macro-F1 (%)"].tolist()
