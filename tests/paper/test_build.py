"""The command line of what is made of stored results, and the PDF."""

import json
from pathlib import Path

import pytest
from stored_runs import PUBLISHED, build, change_json, copy_manuscript, copy_run

from plankton_study.report.stored import StoredRun
from plankton_study.run.errors import StudyError

CLUSTERS = "k-means recovers classes"
#: of a run, what the PDF needs
TYPESET = ("figures", "numbers", "tables", "values", "provenance", "joined")


@pytest.fixture
def paper(tmp_path, monkeypatch) -> Path:
    """A copy of the manuscript's folder with the published demonstration."""
    folder = copy_manuscript(tmp_path, monkeypatch)
    copy_run(folder / "published" / "demo", TYPESET)
    return folder


def write_reading(paper: Path, conclusion: str) -> None:
    """Write what the manuscript says of the demonstration."""
    lines = ['#import "style.typ": *', "#let answer = []", f"#let conclusion = [{conclusion}]"]
    (paper / "reading_demo.typ").write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- the command line


@pytest.mark.parametrize("arguments", [[], ["pdf"], ["print", "demo"], ["pdf", "demo", "more"]])
def test_a_wrong_command_shows_how_to_use_it(arguments, capsys):
    assert build.main(arguments) == 2
    assert (
        "usage: python paper/build.py pdf|publish|compare|site PROFILE" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ("pdf", "there are no results 'no_such_profile': run `make paper`"),
        ("site", "there are no results 'no_such_profile': run `make paper`"),
        ("publish", "no_such_profile holds no finished run: run `make paper`"),
        ("compare", "no_such_profile holds no results: nothing was published under this name"),
    ],
)
def test_every_action_needs_results_and_says_so(paper, capsys, action, sentence):
    assert build.main([action, "no_such_profile"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and sentence in said.err and not said.out
    assert len(said.err.splitlines()) == 1


def test_what_was_made_is_named(paper, capsys):
    assert build.main(["pdf", "demo"]) == 0
    assert capsys.readouterr().out == "paper/published/demo/paper.pdf\n"
    assert build.main(["pdf", "demo"]) == 0


def test_a_live_run_goes_before_a_published_one(paper):
    assert build.stored_run("demo").folder == paper / "published" / "demo"
    copy_run(paper / "results" / "demo")
    assert build.stored_run("demo").folder == paper / "published" / "demo", "it has no figures yet"
    (paper / "results" / "demo" / "figures").mkdir()
    assert build.stored_run("demo").folder == paper / "results" / "demo"


# --- the PDF


def test_the_pdf_is_the_same_bytes_on_every_call(paper):
    first = build.pdf("demo").read_bytes()
    assert build.pdf("demo").read_bytes() == first
    assert not list((paper / "published" / "demo").glob(".*"))


def test_the_pdf_follows_the_stored_numbers(paper):
    first = build.pdf("demo").read_bytes()
    change_json(paper / "published" / "demo" / "numbers" / "test_images.json", value=12345)
    assert build.pdf("demo").read_bytes() != first


@pytest.mark.parametrize("part", ["numbers/taxa.json", "tables/balanced.csv", "joined/tables"])
def test_a_missing_result_fails_the_pdf(paper, part):
    path = paper / "published" / "demo" / part
    path.rename(path.with_name("moved_away"))
    with pytest.raises(StudyError, match="the PDF cannot be typeset from .*demo: "):
        build.pdf("demo")


def test_percent_signs_stand_behind_numbers_in_percent_alone():
    texts = build.manuscript_texts(StoredRun(PUBLISHED))["numbers"]["0"]
    assert texts["best_accuracy"].endswith("]\N{NO-BREAK SPACE}%")
    assert "%" not in texts["taxa"] + texts["accuracy_over_random"] + texts["balanced_ssl_name"]


# --- texts about one run


def test_a_text_that_the_ledger_contradicts_fails_the_build(paper):
    ledger = StoredRun(PUBLISHED).texts("ledger").set_index("claim")
    word = ledger.loc[CLUSTERS, "by the rule"]
    write_reading(paper, f'#ledger-of("{CLUSTERS}", "{word}")')
    assert build.pdf("demo") == paper / "published" / "demo" / "paper.pdf"
    write_reading(paper, f'#ledger-of("{CLUSTERS}", "supported")')
    sentence = f"the text says that “{CLUSTERS}” is supported, the ledger that it is {word}"
    with pytest.raises(StudyError, match=sentence):
        build.pdf("demo")
    write_reading(paper, '#ledger-of("k-means recovers taxa", "met")')
    with pytest.raises(StudyError, match="the ledger has no claim “k-means recovers taxa”"):
        build.pdf("demo")


def test_a_text_cites_the_difference_to_one_encoder(paper):
    ledger = StoredRun(PUBLISHED).texts("ledger").set_index("claim")
    cite = f'#ledger-of("{CLUSTERS}", "{ledger.loc[CLUSTERS, "by the rule"]}", against: "NAME")'
    write_reading(paper, cite.replace("NAME", "SimCLR"))
    build.pdf("demo")
    write_reading(paper, cite.replace("NAME", "CLR"))
    with pytest.raises(StudyError, match=f"has no difference to CLR for “{CLUSTERS}”"):
        build.pdf("demo")


def test_a_text_cites_numbers_and_table_rows_of_any_published_seed(paper):
    other = copy_run(paper / "published" / "demo-seed1", ("numbers", "tables", "provenance"))
    value = '#value-of("balanced", "macro-F1 (%)", seed: 1, "diffusion", "HEAD")'
    number = '#number-of("best_accuracy", seed: 1)'
    write_reading(paper, f"{number} {value}".replace("HEAD", "linear"))
    pdfs = [build.pdf("demo").read_bytes()]
    change_json(other.folder / "numbers" / "best_accuracy.json", value=0.123)
    pdfs.append(build.pdf("demo").read_bytes())
    table = other.folder / "tables" / "balanced.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    rows[1] = rows[1].rpartition(',"')[0] + ',"98.7 [98.6, 98.8]"'
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    pdfs.append(build.pdf("demo").read_bytes())
    assert len(set(pdfs)) == 3
    write_reading(paper, value.replace("HEAD", "linnear"))
    with pytest.raises(StudyError, match="0 rows of the table balanced hold"):
        build.pdf("demo")


def test_words_about_a_published_run_are_not_said_of_a_live_one(paper):
    write_reading(paper, '#ledger-of("no such claim", "met")')
    copy_run(paper / "results" / "demo", TYPESET)
    assert build.pdf("demo") == paper / "results" / "demo" / "paper.pdf"


def test_stored_texts_are_json():
    texts = build.manuscript_texts(StoredRun(PUBLISHED))
    assert json.loads(json.dumps(texts)) == texts
    assert {"tables/ledger", "tables/seeds", "figures/budgets_of_seeds"} <= set(texts["joined"])
