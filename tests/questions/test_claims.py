"""The rules of the claims, the joining of training seeds, and power, on made-up differences."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plankton_study.features.registry import ENCODERS, encoder_family, make_encoder
from plankton_study.images.splits import make_splits
from plankton_study.probes.result import evaluate
from plankton_study.questions import claims
from plankton_study.questions.claims import (
    AS_TRAINED,
    BETTER,
    CLUSTERS,
    MAPS,
    RE_PROBED,
    Conditions,
)

HALF_WIDTH = 0.03
WORSE = "a denoiser that is worse than a linear filter"
Row = tuple[str, str, str, float]


def differences(rows: list[Row], half_width: float = HALF_WIDTH, p: float = 0.01) -> pd.DataFrame:
    """Return the differences (claim, place, rival, value) of one run."""
    table = pd.DataFrame(rows, columns=["claim", "place", "rival", "value"])
    table["low"] = table["value"] - half_width
    table["high"] = table["value"] + half_width
    return table.assign(n=100, p=p)


def word(joined: pd.DataFrame, claim: str, place: str = "") -> str:
    """Return what the rule says of a claim."""
    judged = claims.judge(joined, Conditions(False, 3, 64, 0.9, 0.9))
    (said,) = judged[(judged["claim"] == claim) & (judged["place"] == place)]["by the rule"]
    return said


# --- the rules, each on one joined difference


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.029, 0.05, "met"),
        (-0.031, 0.05, "undecided"),
        (-0.10, -0.031, "refuted"),
        (-0.10, -0.029, "undecided"),
    ],
)
def test_competitive_is_judged_by_the_margin(low, high, expected):
    rows = pd.DataFrame({"value": [(low + high) / 2], "low": [low], "high": [high], "p": [1.0]})
    assert claims.judge_competitive(rows) == expected


@pytest.mark.parametrize(
    ("values", "p_values", "expected"),
    [
        ([0.1, 0.2], [0.01, 0.04], "met"),
        ([0.1, 0.2], [0.01, 0.06], "undecided"),  # not clearly better than each
        ([0.1, -0.2], [0.01, 0.04], "refuted"),  # one rival is clearly better
        ([0.1, -0.2], [0.01, 0.06], "undecided"),
        ([-0.1, -0.2], [0.2, 0.3], "undecided"),
    ],
)
def test_better_asks_for_every_rival_and_one_may_refute(values, p_values, expected):
    rows = pd.DataFrame({"value": values, "p": p_values})
    assert claims.judge_better(rows) == expected
    assert claims.RULES[CLUSTERS](rows) == expected, "k-means has the same rule"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([1.0], "met"), ([0.99], "undecided"), ([0.0], "refuted"), ([1.0, 0.5], "undecided")],
)
def test_maps_are_best_only_if_all_near_best_cells_are_of_16_px(shares, expected):
    assert claims.judge_maps(pd.DataFrame({"value": shares})) == expected


# --- one seed


def test_one_seed_keeps_its_own_interval():
    table = differences([(RE_PROBED, "balanced", "ResNet", 0.02)])
    joined = claims.join_seeds({0: table})
    numbers = joined[["value", "low", "high", "p"]].iloc[0].tolist()
    assert numbers == pytest.approx([0.02, -0.01, 0.05, 0.01])
    assert joined["freedom"].iloc[0] == np.inf
    assert joined["error"].iloc[0] == pytest.approx(HALF_WIDTH / 1.959964)


def test_p_of_several_rivals_is_corrected_within_a_claim_and_place():
    rows = [(BETTER, "balanced", "MAE", 0.1), (BETTER, "balanced", "SimCLR", 0.1)]
    rows += [(BETTER, "natural", "MAE", 0.1)]
    joined = claims.join_seeds({0: differences(rows, p=0.03)})
    assert joined["p"].tolist() == pytest.approx([0.06, 0.06, 0.03])
    assert word(joined, BETTER, "balanced") == "undecided"
    assert word(joined, BETTER, "natural") == "met"


# --- three seeds


def test_three_seeds_are_joined_with_the_variation_between_trainings():
    values = (0.10, 0.12, 0.14)
    runs = {
        seed: differences([(BETTER, "balanced", "MAE", value)]) for seed, value in enumerate(values)
    }
    (row,) = claims.join_seeds(runs).to_dict("records")
    between = 0.02 / 3**0.5
    error = np.hypot(HALF_WIDTH / 1.959964, between)
    freedom = 2 * (error / between) ** 4
    reach = stats.t.ppf(0.975, freedom) * error
    assert row["value"] == pytest.approx(0.12)
    assert (row["low"], row["high"]) == pytest.approx((0.12 - reach, 0.12 + reach))
    assert row["p"] == pytest.approx(2 * stats.t.sf(0.12 / error, freedom))
    assert (row["error"], row["freedom"]) == pytest.approx((error, freedom))


def test_seeds_that_agree_decide_and_seeds_that_do_not_leave_it_open():
    runs = {}
    for seed, (steady, shaky) in enumerate([(0.02, -0.1), (0.02, 0.1), (0.02, 0.0)]):
        rows = [(RE_PROBED, "balanced", "ResNet", steady)]
        runs[seed] = differences([*rows, (RE_PROBED, "natural", "ResNet", shaky)])
    joined = claims.join_seeds(runs)
    assert word(joined, RE_PROBED, "balanced") == "met"
    assert word(joined, RE_PROBED, "natural") == "undecided"


def test_one_seed_with_other_maps_leaves_the_claim_about_maps_open():
    shares = (1.0, 1.0, 0.5)
    runs = {
        seed: differences([(MAPS, "", claims.ALL_OTHER_MAPS, share)], half_width=np.nan)
        for seed, share in enumerate(shares)
    }
    assert word(claims.join_seeds(runs), MAPS) == "undecided"
    same = {seed: runs[0] for seed in range(3)}
    joined = claims.join_seeds(same)
    assert word(joined, MAPS) == "met"
    # a share has no interval and no p: nothing would be tested by them
    assert joined[["low", "high", "p"]].isna().all(axis=None)
    assert claims.statistic_text(joined) == "300 of 300 cells near the best are of 16 px"


def test_the_share_of_maps_over_seeds_counts_every_cell_once():
    counts = {0: (1.0, 1), 1: (0.0, 9), 2: (0.0, 2)}
    runs = {}
    for seed, (share, cells) in counts.items():
        table = differences([(MAPS, "", claims.ALL_OTHER_MAPS, share)], half_width=np.nan)
        runs[seed] = table.assign(n=cells)
    joined = claims.join_seeds(runs)
    assert claims.statistic_text(joined) == "1 of 12 cells near the best are of 16 px"
    assert word(joined, MAPS) == "undecided"


def test_differences_without_an_interval_stay_undecided_over_any_number_of_seeds():
    """Over a single day nothing can be resampled, so nothing can be significant."""
    values = (0.10, 0.20, 0.15)
    runs = {
        seed: differences([(BETTER, "x: later", "MAE", value)], half_width=np.nan, p=np.nan)
        for seed, value in enumerate(values)
    }
    for number in (1, 3):
        joined = claims.join_seeds({seed: runs[seed] for seed in range(number)})
        assert joined[["low", "high", "p"]].isna().all(axis=None)
        assert word(joined, BETTER, "x: later") == "undecided"
        judged = claims.judge(joined, Conditions(False, 3, 64, 0.9, 0.9))
        ledger = claims.ledger_table(joined, judged)
        assert ledger["detectable difference (points)"].iloc[0] == "unknown"
        assert "(no interval)" in ledger["statistic (95 %)"].iloc[0]


def test_the_supervised_rival_may_be_another_one_in_another_seed():
    runs = {
        seed: differences([(RE_PROBED, "balanced", rival, 0.02)])
        for seed, rival in enumerate(["ResNet", "ViT", "ResNet"])
    }
    joined = claims.join_seeds(runs)
    assert joined["rival"].tolist() == ["ResNet or ViT"]
    assert claims.incomplete_rivals(runs) == []


def test_a_difference_that_one_seed_lacks_is_left_out_and_named():
    rows = [(BETTER, "natural", "MAE", -0.1)]
    runs = {seed: differences(rows) for seed in range(3)}
    runs[1] = differences([*rows, (BETTER, "natural", "VICReg", 0.5)])
    joined = claims.join_seeds(runs)
    assert joined["rival"].tolist() == ["MAE"]
    assert claims.incomplete_rivals(runs) == ["VICReg"]
    assert word(joined, BETTER, "natural") == "refuted"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=5),
    st.floats(0.001, 0.1),
)
def test_joined_intervals_hold_the_mean_and_are_never_narrower_than_one_run(values, half_width):
    runs = {
        seed: differences([(RE_PROBED, "natural", "ResNet", value)], half_width)
        for seed, value in enumerate(values)
    }
    (row,) = claims.join_seeds(runs).to_dict("records")
    assert row["low"] <= row["value"] <= row["high"]
    assert row["value"] == pytest.approx(np.mean(values))
    assert row["high"] - row["low"] >= 2 * half_width - 1e-9
    assert 0 <= row["p"] <= 1


# --- verdicts


@pytest.mark.parametrize(
    ("conditions", "claim", "reasons"),
    [
        (Conditions(False, 3, 64, 0.9, 0.9), MAPS, []),
        (Conditions(True, 3, 64, 0.9, 0.9), BETTER, ["synthetic images"]),
        (Conditions(False, 1, 64, 0.9, 0.9), BETTER, ["one training seed, 3 needed"]),
        (
            Conditions(False, 2, 64, 0.9, 0.9),
            BETTER,
            ["2 training seeds, 3 needed"],
        ),
        (Conditions(False, 3, 32, 0.9, 0.9), MAPS, ["images of 32 px, 64 needed"]),
        (Conditions(False, 3, 32, 0.9, 0.9), BETTER, []),
        (Conditions(False, 3, 64, 1.01, 0.9), BETTER, [WORSE]),
        (Conditions(False, 3, 64, 1.01, 0.9), MAPS, []),
        (Conditions(False, 3, 64, 0.9, 1.01), MAPS, [WORSE]),
        (Conditions(False, 3, 64, 0.9, 1.01), BETTER, []),
    ],
)
def test_what_speaks_against_a_verdict(conditions, claim, reasons):
    assert conditions.against_verdict(claim) == reasons


def test_a_verdict_is_passed_or_says_why_not():
    rows = [
        (MAPS, "", claims.ALL_OTHER_MAPS, 1.0),
        (AS_TRAINED, "balanced", "ResNet", -0.05),
        (RE_PROBED, "balanced", "ResNet", 0.05),
    ]
    joined = claims.join_seeds({seed: differences(rows, half_width=0.01) for seed in range(3)})
    judged = claims.judge(joined, Conditions(False, 3, 32, 0.9, 0.9))
    verdicts = dict(zip(judged["claim"], judged["verdict"], strict=True))
    assert verdicts[MAPS] == "not judged (images of 32 px, 64 needed)"
    assert verdicts[AS_TRAINED] == "not supported" and verdicts[RE_PROBED] == "supported"
    assert verdicts[claims.GEOGRAPHY] == "not judged (no such set)"
    assert claims.count_words(judged["by the rule"]) == "2 met, 1 refuted, 0 undecided"
    assert claims.count_verdicts(judged["verdict"]) == "1 not supported, 1 supported"
    assert claims.count_verdicts(["not judged (x)"]) == "none"


def test_the_ledger_shows_each_difference_and_the_smallest_that_would_be_found():
    rows = [(BETTER, "natural", "SimCLR", -0.07), (BETTER, "natural", "MAE", 0.058)]
    joined = claims.join_seeds({0: differences(rows)})
    judged = claims.judge(joined, Conditions(False, 1, 32, 0.9, 0.9))
    ledger = claims.ledger_table(joined, judged)
    line = ledger.iloc[0]
    assert line["claim"] == "better than self-supervised (natural)"
    shown = "−7.0 [−10.0, −4.0] to SimCLR; +5.8 [2.8, 8.8] to MAE"
    assert line["statistic (95 %)"] == shown
    smallest = 100 * (1.959964 + 0.841621) * HALF_WIDTH / 1.959964
    assert line["detectable difference (points)"] == "; ".join([f"{smallest:.1f}"] * 2)
    assert ledger["claim"].iloc[-1] == claims.GEOGRAPHY


# --- power


@pytest.mark.parametrize("freedom", [np.inf, 4.0])
def test_the_smallest_difference_is_found_four_times_out_of_five(freedom):
    rng = np.random.default_rng(0)
    error = 0.02
    true_difference = claims.detectable_difference(error, freedom)
    draws = 200_000
    if np.isinf(freedom):
        estimated_error = np.full(draws, error)
    else:
        estimated_error = error * np.sqrt(rng.chisquare(freedom, draws) / freedom)
    estimates = rng.normal(true_difference, error, draws)
    is_found = estimates / estimated_error > stats.t.ppf(0.975, freedom)
    assert is_found.mean() == pytest.approx(0.8, abs=0.03)


# --- what the claims rest on, in a real run


@pytest.fixture
def shapes_splits(shared):
    return make_splits(shared, "shapes")


def test_the_claims_of_a_run_rest_on_differences_at_all_places(shared, shapes_splits):
    splits = shapes_splits
    table = claims.claim_differences(shared, {"shapes": splits})
    assert set(table["claim"]) == {MAPS, AS_TRAINED, RE_PROBED, BETTER, CLUSTERS}
    assert set(table["place"]) == {"", "balanced", "natural", "shapes: later"}
    better = table[table["claim"] == BETTER]
    assert set(better["rival"]) == {"SimCLR", "VICReg", "MAE"}
    places = {place.name: place for place in claims.places(shared, {"shapes": splits})}
    away = places["shapes: later"]
    gain = evaluate(
        shared, splits, away.results["diffusion"], "later", minus=away.results["SimCLR"]
    )
    is_row = (better["place"] == "shapes: later") & (better["rival"] == "SimCLR")
    assert better[is_row]["value"].item() == gain["macro_f1"].value
    clusters = table[table["claim"] == CLUSTERS]
    assert not any("labels" in rival for rival in clusters["rival"])
    (maps,) = claims.estimates_of(table[table["claim"] == MAPS])
    assert 0 <= maps.value <= 1 and maps.n >= 1 and maps.p is None and np.isnan(maps.low)


def test_the_supervised_rival_is_judged_as_trained_and_re_probed(shared, shapes_splits):
    """Both rows are printed; each rival is the best on validation images by its own head."""
    splits = shapes_splits
    table = claims.claim_differences(shared, {"shapes": splits}).set_index(["claim", "place"])
    for place in claims.places(shared, {"shapes": splits}):
        diffusion = place.results["diffusion"]
        for claim, head in ((AS_TRAINED, "end to end"), (RE_PROBED, "linear")):
            row = table.loc[claim, place.name]
            rival = place.results[row["rival"]]
            scores = evaluate(shared, splits, rival, place.part, head)["macro_f1"]
            own = evaluate(shared, splits, diffusion, place.part)["macro_f1"]
            assert row["value"] == pytest.approx(own.value - scores.value)
            others = [
                np.mean([draw.validation[head]["macro_f1"] for draw in result.of_each_draw])
                for name, result in place.results.items()
                if shared.profile.encoders.get(name) and encoder_family(shared, name) == "labels"
            ]
            chosen = np.mean([draw.validation[head]["macro_f1"] for draw in rival.of_each_draw])
            assert chosen == max(others)


def test_an_encoder_from_elsewhere_has_lines_of_its_own(shared, shapes_splits, monkeypatch):
    """It does not count as one that saw no labels: most networks off the shelf learnt from some."""
    monkeypatch.setitem(ENCODERS, "mine", lambda study, splits: make_encoder(study, splits, "MAE"))
    table = claims.claim_differences(shared, {"shapes": shapes_splits})
    own = table[table["rival"] == "mine"].set_index("place")
    assert set(own["claim"]) == {claims.OFF_THE_SHELF}
    of_mae = table[(table["claim"] == BETTER) & (table["rival"] == "MAE")].set_index("place")
    assert own["value"].to_dict() == of_mae["value"].to_dict()


def test_the_network_off_the_shelf_may_be_another_one_in_another_seed():
    runs = {
        seed: differences([(claims.OFF_THE_SHELF, "natural", rival, value)])
        for seed, (rival, value) in enumerate(
            [("96 px", -0.10), ("160 px", -0.12), ("96 px", -0.11)]
        )
    }
    joined = claims.join_seeds(runs)
    assert joined["rival"].tolist() == ["96 px or 160 px"]
    assert claims.incomplete_rivals(runs) == []
    assert word(joined, claims.OFF_THE_SHELF, "natural") == claims.REFUTED


def test_every_training_is_listed_with_the_loss_of_its_first_batch(shared, shapes_splits):
    table = claims.trainings_table(shared, {"shapes": shapes_splits})
    assert not table.duplicated(["set", "encoder", "labels"]).any()
    supervised = table[table["encoder"] == "U-Net, labels"]
    assert set(supervised["labels"]) == {"balanced, draw 1", "balanced, draw 2", "natural, draw 1"}
    assert supervised["first loss"].nunique() == 3
    (label_free,) = table.loc[table["encoder"] == "SimCLR", "labels"]
    assert label_free == "none"  # one network serves all draws of labels
    assert {"pixels + PCA", "random U-Net"}.isdisjoint(table["encoder"])
    fits = claims.probe_fits(shared, {"shapes": shapes_splits})
    assert fits.not_converged == 0 and 0 <= fits.at_an_end <= fits.count
