"""Figures, tables and numbers: where they go, what they carry, the same bytes each time."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from plankton_study.images.splits import make_splits
from plankton_study.probes.intervals import Estimate
from plankton_study.report.provenance import code_revision, provenance
from plankton_study.report.results import (
    CAPTIONS,
    SYNTHETIC,
    Results,
    latex_table,
    optimistic_note,
)
from plankton_study.report.style import set_style
from plankton_study.report.tidy import read_tidy
from plankton_study.run.errors import StudyError
from plankton_study.run.files import read_json
from plankton_study.run.study import load_study

ACCURACY = Estimate(0.5, 0.4, 0.6, 30)


@pytest.fixture(scope="module")
def splits(shared):
    return make_splits(shared, "shapes")


@pytest.fixture
def results(shared, splits, tmp_path):
    """Results of the shared study in a folder of their own."""
    return Results(shared, [splits], tmp_path)


def draw_line() -> Figure:
    set_style()
    figure, ax = plt.subplots(figsize=(2, 2))
    ax.plot([0, 1], [1, 0])
    ax.set(xlabel="x (px)", ylabel="y (%)")
    return figure


def stored_caption(results: Results, name: str) -> str:
    return read_json(results.folder / "provenance" / f"{name}.json")["caption"]


# --- figures


def test_a_figure_is_the_same_bytes_on_every_save(results, splits):
    saved = []
    for _ in range(2):
        results.save_figure("line", draw_line(), "A line.")
        figures = results.folder / "figures"
        saved.append([(figures / f"line.{ending}").read_bytes() for ending in ("svg", "png")])
    assert saved[0] == saved[1]
    entry = read_json(results.folder / "provenance" / "figure_line.json")
    assert entry["caption"] == "A line." and entry["provenance"]["inputs"] == [splits.digest]
    assert not plt.get_fignums(), "a saved figure is closed"


def test_results_go_to_the_folder_of_the_run(shared, splits):
    Results(shared, [splits]).save_number("many", 3)
    assert (shared.results / "numbers" / "many.json").is_file()


def test_synthetic_figures_and_tables_say_so(splits, tmp_path, monkeypatch):
    monkeypatch.delenv("PLANKTON_DATA", raising=False)
    demo = Results(replace(load_study("demo", 0), results_root=tmp_path), [splits])
    figure = draw_line()
    demo.save_figure("line", figure, "A line.")
    assert SYNTHETIC in [text.get_text() for text in figure.texts]
    demo.save_table("numbers", pd.DataFrame({"row": ["x"], "a": [1]}), ["row"], "One.")
    assert SYNTHETIC in stored_caption(demo, "table_numbers")


def test_real_figures_and_tables_do_not_say_that_they_are_synthetic(results):
    figure = draw_line()
    results.save_figure("line", figure, "A line.")
    results.save_table("numbers", pd.DataFrame({"row": ["x"], "a": [1]}), ["row"], "One.")
    assert not figure.texts and SYNTHETIC not in stored_caption(results, "table_numbers")


# --- captions


def test_a_caption_of_the_study_is_filled_in(results):
    results.save_figure("one_image_answer", draw_line(), taxon="a disc")
    caption = stored_caption(results, "figure_one_image_answer")
    assert caption == CAPTIONS["one_image_answer"].replace("{taxon}", "a disc")
    assert "a disc" in caption


def test_a_result_of_ones_own_brings_its_caption(results):
    with pytest.raises(StudyError, match="'sizes' has no caption: pass caption="):
        results.save_figure("sizes", draw_line())
    plt.close("all")


def test_a_caption_says_which_intervals_are_optimistic(splits):
    class OverImages:
        clustered = False
        collection = splits.collection

    assert splits.clustered and optimistic_note([splits]) == ""
    assert "no samples or days are known" in optimistic_note([OverImages])
    mixed = optimistic_note([splits, OverImages])
    assert f"for {splits.collection.name} over single images: optimistic" in mixed


# --- tables


def test_estimates_are_shown_with_their_interval(results):
    table = pd.DataFrame({"taxon": ["a", "b"], "macro-F1 (%)": [ACCURACY, "not run"]})
    shown = results.save_table("scores", table, ["taxon"], "Some.")
    assert shown["macro-F1 (%)"].tolist() == ["50.0 [40.0, 60.0]", "not run"]


def test_an_empty_table_says_so_and_keeps_its_keys(results):
    table = pd.DataFrame({"taxon": [], "macro-F1 (%)": []})
    results.save_table("nothing", table, ["taxon"], "None.")
    text = (results.folder / "tables" / "nothing.csv").read_text()
    assert text.splitlines()[-1] == "not part of this profile"
    values = read_tidy(results.folder / "values" / "nothing.csv")
    assert values.empty and {"taxon", "quantity", "value"} <= set(values)


def test_a_table_is_written_for_people_for_latex_and_for_programs(results):
    table = pd.DataFrame({"taxon": ["a_b", "c&d"], "accuracy (%)": [ACCURACY, None]})
    shown = results.save_table("scores", table, ["taxon"], "Some.")
    path = results.folder / "tables" / "scores.csv"
    stored = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(stored, shown, check_dtype=False)
    assert stored["accuracy (%)"].tolist() == ["50.0 [40.0, 60.0]", ""]
    latex = (results.folder / "tables" / "scores.tex").read_text()
    assert r"a\_b" in latex and r"c\&d" in latex and r"\toprule" in latex
    (value,) = read_tidy(results.folder / "values" / "scores.csv").to_dict("records")
    assert (value["taxon"], value["kind"]) == ("a_b", "estimate")
    assert (value["value"], value["low"], value["high"], value["n"]) == (0.5, 0.4, 0.6, 30)


def test_a_table_of_texts_is_shown_as_it_is(results):
    table = pd.DataFrame({"taxon": ["a", "b"], "note": ["50.0 [40.0, 60.0]", ""]})
    shown = results.save_table("notes", table, ["taxon"], "Some.")
    pd.testing.assert_frame_equal(shown, table, check_dtype=False)


def test_the_user_chooses_digits_and_what_is_measured(results):
    table = pd.DataFrame({"set": ["a"], "loss": [0.123456], "seconds": [12.0]})
    shown = results.save_table(
        "own_costs", table, ["set"], "Some.", measured=("seconds",), digits={"loss": 4}
    )
    assert shown["loss"].tolist() == ["0.1235"]
    values = read_tidy(results.folder / "values" / "own_costs.csv").set_index("quantity")
    assert values["kind"].to_dict() == {"loss": "number", "seconds": "measured"}
    assert values.loc["loss", "value"] == 0.123456


# --- numbers


def test_a_number_keeps_its_interval(results):
    results.save_number("share", ACCURACY, "%")
    entry = read_json(results.folder / "numbers" / "share.json")
    assert results.number_text("share") == "50.0 [40.0, 60.0]"
    assert (entry["value"], entry["low"], entry["high"]) == (0.5, 0.4, 0.6)
    assert (entry["n"], entry["unit"], entry["kind"]) == (30, "%", "estimate")


@pytest.mark.parametrize("many", [12345, np.int64(12345)])
def test_a_whole_number_stays_one(results, many):
    results.save_number("many", many, "images")
    entry = json.loads((results.folder / "numbers" / "many.json").read_text())
    assert entry["value"] == 12345 and entry["kind"] == "count"
    assert results.number_text("many") == "12,345"


def test_a_number_says_what_kind_it_is(results):
    results.save_number("chosen", 7, choice=True)
    results.save_number("time", 2.5, "minutes", measured=True)
    results.save_number("name", "SimCLR", "a unit that a text has not")
    entries = {
        name: read_json(results.folder / "numbers" / f"{name}.json")
        for name in ("chosen", "time", "name")
    }
    kinds = {name: entry["kind"] for name, entry in entries.items()}
    assert kinds == {"chosen": "choice", "time": "measured", "name": "choice"}
    assert entries["name"]["unit"] == ""


def test_prose_is_filled_with_stored_numbers(results, capsys):
    results.save_number("share", ACCURACY, "%")
    results.save_number("taxa", 1200, "taxa")
    results.say("Of {taxa} taxa {share} % are right; {taxa} in all.")
    said = capsys.readouterr().out
    assert said.strip() == "Of 1,200 taxa 50.0 [40.0, 60.0] % are right; 1,200 in all."


@pytest.mark.parametrize("name", ["Best Accuracy", "best-accuracy", "../accuracy"])
def test_a_bad_name_is_refused(results, name):
    with pytest.raises(StudyError, match="lower-case"):
        results.save_number(name, 1)
    assert list(results.folder.rglob("*")) == []


# --- provenance


def test_provenance_says_what_made_it(shared, monkeypatch):
    monkeypatch.setenv("PLANKTON_REVISION", "abc123")
    monkeypatch.setenv("PLANKTON_DIRTY", "1")
    code_revision.cache_clear()
    facts = provenance(shared, ["b", "a"])
    code_revision.cache_clear()
    assert facts["revision"] == "abc123" and facts["dirty"] is True and facts["threads"] == 1
    assert facts["inputs"] == ["a", "b"]
    assert {"profile", "config", "seed", "device", "versions", "seconds"} <= set(facts)


def test_results_that_join_runs_name_their_revisions(shared, splits, tmp_path):
    joined = Results(shared, [splits], tmp_path / "joined", joined={0: "abc", 1: None})
    joined.save_number("ledger_seeds", "2 training seeds")
    entry = read_json(tmp_path / "joined" / "provenance" / "number_ledger_seeds.json")
    assert entry["provenance"]["joined"] == {"0": "abc", "1": None}
    assert entry["provenance"]["seed"] == 0


def test_results_of_one_run_join_nothing(results):
    results.save_number("many", 3)
    entry = read_json(results.folder / "provenance" / "number_many.json")
    assert "joined" not in entry["provenance"]


def test_latex_prints_the_signs_that_tables_contain():
    """Without the T1 encoding, LaTeX prints < as an inverted exclamation mark."""
    latex = latex_table(pd.DataFrame({"p": ["<0.001", "−7 ± 2", "a > b | c → d", "16 × 16"]}))
    assert not set("<>|−±×→") & set(latex)
    assert r"\textless{}0.001" in latex and r"$-$7 $\pm$ 2" in latex
    assert r"a \textgreater{} b \textbar{} c $\rightarrow$ d" in latex
