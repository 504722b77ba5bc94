"""How values are shown in tables, in prose and on pages."""

import numpy as np
import pandas as pd
import pytest

from plankton_study.probes.intervals import Estimate, MeanWithError, Spread
from plankton_study.report.formatting import (
    cell_text,
    is_percent,
    minutes_text,
    shown_name,
    stored_text,
    text_table,
    with_unit,
)

DIFFERENCE = Estimate(-0.07, -0.154, 0.011, 90, p=0.2)
EMPTY = {"low": None, "high": None, "n": None, "p": None, "unit": ""}


@pytest.mark.parametrize("name", ["accuracy (%)", "difference (points)", "%", "points"])
def test_percent_is_told_by_the_name(name):
    assert is_percent(name) and not is_percent("taxa")


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (Estimate(0.5, 0.4, 0.6, 9), "macro-F1 (%)", "50.0 [40.0, 60.0]"),
        (Estimate(0.5, 0.4, 0.6, 9), "distance", "0.50 [0.40, 0.60]"),
        (DIFFERENCE, "difference (points)", "−7.0 [−15.4, 1.1]"),
        (Estimate(0.07, -0.01, 0.2, 9, p=0.1), "difference (points)", "+7.0 [−1.0, 20.0]"),
        (MeanWithError(0.61, 0.027), "accuracy (%)", "61.0 ± 2.7"),
        (Spread(0.42, 0.417, 0.425, 3), "balanced (%)", "42.0 (41.7 to 42.5)"),
        (Spread(0.42, 0.42, 0.42, 1), "balanced (%)", "42.0 (one seed)"),
        ("not run", "accuracy (%)", "not run"),
        (12345, "images", "12,345"),
        (np.int64(-12345), "images", "−12,345"),
        (True, "small", "True"),
        (0.0123456, "loss", "0.0123"),
        (-1.5, "loss", "−1.5"),
        (12.345, "share (%)", "12.3"),
        (float("nan"), "loss", ""),
        (float("inf"), "labels", "not reached"),
        (None, "loss", ""),
        (pd.NA, "loss", ""),
        (pd.NaT, "day", ""),
    ],
)
def test_a_cell_is_shown_by_what_it_holds(value, column, text):
    assert cell_text(value, column) == text


def test_digits_are_as_asked_for():
    assert cell_text(0.0123456, "loss", 4) == "0.0123"
    assert cell_text(Estimate(0.5, 0.4, 0.6, 9), "macro-F1 (%)", 0) == "50 [40, 60]"


def test_a_table_of_texts_keeps_columns_and_rows():
    table = pd.DataFrame({"taxon": ["a", "b"], "loss": [0.25, None]}, index=[3, 5])
    texts = text_table(table, {"loss": 1})
    assert texts.to_dict("list") == {"taxon": ["a", "b"], "loss": ["0.2", ""]}
    assert texts.index.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("entry", "text", "with_its_unit"),
    [
        ({"value": "SimCLR"}, "SimCLR", "SimCLR"),
        ({"value": 12345, "unit": "images"}, "12,345", "12,345 images"),
        ({"value": 176849, "unit": "parameters"}, "176,849", "176,849 parameters"),
        ({"value": 1176849, "unit": "parameters"}, "1.18 million", "1.18 million parameters"),
        ({"value": 0.0123456}, "0.0123", "0.0123"),
        ({"value": 12.4, "unit": "minutes"}, "12 minutes", "12 minutes"),
        (
            DIFFERENCE._asdict() | {"unit": "points"},
            "−7.0 [−15.4, 1.1]",
            "−7.0 [−15.4, 1.1] points",
        ),
        (
            Estimate(0.5, 0.4, 0.6, 9)._asdict() | {"unit": ""},
            "0.500 [0.400, 0.600]",
            "0.500 [0.400, 0.600]",
        ),
    ],
)
def test_a_stored_number_is_shown_in_prose_and_with_its_unit(entry, text, with_its_unit):
    assert stored_text(EMPTY | entry) == text
    assert with_unit(EMPTY | entry) == with_its_unit


def test_long_durations_are_in_hours():
    assert minutes_text(102.2) == "102 minutes"
    assert minutes_text(150) == "2.5 hours"


def test_taxa_are_shown_without_underscores():
    assert shown_name("copepod_long_antennae") == "copepod long antennae"
