"""Curves over budgets: slopes, the rule for the gap, and where lines cross."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study.images.splits import make_splits
from plankton_study.questions.training import budgets
from plankton_study.questions.training.budgets import (
    CLOSES,
    LEAD_GROWS,
    LEAD_SHRINKS,
    UNKNOWN,
    WIDENS,
    Line,
)
from plankton_study.report.tidy import tidy_table

SEEN = [20_000, 40_000, 80_000, 160_000, 320_000]


def planted(slopes: dict[str, list[float]], start: dict[str, float], more=()) -> pd.DataFrame:
    """Return scores on straight lines: encoder → the slope of each seed, and score at 20,000."""
    lines = []
    for encoder, of_seeds in slopes.items():
        for seed, slope in enumerate(of_seeds):
            for doubling, seen in enumerate([*SEEN, *(more if seed == 0 else ())]):
                score = start[encoder] + slope * doubling
                lines.append(("natural", "one cell", encoder, seed, seen, score))
    return pd.DataFrame(lines, columns=[*budgets.CURVE, "seed", budgets.SEEN, "score"])


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.1, 0.1), st.floats(0, 1))
def test_a_line_has_its_slope_for_each_doubling(slope, height):
    scores = height + slope * np.arange(len(SEEN))
    line = budgets.fit_line(np.array(SEEN), scores)
    assert line.slope == pytest.approx(slope, abs=1e-9)
    assert line.height == pytest.approx(scores.mean(), abs=1e-9)
    assert 2**line.middle == pytest.approx(80_000)


def test_slopes_are_means_over_seeds_of_the_budgets_that_all_seeds_have():
    scores = planted({"diffusion": [0.01, 0.02, 0.03]}, {"diffusion": 0.3}, more=[640_000])
    (row,) = budgets.slopes_table(scores).to_dict("records")
    slope = row["slope (points)"]
    assert slope.value == pytest.approx(0.02) and slope.n == 3
    half_width = 4.3027 * 0.01 / 3**0.5  # Student's t with two degrees of freedom
    assert slope.high - slope.value == pytest.approx(half_width, rel=1e-3)
    assert row["budgets"] == "20,000 to 320,000"


@pytest.mark.parametrize(
    ("rival", "word"),
    [
        ([0.010, 0.011, 0.009], CLOSES),
        ([0.030, 0.031, 0.029], WIDENS),
        ([0.010, 0.031, 0.020], UNKNOWN),
        ([0.020, 0.021, 0.019], UNKNOWN),
    ],
)
def test_the_rule_for_the_gap(rival, word):
    slopes = {"diffusion": [0.02, 0.0201, 0.0199], "SimCLR": rival}
    scores = planted(slopes, {"diffusion": 0.3, "SimCLR": 0.4})
    (row,) = budgets.gap_table(scores).to_dict("records")
    assert row["by the rule"] == word
    assert row["encoder"] == "SimCLR"
    expected = -0.1 + 4 * (np.mean(slopes["diffusion"]) - np.mean(rival))
    assert row["gap (points)"].value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rival", "word"),
    [
        ([0.010, 0.011, 0.009], LEAD_GROWS),
        ([0.030, 0.031, 0.029], LEAD_SHRINKS),
        ([0.010, 0.031, 0.020], UNKNOWN),
    ],
)
def test_where_diffusion_is_ahead_there_is_a_lead_and_no_gap(rival, word):
    slopes = {"diffusion": [0.02, 0.0201, 0.0199], "MAE": rival}
    scores = planted(slopes, {"diffusion": 0.4, "MAE": 0.1})
    (row,) = budgets.gap_table(scores).to_dict("records")
    assert row["by the rule"] == word
    if word == LEAD_GROWS:
        assert row["crossing"] == "none"  # the lines met before the smallest budget


def test_a_rival_that_a_seed_lacks_is_compared_in_the_others():
    slopes = {"diffusion": [0.02, 0.0201, 0.0199], "SimCLR": [0.01, 0.0101, 0.0099]}
    scores = planted(slopes, {"diffusion": 0.3, "SimCLR": 0.4})
    scores = scores[(scores["encoder"] == "diffusion") | (scores["seed"] > 0)]
    (row,) = budgets.gap_table(scores).to_dict("records")
    assert row["gap (points)"].n == 2 and row["by the rule"] == CLOSES


def test_one_seed_tells_nothing_about_the_gap():
    scores = planted({"diffusion": [0.03], "SimCLR": [0.01]}, {"diffusion": 0.3, "SimCLR": 0.4})
    (row,) = budgets.gap_table(scores).to_dict("records")
    assert row["by the rule"] == UNKNOWN and row["crossing"] == "unknown"


def test_lines_cross_where_their_heights_say():
    slopes = {"diffusion": [0.02, 0.0201, 0.0199], "SimCLR": [0.01, 0.0101, 0.0099]}
    scores = planted(slopes, {"diffusion": 0.3, "SimCLR": 0.36})
    (row,) = budgets.gap_table(scores).to_dict("records")
    # six doublings after 20,000
    assert row["crossing"].startswith("1,280,000 [")
    assert row["crossing"].endswith(", extrapolated")


def test_the_interval_of_a_crossing_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, covered = 17.0 + 3.0, 0
    for _ in range(400):
        fits = [
            Line(17.0, -0.06 + rng.normal(0, 0.004), 0.02 + rng.normal(0, 0.001)) for _ in range(3)
        ]
        interval = budgets.crossing(fits)
        covered += interval.low <= 2**truth <= interval.high
    assert 0.91 < covered / 400 < 0.985


def test_without_a_difference_of_slopes_no_crossing_is_known():
    fits = [Line(17.0, -0.06, slope) for slope in (0.001, -0.001, 0.002)]
    assert budgets.crossing_text(fits, 20_000, 320_000) == "unknown"


CURVE_PROFILE = """
[curve]
images_seen = [64, 128]
seed_0_also = [192]
encoders = ["diffusion", "ResNet, labels"]
settings = ["natural", "balanced"]
"""


def test_encoders_are_trained_and_probed_with_every_budget(make_study):
    study = replace(make_study(more=CURVE_PROFILE), seed=1)
    table = budgets.curve_table(study, make_splits(study, "shapes"))
    natural = table[table["setting"] == "natural"]
    assert natural["encoder"].tolist() == ["diffusion"] * 4 + ["ResNet, labels"] * 4
    assert natural[budgets.SEEN].tolist() == [64, 64, 128, 128] * 2
    assert natural["read-out"].tolist() == ["one cell", "all layers"] * 4
    flops = natural.groupby(["encoder", budgets.SEEN])["training GFLOPs"].first()
    assert flops["diffusion"][128] == pytest.approx(2 * flops["diffusion"][64], abs=1)
    balanced = table[table["setting"] == "balanced"]
    assert set(balanced["encoder"]) == {"diffusion"}
    keys = [*budgets.CURVE, budgets.SEEN]
    stored = {seed: tidy_table(natural, keys).astype({budgets.SEEN: str}) for seed in (0, 1)}
    scores = budgets.scores_of_seeds(stored)
    assert len(scores) == 2 * len(natural)
    expected = natural[budgets.MACRO_F1].map(lambda estimate: estimate.value)
    assert scores["score"].tolist() == pytest.approx([*expected, *expected])


def test_only_seed_0_has_the_largest_budgets(make_study):
    curve = make_study(more=CURVE_PROFILE).profile.curve
    assert curve.budgets(0) == (64, 128, 192) and curve.budgets(1) == (64, 128)


def test_a_profile_without_a_curve_gives_tables_without_rows(make_study):
    study = make_study()
    table = budgets.curve_table(study, make_splits(study, "shapes"))
    stored = tidy_table(table, [*budgets.CURVE, budgets.SEEN])
    scores = budgets.scores_of_seeds({0: stored})
    for empty in (table, scores, budgets.slopes_table(scores), budgets.gap_table(scores)):
        assert empty.empty and set(budgets.CURVE) <= set(empty.columns)
