"""Stored results: opening a run's folder, the runs of other seeds, and what is missing."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from plankton_study.images.splits import make_splits
from plankton_study.probes.intervals import Estimate
from plankton_study.report import stored
from plankton_study.report.provenance import code_revision
from plankton_study.report.results import Results
from plankton_study.report.stored import (
    JOINED,
    JOINED_RESULTS,
    StoredRun,
    cited_results,
    completeness,
    origin_table,
    runs_of_all_seeds,
    settings_table,
)
from plankton_study.run.errors import StudyError
from plankton_study.run.study import Study

CLAIMS = pd.DataFrame({"claim": ["maps"], "difference (points)": [Estimate(0.1, 0, 0.2, 9, p=0.1)]})


@pytest.fixture(scope="module")
def splits(shared):
    return make_splits(shared, "shapes")


@pytest.fixture
def study(shared, tmp_path) -> Study:
    """The shared study, whose results go to a folder of the test."""
    return replace(shared, results_root=tmp_path / "paper" / "results")


def save_claims(study: Study, splits, folder: Path | None = None) -> StoredRun:
    results = Results(study, [splits], folder)
    results.save_table("claims", CLAIMS, ["claim"], "What the claims rest on.")
    return StoredRun(results.folder)


def change_provenance(path: Path, **changes: object) -> None:
    """Write other facts into the provenance of a result."""
    entry = json.loads(path.read_text())
    entry["provenance"] |= changes
    path.write_text(json.dumps(entry))


# --- one run


def test_a_stored_run_gives_back_what_was_saved(study, splits):
    run = save_claims(study, splits)
    results = Results(study, [splits])
    results.save_number("share", Estimate(0.5, 0.4, 0.6, 9), "%")
    assert run.name == "test"
    assert run.texts("claims").iloc[0].to_dict() == {
        "claim": "maps",
        "difference (points)": "+10.0 [0.0, 20.0]",
    }
    assert run.values("claims")["value"].tolist() == [0.1]
    assert run.number("share")["high"] == 0.6
    assert run.number_text("share") == "50.0 [40.0, 60.0]"
    assert run.caption("table", "claims") == "What the claims rest on."
    assert run.entry("number", "share")["provenance"]["seed"] == 0
    assert run.revision == code_revision()[0]


def test_joined_results_are_found_beside_those_of_the_run(study, splits):
    run = save_claims(study, splits)
    joined = Results(study, [splits], run.folder / JOINED, joined={0: "abc"})
    joined.save_table("ledger", pd.DataFrame({"claim": ["maps"], "word": ["met"]}), ["claim"], "L.")
    joined.save_number("ledger_seeds", "one training seed")
    assert run.texts("ledger")["word"].tolist() == ["met"]
    assert run.number_text("ledger_seeds") == "one training seed"
    assert run.names("tables", ".csv") == ["claims", "ledger"]
    assert run.entry("table", "ledger")["provenance"]["joined"] == {"0": "abc"}


def test_what_is_not_stored_is_said_with_what_to_do(study, splits):
    run = save_claims(study, splits)
    with pytest.raises(StudyError, match=r"has no tables/balanced.csv: run `make paper` for it"):
        run.texts("balanced")
    with pytest.raises(StudyError, match=r"has no numbers/share.json"):
        run.number_text("share")


def test_an_empty_cell_of_a_stored_table_stays_empty(study, splits):
    results = Results(study, [splits])
    table = pd.DataFrame({"taxon": ["NA", "b"], "note": [None, "few"]})
    results.save_table("notes", table, ["taxon"], "Notes.")
    shown = StoredRun(results.folder).texts("notes")
    assert shown.to_dict("list") == {"taxon": ["NA", "b"], "note": ["", "few"]}


# --- what the manuscript cites


def test_citations_are_read_from_the_manuscript(tmp_path, monkeypatch):
    (tmp_path / "paper.typ").write_text('#figure-of("map") #figure-if-made("curve")')
    (tmp_path / "supplement.typ").write_text(
        '#table-of("splits", span: true)\n'
        'With #number-of("taxa")\\; again #number-of("taxa") and (#number-of("share")).'
    )
    monkeypatch.setattr(stored, "PAPER", tmp_path)
    assert cited_results() == [
        ("figure", "map"),
        ("number", "share"),
        ("number", "taxa"),
        ("table", "splits"),
    ]


def test_the_manuscript_cites_the_joined_results():
    cited_kinds = {kind for kind, _ in cited_results()}
    assert cited_kinds == {"figure", "table", "number"}
    assert {("table", "ledger"), ("number", "ledger_summary")} <= JOINED_RESULTS
    assert {("table", "ledger"), ("number", "ledger_summary")} <= set(cited_results())


def test_completeness_tells_missing_and_foreign_results(study, splits, monkeypatch):
    names = ("here", "gone", "foreign", "old")
    cited = [("number", name) for name in names] + [("table", "ledger")]
    monkeypatch.setattr(stored, "cited_results", lambda: cited)
    results = Results(study, [splits])
    for name in ("here", "foreign", "old"):
        results.save_number(name, 1)
    provenance = study.results / "provenance"
    change_provenance(provenance / "number_foreign.json", seed=5)
    change_provenance(provenance / "number_old.json", inputs=["images of before"])
    states = completeness(study, [splits.digest]).set_index("name")["state"].to_dict()
    assert states == {
        "here": "ok",
        "gone": "missing",
        "foreign": "of another seed",
        "old": "of another images",
    }


def test_completeness_tells_results_of_another_revision_and_profile(study, splits, monkeypatch):
    monkeypatch.setattr(stored, "cited_results", lambda: [("number", "share")])
    Results(study, [splits]).save_number("share", 1)
    change_provenance(
        study.results / "provenance" / "number_share.json", revision="another", config="another"
    )
    (state,) = completeness(study, [splits.digest])["state"]
    assert state == "of another config, revision"


# --- all seeds


def test_runs_of_all_seeds_are_found_live_before_published(study, splits):
    published = study.results_root.with_name("published")
    save_claims(study, splits, published / "test")
    save_claims(replace(study, seed=2), splits, published / "test-seed2")
    save_claims(replace(study, seed=1), splits)
    save_claims(study, splits)
    runs, refused = runs_of_all_seeds(study, [splits.digest])
    assert refused == []
    assert {seed: run.folder for seed, run in runs.items()} == {
        0: study.results_root / "test",
        1: study.results_root / "test-seed1",
        2: published / "test-seed2",
    }
    assert list(runs) == [0, 1, 2]


def test_runs_of_other_profiles_images_or_names_are_not_joined(study, splits):
    root = study.results_root
    save_claims(study, splits)
    for seed, facts in ((1, {"config": "another"}), (2, {"inputs": ["others"]}), (3, {"seed": 4})):
        run = save_claims(replace(study, seed=seed), splits)
        change_provenance(run.folder / "provenance" / "table_claims.json", **facts)
    save_claims(replace(study, seed=5), splits, root / "test-copy")
    assert list(runs_of_all_seeds(study, [splits.digest]).runs) == [0]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"code": "other"}, "code differs"),
        ({"precision": {"training": "bfloat16", "features": "float32"}}, "precision differs"),
        ({"code": None, "precision": None}, "code and precision differ"),
    ],
)
def test_seeds_of_other_code_or_precision_are_not_joined_and_named(study, splits, facts, reason):
    save_claims(study, splits)
    run = save_claims(replace(study, seed=1), splits)
    change_provenance(run.folder / "provenance" / "table_claims.json", **facts)
    runs, refused = runs_of_all_seeds(study, [splits.digest])
    assert list(runs) == [0]
    (sentence,) = refused
    assert sentence.startswith(f"seed 1 (results/{run.name}) is not joined, since its {reason}")
    assert sentence.endswith("run `make paper SEED=1` again")


# --- tables about the run itself


def test_the_settings_name_every_encoder_and_no_folder(shared):
    settings = settings_table(shared).set_index("key")["value"]
    assert settings["training.images_seen"] == "320"
    assert settings["noise.prediction"] == shared.profile.noise.prediction
    encoders = {f"encoders.{name}" for name in shared.profile.encoders}
    assert encoders <= set(settings.index)
    assert settings["encoders.fine-tuned"] == "kind = labels, network = unet, start = denoiser"
    assert "title" not in settings.index and "name" not in settings.index


def test_the_origin_names_code_profile_machine_and_versions(shared, splits):
    origin = origin_table(shared, [splits.digest]).set_index("what")["value"]
    assert origin["profile"] == "test" and origin["seed"] == "0" and origin["device"] == "cpu"
    assert "torch version" in origin.index and "revision" in origin.index


def test_a_run_that_was_made_by_other_code_than_this_joins_nothing(study, splits):
    run = save_claims(study, splits)
    change_provenance(run.folder / "provenance" / "table_claims.json", code="other")
    with pytest.raises(StudyError, match="seed 0 .* is not joined, since its code differs"):
        runs_of_all_seeds(study, [splits.digest])


def test_a_published_seed_serves_where_the_live_one_was_made_by_other_code(study, splits):
    save_claims(study, splits)
    seed = replace(study, seed=1)
    published = save_claims(seed, splits, study.results_root.with_name("published") / "test-seed1")
    stale = save_claims(seed, splits)
    change_provenance(stale.folder / "provenance" / "table_claims.json", code="older")
    runs, refused = runs_of_all_seeds(study, [splits.digest])
    assert runs[1].folder == published.folder and refused == []
