"""Results: where they go, what they carry, and that the same input gives the same bytes."""

import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from plankton_study import report, study
from plankton_study.metrics import Estimate
from plankton_study.profile import StudyError

ROOT = Path(__file__).resolve().parent.parent


def draw():
    report.style()
    figure, ax = plt.subplots(figsize=(2, 2))
    ax.plot([0, 1], [1, 0])
    ax.set(xlabel="x (px)", ylabel="y (%)")
    return figure


def test_a_figure_is_the_same_bytes_on_every_save(shared):
    saved = []
    for _ in range(2):
        report.figure(shared, "line", draw(), "A line.", ["abc"])
        saved.append(
            [(shared.results / "figures" / f"line.{kind}").read_bytes() for kind in ("svg", "png")]
        )
    assert saved[0] == saved[1]
    entry = json.loads((shared.results / "provenance" / "figure_line.json").read_text())
    assert entry["caption"] == "A line." and entry["provenance"]["inputs"] == ["abc"]


def test_synthetic_figures_and_tables_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "ROOT", tmp_path)
    monkeypatch.delenv("PLANKTON_DATA", raising=False)
    demo = study.load("demo", 0)
    figure = draw()
    report.figure(demo, "line", figure, "A line.")
    assert report.SYNTHETIC in [text.get_text() for text in figure.texts]
    report.table(demo, "numbers", pd.DataFrame({"a": [1]}), "One.")
    caption = json.loads((demo.results / "provenance" / "table_numbers.json").read_text())[
        "caption"
    ]
    assert report.SYNTHETIC in caption


def test_estimates_are_shown_with_their_interval_and_an_empty_table_says_so(shared):
    table = pd.DataFrame(
        {"taxon": ["a", "b"], "macro-F1 (%)": [Estimate(0.5, 0.4, 0.6, 9), "not run"]}
    )
    assert report.table(shared, "shown", table, "Some.")["macro-F1 (%)"].tolist() == [
        "50.0 [40.0, 60.0]",
        "not run",
    ]
    report.table(shared, "none", table.iloc[:0], "None.")
    assert (shared.results / "tables" / "none.csv").read_text().splitlines()[
        -1
    ] == "not part of this profile"


def test_a_table_is_written_for_typst_and_for_latex(shared):
    table = pd.DataFrame({"taxon": ["a_b", "c&d"], "accuracy (%)": ["50.0 [40.0, 60.0]", ""]})
    assert report.table(shared, "some", table, "Some.").equals(table)
    again = pd.read_csv(shared.results / "tables" / "some.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(again, table)
    latex = (shared.results / "tables" / "some.tex").read_text()
    assert r"a\_b" in latex and r"c\&d" in latex and r"\toprule" in latex


def test_a_number_keeps_its_interval(shared):
    text = report.number(shared, "share", Estimate(0.5, 0.4, 0.6, 30), "%")
    entry = json.loads((shared.results / "numbers" / "share.json").read_text())
    assert text == entry["text"] == "50.0 [40.0, 60.0]"
    assert (entry["low"], entry["high"], entry["n"], entry["unit"]) == (0.4, 0.6, 30, "%")
    for many in (12345, np.int64(12345)):
        assert report.number(shared, "many", many, "images") == "12,345"
        assert json.loads((shared.results / "numbers" / "many.json").read_text())["value"] == 12345


def test_provenance_says_what_made_it(shared, monkeypatch):
    monkeypatch.setenv("PLANKTON_REVISION", "abc123")
    monkeypatch.setenv("PLANKTON_DIRTY", "1")
    fresh = study.Study(shared.profile, 0, shared.cache, None, 1)
    facts = report.provenance(fresh)
    assert facts["revision"] == "abc123" and facts["dirty"] is True and facts["threads"] == 1
    assert {"profile", "config", "seed", "device", "versions", "seconds"} <= set(facts)


def test_a_bad_name_is_refused(shared):
    with pytest.raises(StudyError, match="lower-case"):
        report.number(shared, "Best Accuracy", 1)


def test_montage_tiles_row_by_row():
    sheet = report.montage(np.stack([np.full((2, 2), i, np.uint8) for i in range(3)]), 2)
    assert (
        sheet.shape == (5, 5)
        and sheet[0, 0] == 0
        and sheet[0, 3] == 1
        and sheet[3, 0] == 2
        and sheet[4, 4] == 255
    )


def test_completeness_tells_missing_and_foreign_results(shared, monkeypatch):
    monkeypatch.setattr(
        report, "cited", lambda: [("number", name) for name in ("here", "gone", "foreign", "old")]
    )
    report.number(shared, "here", 1)
    report.number(shared, "foreign", 1)
    file = shared.results / "provenance" / "number_foreign.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 5'))
    report.number(shared, "old", 1, inputs=["before"])
    states = report.completeness(shared, ["now"]).set_index("name")["state"].to_dict()
    assert states == {
        "here": "ok",
        "gone": "missing",
        "foreign": "of another seed",
        "old": "of another images",
    }


# --- the manuscript


def prose() -> str:
    """The manuscript without markup that may hold digits: comments, calls, labels, references, sizes of figures."""
    text = "".join(
        p.read_text(encoding="utf-8")
        for p in sorted((ROOT / "paper").glob("*.typ"))
        if p.stem != "style"
    )
    text = re.sub(r"//.*", "", text)
    text = re.sub(r"\$[^$]*\$", "", text)
    text = re.sub(r"#?\w+-of\([^)]*\)|<\w+>|@\w+|#import[^\n]*", "", text)
    return text


def test_no_semicolon_of_the_manuscript_is_lost():
    """Typst takes one after a call for the end of the call, and prints nothing."""
    call = re.compile(r"#[\w-]+\((?:[^()]|\([^()]*\))*\);")
    assert call.search('#number-of("taxa"); then') and not call.search('#number-of("taxa")\\; then')
    lost = {
        p.name: call.findall(p.read_text(encoding="utf-8")) for p in (ROOT / "paper").glob("*.typ")
    }
    assert not any(lost.values()), lost


def test_the_manuscript_holds_no_typed_result():
    # the paper's best probe and resolution, the interval, PlanktonSet 1.0, bounds of measures, an example, the rules
    allowed = {"92.13", "16", "95", "1.0", "0", "100", "8", "5", "3", "64"}
    typed = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", prose())) - allowed
    assert not typed, f"numbers typed into the manuscript: {sorted(typed)}"


def test_a_typed_result_would_be_found(monkeypatch):
    text = prose() + " The probe reaches 61.4 % accuracy."
    monkeypatch.setitem(globals(), "prose", lambda: text)
    with pytest.raises(AssertionError, match=r"61\.4"):
        test_the_manuscript_holds_no_typed_result()


def test_every_cited_result_is_made_by_a_notebook():
    books = [json.loads(file.read_text()) for file in (ROOT / "notebooks").glob("*.ipynb")]
    code = "\n".join("".join(cell["source"]) for book in books for cell in book["cells"])
    in_a_loop = {f"{e}_{key}" for e in ("random", "pixels") for key in ("accuracy", "macro_f1")}
    in_a_loop |= {
        f"{key}_over_{e}" for e in ("random", "pixels") for key in ("accuracy", "macro_f1")
    }
    for kind, name in report.cited():
        plain = re.search(rf'report\.{kind}\(\s*s,\s*"{name}"', code)
        assert plain or name in in_a_loop, name


def test_the_pdf_needs_results_and_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "paper"))
    sys.modules.pop("build", None)
    import build

    assert build.main(["pdf", "no_such_profile"]) == 1
    assert "no results 'no_such_profile': run `make paper`" in capsys.readouterr().err
    assert build.main(["publish", "no_such_profile"]) == 1
