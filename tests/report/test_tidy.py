"""Tables as numbers: one line for each value, and back from the file as it was written."""

import numpy as np
import pandas as pd
import pytest

from plankton_study.probes.intervals import Estimate, MeanWithError, Spread
from plankton_study.report.tidy import VALUE_COLUMNS, read_tidy, tidy_table


@pytest.fixture
def read_back(tmp_path):
    """A function that stores a table as numbers and reads it again."""

    def read(table: pd.DataFrame, keys: list[str], measured: tuple[str, ...] = ()) -> pd.DataFrame:
        path = tmp_path / "values.csv"
        tidy_table(table, keys, measured).to_csv(path, index=False)
        return read_tidy(path)

    return read


@pytest.mark.parametrize(
    ("value", "kind", "numbers"),
    [
        (Estimate(0.5, 0.4, 0.6, 9), "estimate", {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}),
        (Estimate(0.1, 0.0, 0.2, 9, p=0.03), "estimate", {"value": 0.1, "p": 0.03}),
        (MeanWithError(0.61, 0.027), "mean", {"value": 0.61, "error": 0.027}),
        (Spread(0.4, 0.3, 0.5, 3), "spread", {"value": 0.4, "low": 0.3, "high": 0.5, "n": 3}),
        (12345, "count", {"value": 12345}),
        (np.int64(7), "count", {"value": 7}),
        (1 / 3, "number", {"value": 1 / 3}),
        (float("inf"), "number", {"value": float("inf")}),
        ("not run", "choice", {"text": "not run"}),
        (True, "choice", {"text": "True"}),
    ],
)
def test_a_value_keeps_its_kind_and_its_numbers(read_back, value, kind, numbers):
    (line,) = read_back(pd.DataFrame({"row": ["a"], "score": [value]}), ["row"]).to_dict("records")
    assert (line["row"], line["quantity"], line["kind"]) == ("a", "score", kind)
    assert {key: line[key] for key in numbers} == numbers


def test_every_value_of_a_row_has_a_line_and_empty_cells_have_none(read_back):
    table = pd.DataFrame(
        {
            "set": ["x", "x", "y"],
            "part": ["test", "later", "test"],
            "images": [3, 4, 5],
            "score": [0.5, None, float("nan")],
            "note": ["", "few", ""],
        }
    )
    lines = read_back(table, ["set", "part"])
    assert list(lines) == ["set", "part", *VALUE_COLUMNS]
    names = lines[["set", "part", "quantity"]].to_numpy().tolist()
    assert [tuple(row) for row in names] == [
        ("x", "test", "images"),
        ("x", "test", "score"),
        ("x", "later", "images"),
        ("x", "later", "note"),
        ("y", "test", "images"),
    ]


def test_names_and_texts_stay_texts(read_back):
    """A taxon called NA, a cell called 007, and a comma come back as they were."""
    table = pd.DataFrame({"taxon": ["NA", "007", "a, b"], "note": ["NaN", "1.0", "x\ny"]})
    lines = read_back(table, ["taxon"])
    assert lines["taxon"].tolist() == ["NA", "007", "a, b"]
    assert lines["text"].tolist() == ["NaN", "1.0", "x\ny"]


def test_what_is_of_the_machine_is_marked(read_back):
    table = pd.DataFrame({"set": ["x"], "images": [3], "seconds": [1.5], "device": ["cpu"]})
    lines = read_back(table, ["set"], measured=("seconds", "device")).set_index("quantity")
    assert lines["kind"].to_dict() == {
        "images": "count",
        "seconds": "measured",
        "device": "measured",
    }


def test_a_table_without_rows_keeps_its_columns(read_back):
    lines = read_back(pd.DataFrame({"set": [], "score": []}), ["set"])
    assert lines.empty and list(lines) == ["set", *VALUE_COLUMNS]


def test_rows_that_share_their_keys_are_refused():
    table = pd.DataFrame({"set": ["x", "x"], "part": ["a", "b"], "score": [1, 2]})
    with pytest.raises(ValueError, match=r"share the keys \['set'\]: name more columns"):
        tidy_table(table, ["set"])
    assert len(tidy_table(table, ["set", "part"])) == 2
