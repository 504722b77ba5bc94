"""Does a live run agree with the published one: the rule, and what a changed run is told."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stored_runs import (
    PUBLISHED,
    agreement,
    build,
    change_json,
    change_provenance,
    copy_run,
)

from plankton_study.probes.intervals import Estimate, MeanWithError
from plankton_study.report.stored import StoredRun
from plankton_study.report.tidy import tidy_table
from plankton_study.run.errors import StudyError

PUBLISHED_RUN = StoredRun(PUBLISHED)


@pytest.fixture
def live(tmp_path) -> StoredRun:
    """A live run that says the same as the published one."""
    return copy_run(tmp_path / "results" / "demo")


def verdicts(live: StoredRun) -> pd.Series:
    """Return value → verdict of all published values."""
    return agreement.compare_runs(PUBLISHED_RUN, live).set_index("value")["verdict"]


def test_a_run_agrees_with_itself(live):
    table = agreement.compare_runs(PUBLISHED_RUN, live)
    assert (table["verdict"] == "same").all() and len(table) > 1000
    assert agreement.summary(table).endswith("all published numbers hold")


# --- the rule


def stored_value(folder: Path, value: object, measured: tuple[str, ...] = ()) -> dict:
    """Store a table of one value and return what the comparison reads of it."""
    path = folder / "values" / "scores.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"encoder": ["diffusion"], "score": [value]})
    tidy_table(table, ["encoder"], measured).to_csv(path, index=False)
    values = agreement.all_values(StoredRun(folder))
    assert list(values) == ["table scores, diffusion, score"]
    return values["table scores, diffusion, score"]


def difference(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, 90, p=0.1)


SCORE = Estimate(0.642, 0.586, 0.694, 90)
NO_INTERVAL = Estimate(0.75, np.nan, np.nan, 4)


def judge(published: dict, live: dict | None, seeds: tuple[dict, ...] = ()) -> str:
    """Return what the rule says about one value, published with several seeds."""
    lives = {} if live is None else {"value": live}
    each = [{"value": value} for value in (published, *seeds)]
    return agreement.Rule(each, {"value": published}, lives, is_repetition=False).judge("value")


@pytest.mark.parametrize(
    ("published", "live", "verdict"),
    [
        (SCORE, SCORE, "same"),
        (SCORE, Estimate(0.600, 0.500, 0.630, 90), "agrees"),
        # the published value lies in the live interval
        (SCORE, Estimate(0.580, 0.500, 0.660, 90), "agrees"),
        (SCORE, Estimate(0.580, 0.550, 0.610, 90), "differs"),
        # of another number of images
        (SCORE, Estimate(0.642, 0.586, 0.694, 91), "differs"),
        (difference(-0.07, -0.154, 0.011), difference(0.02, -0.09, 0.03), "agrees"),
        (difference(-0.07, -0.094, -0.051), difference(-0.02, -0.04, 0.01), "differs"),
        (SCORE, "not run", "differs"),
        (SCORE, 0.642, "differs"),
        (NO_INTERVAL, Estimate(0.5, np.nan, np.nan, 6), "other choice"),
        (MeanWithError(0.610, 0.027), MeanWithError(0.560, 0.020), "agrees"),
        (MeanWithError(0.610, 0.027), MeanWithError(0.540, 0.020), "differs"),
        (MeanWithError(0.610, 0.010), MeanWithError(0.560, 0.027), "agrees"),
        (464, 464, "same"),
        (464, 465, "differs"),
        ("flat", "still falling", "other choice"),
        (0.016, 0.020, "other choice"),
        (0.016, "not run", "other choice"),
    ],
)
def test_the_rule_of_agreement(tmp_path, published, live, verdict):
    both = stored_value(tmp_path / "a", published), stored_value(tmp_path / "b", live)
    assert judge(*both) == verdict


@pytest.mark.parametrize(
    ("seeds", "verdict"),
    [
        ((0.10, 0.38), "agrees"),  # trainings lie far apart, as those of SimCLR on another camera
        ((0.380, 0.392), "differs"),
        ((0.300, 0.400), "beyond"),
        ((0.10,), "differs"),  # two seeds do not tell how far
    ],
)
def test_the_tolerance_knows_how_far_trainings_lie_apart(tmp_path, seeds, verdict):
    live = stored_value(tmp_path / "live", Estimate(0.049, 0.02, 0.08, 90))
    published = stored_value(tmp_path / "0", Estimate(0.386, 0.33, 0.44, 90))
    others = tuple(
        stored_value(tmp_path / str(value), Estimate(value, value - 0.03, value + 0.03, 90))
        for value in seeds
    )
    assert judge(published, live, others) == verdict


def test_a_value_whose_seeds_agree_by_chance_has_the_spread_of_its_table(tmp_path):
    """Three seeds may lie close together by chance; then the other rows say how far they may."""

    def values(row, *scores):
        entries = [
            stored_value(
                tmp_path / f"{row}{number}", Estimate(score, score - 0.01, score + 0.01, 9)
            )
            for number, score in enumerate(scores)
        ]
        return [{row: entry} for entry in entries]

    lucky = values("lucky", 0.500, 0.500, 0.500)
    usual = values("usual", 0.500, 0.520, 0.480)
    other = values("other", 0.700, 0.680, 0.720)
    seeds = [
        first | second | third for first, second, third in zip(lucky, usual, other, strict=True)
    ]
    alone, together = agreement.Trainings(lucky), agreement.Trainings(seeds)
    assert alone.reach("lucky") == 0
    assert together.reach("lucky") > 0.05
    assert together.reach("usual") == pytest.approx(4.303 * (4 / 3) ** 0.5 * 0.02, rel=1e-3)


def test_on_the_same_machine_every_value_must_be_the_same(live):
    """Rounding cannot differ there, so a value inside its interval shows another run."""
    path = live.folder / "values" / "natural.csv"
    natural = pd.read_csv(path, dtype=str, keep_default_na=False)
    is_score = (natural["encoder"] == "SimCLR") & (natural["quantity"] == "macro-F1 (%)")
    row = natural.index[is_score][0]
    natural.loc[row, "value"] = str(float(natural.loc[row, "value"]) + 0.002)
    natural.to_csv(path, index=False)
    table = agreement.compare_runs(PUBLISHED_RUN, live)
    assert table.attrs["is_repetition"]
    assert (table["verdict"] == "differs").sum() == 1

    change_provenance([live.folder / "provenance" / "table_claims.json"], processor="another")
    table = agreement.compare_runs(PUBLISHED_RUN, live)
    assert not table.attrs["is_repetition"]
    assert (table["verdict"] == "agrees").sum() == 1


def test_a_value_that_is_not_there_is_missing(tmp_path):
    assert judge(stored_value(tmp_path, SCORE), None) == "missing"


def test_what_is_of_the_machine_is_not_compared(live):
    costs = pd.read_csv(PUBLISHED / "values" / "denoiser_cost.csv", dtype=str)
    measured = costs.index[costs["kind"] == "measured"]
    assert len(measured)
    costs.loc[measured, "value"] = "1"
    costs.to_csv(live.folder / "values" / "denoiser_cost.csv", index=False)
    table = agreement.compare_runs(PUBLISHED_RUN, live)
    assert (table["verdict"] == "same").all()
    assert not table["value"].str.contains("denoiser_cost.*seconds").any()


# --- a run that says something else


def lower_accuracy(live: StoredRun) -> None:
    """Let the best accuracy and its interval lie below those that were published."""
    low = PUBLISHED_RUN.number("best_accuracy")["low"]
    numbers = {"value": low / 20, "low": low / 40, "high": low / 15}
    change_json(live.folder / "numbers" / "best_accuracy.json", **numbers)


def test_numbers_that_do_not_hold_are_found(live):
    lower_accuracy(live)
    taxa = PUBLISHED_RUN.number("taxa")["value"]
    change_json(live.folder / "numbers" / "taxa.json", value=taxa + 1)
    (live.folder / "numbers" / "cells.json").unlink()
    verdict_of = verdicts(live)
    assert verdict_of["number best_accuracy"] == verdict_of["number taxa"] == "differs"
    assert verdict_of["number cells"] == "missing"
    assert sum(verdict_of != "same") == 3


def test_lost_rows_of_a_table_are_found(live):
    path = live.folder / "values" / "balanced.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("diffusion,linear,")]
    path.write_text("".join(kept), encoding="utf-8")
    verdict_of = verdicts(live)
    assert verdict_of["table balanced, diffusion, linear, accuracy (%)"] == "missing"
    assert set(verdict_of) == {"same", "missing"}
    assert sum(verdict_of == "missing") == len(lines) - len(kept) >= 2


def test_every_count_and_every_joined_difference_of_a_claim_is_compared(live):
    splits = live.folder / "values" / "splits.csv"
    count = r"^([\w-]+),test,images,count,(\d+)"
    name, images = re.search(count, splits.read_text(encoding="utf-8"), re.M).groups()
    text = splits.read_text(encoding="utf-8")
    splits.write_text(re.sub(count, rf"\1,test,images,count,{int(images) + 1}", text, flags=re.M))

    path = live.folder / "joined" / "values" / "joined_claims.csv"
    claims = pd.read_csv(path, dtype=str, keep_default_na=False)
    is_difference = claims["quantity"] == "difference (points)"
    last = claims.index[is_difference][-1]  # one of several that the ledger shows in one cell
    claims.loc[last, ["value", "low", "high"]] = ["0.99", "0.98", "1.0"]
    claims.to_csv(path, index=False)

    verdict_of = verdicts(live)
    claim, place, rival = claims.loc[last, ["claim", "place", "rival"]]
    row = f"table joined_claims, {claim}, {place}, {rival}, difference (points)"
    assert verdict_of[row] == verdict_of[f"table splits, {name}, test, images"] == "differs"
    assert sum(verdict_of == "differs") == 2


def test_joined_results_are_compared_only_where_both_join_the_same_seeds(live):
    joined = live.folder / "joined"
    revisions = {"0": "abc", "7": "def"}
    change_provenance([joined / "provenance" / "table_joined_claims.json"], joined=revisions)
    table = agreement.compare_runs(PUBLISHED_RUN, live)
    assert (table["verdict"] == "same").all()
    assert not table["value"].str.contains("joined_claims").any()


def test_runs_on_other_images_or_labels_are_not_compared(live):
    change_provenance((live.folder / "provenance").glob("*.json"), inputs=["others"])
    with pytest.raises(StudyError, match="run on other images, labels or parts"):
        verdicts(live)


@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("config", "other")])
def test_runs_of_other_profiles_are_not_compared(live, key, value):
    change_provenance((live.folder / "provenance").glob("*.json"), **{key: value})
    with pytest.raises(StudyError, match="another profile or seed"):
        verdicts(live)


def test_a_run_that_is_not_there_is_said_with_what_to_do(live):
    nothing = StoredRun(live.folder.with_name("nothing"))
    with pytest.raises(StudyError, match="nothing holds no results: run `make paper`"):
        agreement.compare_runs(PUBLISHED_RUN, nothing)
    with pytest.raises(StudyError, match="nothing holds no results: nothing was published"):
        agreement.compare_runs(nothing, live)


def test_rows_that_cannot_be_told_apart_are_refused(live):
    lines = "encoder,quantity,kind,value,low,high,error,n,p,text\n" + 2 * "a,score,count,1,,,,,,\n"
    (live.folder / "values" / "twice.csv").write_text(lines)
    with pytest.raises(StudyError, match="several values 'table twice, a, score'"):
        agreement.all_values(live)


# --- what the user is told


def test_the_summary_names_what_differs_and_on_which_machines(live):
    lower_accuracy(live)
    change_provenance([live.folder / "provenance" / "table_claims.json"], device="cuda")
    table = agreement.compare_runs(PUBLISHED_RUN, live)
    *lines, last = agreement.summary(table).splitlines()
    assert re.search(r"^ +differs  number best_accuracy: .* → ", lines[0])
    assert "published on cpu, " in lines[1] and "this run on cuda, " in lines[1]
    assert len(lines) == 2
    assert last == f"{len(table)} values ({len(table) - 1} same, 1 differs): " + (
        "published numbers that do not hold: 1"
    )


def test_make_compare_fails_where_a_number_does_not_hold(live, monkeypatch, capsys):
    paper = live.folder.parents[1]
    (paper / "published").mkdir()
    (paper / "published" / "demo").symlink_to(PUBLISHED)
    monkeypatch.setattr(build, "PAPER", paper)
    assert build.main(["compare", "demo"]) == 0
    assert "all published numbers hold" in capsys.readouterr().out
    lower_accuracy(live)
    assert build.main(["compare", "demo"]) == 1
    said = capsys.readouterr()
    assert "published numbers that do not hold: 1" in said.err and not said.out
