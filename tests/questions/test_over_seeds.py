"""Scores over training seeds, from the tables that each run stores."""

import pandas as pd
import pytest

from plankton_study.probes.intervals import Estimate
from plankton_study.questions.training.over_seeds import (
    MAIN_TABLES,
    estimates_over_seeds,
    families,
    main_scores,
    main_table,
)
from plankton_study.report.tidy import tidy_table


def scores(value: float) -> Estimate:
    return Estimate(value, value - 0.05, value + 0.05, 100)


def tables_of_run(shift: float, rivals: tuple[str, ...] = ("ResNet",)) -> dict[str, pd.DataFrame]:
    """The stored tables of one run, in which every score grows with `shift`."""
    heads = [("diffusion", "linear", "diffusion", 0.3)]
    heads += [(name, "linear", "labels", 0.4) for name in rivals]
    heads += [(name, "end to end", None, 0.5) for name in rivals]
    setting = pd.DataFrame(
        [
            {
                "encoder": name,
                "head": head,
                "learnt from": family,
                "macro-F1 (%)": scores(value + shift),
                "accuracy (%)": scores(0.9),
            }
            for name, head, family, value in heads
        ]
    )
    layers = pd.DataFrame(
        [
            {"encoder": name, "all layers (%)": scores(0.6 + shift)}
            for name in ("diffusion", *rivals)
        ]
    )
    stored = {
        "balanced": tidy_table(setting, ["encoder", "head"]),
        "read_outs": tidy_table(layers, ["encoder"]),
    }
    return stored | {
        "natural": stored["balanced"],
        "natural_read_outs": stored["read_outs"],
    }


def joined(*runs: dict[str, pd.DataFrame]) -> pd.DataFrame:
    of_seeds = {seed: main_scores(run) for seed, run in enumerate(runs)}
    return estimates_over_seeds(of_seeds, ["encoder", "setting", "read-out"])


def test_the_main_table_holds_the_mean_of_each_read_out():
    runs = [tables_of_run(shift) for shift in (0.0, 0.03, 0.06)]
    assert set(runs[0]) == set(MAIN_TABLES)
    table = main_table(joined(*runs), families(runs[0]["natural"]))
    assert list(table["encoder"]) == ["diffusion", "ResNet"]
    assert list(table["learnt from"]) == ["diffusion", "labels"]
    diffusion, resnet = table.to_dict("records")
    assert diffusion["natural, one cell (%)"].value == pytest.approx(0.33)
    assert diffusion["natural, all layers (%)"].value == pytest.approx(0.63)
    assert diffusion["natural, as trained (%)"] == ""
    assert resnet["balanced, as trained (%)"].value == pytest.approx(0.53)
    reach = resnet["balanced, one cell (%)"].high - resnet["balanced, one cell (%)"].value
    assert 0.05 < reach < 0.2  # wider than over test images alone


def test_encoders_that_a_seed_lacks_are_left_out():
    table = joined(tables_of_run(0.0), tables_of_run(0.1, rivals=("ResNet", "SimCLR")))
    assert set(table["encoder"]) == {"diffusion", "ResNet"}


def test_budgets_of_one_seed_only_are_kept_if_asked_for():
    def curve(*budgets: int) -> pd.DataFrame:
        rows = [{"encoder": "diffusion", "seen": seen, "score": scores(0.3)} for seen in budgets]
        return tidy_table(pd.DataFrame(rows), ["encoder", "seen"])

    keys = ["encoder", "seen", "quantity"]
    runs = {0: curve(10, 20, 40), 1: curve(10, 20)}
    assert list(estimates_over_seeds(runs, keys)["seen"]) == [10, 20]
    every = estimates_over_seeds(runs, keys, in_all=False)
    assert dict(zip(every["seen"], every["seeds"], strict=True)) == {10: 2, 20: 2, 40: 1}


def test_a_table_without_rows_gives_none():
    empty = tidy_table(pd.DataFrame(), ["encoder"])
    assert estimates_over_seeds({0: empty, 1: empty}, ["encoder", "quantity"]).empty
