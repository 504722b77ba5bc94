"""Notebooks: their skeleton, and that a checked cell really is checked."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import conftest
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from plankton_study import metrics
from plankton_study import study as study_module

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECKED = {"nbval-check-output", "keep_output"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_skeleton(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    text = "\n".join(c.source for c in book.cells if c.cell_type == "markdown")
    assert re.match(rf"# {path.stem[:2]} · ", book.cells[0].source) and "?*" in book.cells[0].source
    assert "**Change this.**" in text and "**Next:**" in text
    (parameters,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    assert set(re.findall(r"^(\w+) = None", parameters.source, re.M)) == {"profile", "seed"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_are_short_and_define_nothing(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 16 and not re.search(r"^(def|class) ", cell.source, re.M), (
                cell.source
            )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_checked_cells_are_committed_with_their_output_and_others_without(path):
    checked = 0
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            tags = set(cell.metadata.get("tags", []))
            assert not tags & CHECKED or tags >= CHECKED, "both tags or none"
            assert bool(cell.outputs) == (tags >= CHECKED), cell.source
            checked += tags >= CHECKED
    assert checked >= 1


def store_claims(folder: Path, rows: list[tuple], **made) -> None:
    """Leave claims (claim, place, rival, value) of one run where notebook 10 looks for them."""
    for part in ("tables", "provenance"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=["claim", "place", "rival", "value"])
    table["low"], table["high"], table["p"] = table["value"] - 0.03, table["value"] + 0.03, 0.01
    table.to_csv(folder / "tables" / "claims.csv", index=False)
    made = {"config": "c", "inputs": ["i"], "revision": "r"} | made
    (folder / "provenance" / "table_claims.json").write_text(json.dumps({"provenance": made}))


def judge(folder: Path, synthetic: bool, size: int) -> dict:
    """Run the cells of notebook 10 that join seeds and judge: its variables, and `words`, claim → by the rule."""
    profile = SimpleNamespace(name="x", synthetic=synthetic, images=SimpleNamespace(size=size))
    names = {"s": SimpleNamespace(seed=0, results=folder / "results" / "x", profile=profile)}
    names |= {
        "inputs": ["i"],
        "report": SimpleNamespace(provenance=lambda s: {"config": "c"}),
        "metrics": metrics,
    }
    names |= {"pd": pd, "np": np, "json": json, "t": stats.t, "norm": stats.norm}
    for cell in nbformat.read(ROOT / "notebooks" / "10_claims.ipynb", 4).cells:
        if cell.id in ("10-21", "10-22", "10-27", "10-23"):
            exec(cell.source, names)
    return names | {"words": {(row[0], row[1]): row[3] for row in names["rows"]}}


@pytest.mark.parametrize("published", [False, True])
def test_seeds_are_joined_in_the_ledger(tmp_path, published):
    """Three runs: means over seeds, intervals with the chance of training, rules applied to both."""
    for seed, (share, supervised, masked, natural) in enumerate(
        [(1, 0.02, 0.10, -0.1), (1, 0.02, 0.12, 0.1), (0.5, 0.02, 0.14, 0.0)]
    ):
        rows = [("16 × 16 maps are best", "", "all other maps", share)]
        rows += [("competitive with supervised", "balanced", "ResNet", supervised)]
        rows += [("competitive with supervised", "natural", "ResNet", natural)]
        rows += [("better than self-supervised", "balanced", "MAE", masked)]
        rows += [("better than self-supervised", "natural", "MAE", 0.1)]
        kind = "published" if published and seed else "results"
        store_claims(tmp_path / kind / ("x" if not seed else f"x-seed{seed}"), rows, seed=seed)
    store_claims(
        tmp_path / "results" / "x-seed3", rows, seed=3, config="other"
    )  # no part of this study, nor the next
    store_claims(tmp_path / "results" / "x-seed4", rows, seed=4, inputs=["other"])
    names = judge(tmp_path, synthetic=False, size=64)
    assert sorted(names["runs"]) == [0, 1, 2] and names["seeds"] == "3 training seeds"
    better = names["joined"].loc[("better than self-supervised", "balanced", "MAE")]
    training = 0.02 / 3**0.5
    error = np.hypot(0.03 / 1.959964, training)
    freedom = 2 * (error / training) ** 4
    reach = stats.t.ppf(0.975, freedom) * error
    np.testing.assert_allclose(
        better[["value", "low", "high"]].astype(float), [0.12, 0.12 - reach, 0.12 + reach]
    )
    np.testing.assert_allclose(better["p"], 2 * stats.t.sf(0.12 / error, freedom))
    words = names["words"]
    assert words["16 × 16 maps are best", ""] == "undecided"  # one seed has other maps too
    assert words["competitive with supervised", "balanced"] == "met"  # the seeds agree
    assert words["competitive with supervised", "natural"] == "undecided"  # they do not
    assert (
        words["better than self-supervised", "balanced"]
        == words["better than self-supervised", "natural"]
        == "met"
    )
    assert {row[4] for row in names["rows"][:-1]} == {""}  # nothing speaks against a verdict


def test_the_ledger_corrects_for_rivals_and_says_what_speaks_against_a_verdict(tmp_path):
    """Two rivals of a claim, a supervised one that changes between seeds, one that one seed has, small images."""
    rows = [
        ("16 × 16 maps are best", "", "all other maps", 1),
        ("competitive with supervised", "balanced", "ResNet", 0.02),
    ]
    rows += [("better than self-supervised", "balanced", "MAE", 0.1)]
    rows += [("better than self-supervised", "balanced", "SimCLR", 0.02)]
    rows += [("better than self-supervised", "natural", "MAE", -0.1)]
    for seed in range(3):
        own = [
            (c, p, "ViT" if seed and r == "ResNet" else r, v + 0.01 * seed * (p != ""))
            for c, p, r, v in rows
        ]
        own += [] if seed else [("better than self-supervised", "natural", "VICReg", 0.5)]
        store_claims(tmp_path / "results" / ("x" if not seed else f"x-seed{seed}"), own, seed=seed)
    names = judge(tmp_path, synthetic=True, size=32)
    joined, training = names["joined"], 0.01 / 3**0.5
    error = np.hypot(0.03 / 1.959964, training)
    p = 2 * stats.t.sf(0.11 / error, 2 * (error / training) ** 4)
    found = joined.loc[("better than self-supervised", "balanced", "MAE")]["p"]
    np.testing.assert_allclose(found, 2 * p, rtol=1e-6)  # Holm, of two
    assert joined.loc[("competitive with supervised", "balanced"), "rival"].tolist() == [
        "ResNet or ViT"
    ]
    assert names["words"]["better than self-supervised", "balanced"] == "undecided"
    assert names["words"]["better than self-supervised", "natural"] == "refuted"
    assert "VICReg" not in joined.index.get_level_values(2)
    against = [row[4] for row in names["rows"][:2]]
    assert against == ["synthetic images; images of 32 px, 64 asked for", "synthetic images"]
    shutil.rmtree(tmp_path / "results" / "x-seed1")
    assert [row[4] for row in judge(tmp_path, False, 64)["rows"][:1]] == [
        "2 training seeds, 3 asked for"
    ]


@pytest.mark.parametrize("shifted", [True, False])
def test_seeds_are_shown_at_home_and_on_shifted_parts(tmp_path, shifted):
    """Two seeds, of which one has an encoder that was not run on the shifted part; or nothing shifted at all."""
    folders = {}
    for seed in (0, 1):
        folders[seed] = tmp_path / str(seed), "revision"
        folders[seed][0].mkdir()
        at_home = f'encoder,head,macro-F1 (%)\nSimCLR,linear,"{40 + seed}.0 [1.0, 2.0]"\nSimCLR,k-NN,"9.0 [8.0, 9.9]"\n'
        for setting in ("balanced", "natural"):
            (folders[seed][0] / f"{setting}.csv").write_text(at_home)
        away = f'pwssc,later,SimCLR,"99.0 [98.0, 99.5]","{20 + 2 * seed}.5 [1.0, 2.0]"\n'
        away += "pwssc,not run,CLIP,not run,not run\n"
        away = 'set,part,encoder,"macro f1, home (%)","macro f1, away (%)"\n' + away * shifted
        (folders[seed][0] / "shift.csv").write_text(away)
    shown = []
    names = {"pd": pd, "folders": folders, "runs": folders, "seeds": "", "s": None, "inputs": []}
    names["report"] = SimpleNamespace(
        table=lambda s, name, table, caption, inputs: shown.append(table)
    )
    for cell in nbformat.read(ROOT / "notebooks" / "10_claims.ipynb", 4).cells:
        if cell.id in ("10-25", "10-26"):
            exec(cell.source, names)
    (table,) = shown
    places = {"balanced (%)": "40.5 (40.0 to 41.0)", "natural (%)": "40.5 (40.0 to 41.0)"}
    places |= {"pwssc: later (%)": "21.5 (20.5 to 22.5)"} if shifted else {}
    assert table.to_dict("records") == [{"encoder": "SimCLR"} | places]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, shapes):
    """README's shortest profile: one set, nothing known but its classes, nothing shifted, nothing novel."""
    folder = tmp_path_factory.mktemp("plain")
    lines = conftest.PROFILE.format(folder=shapes).splitlines()
    known = [line for line in lines if re.match("entry|home|shifts|novel", line)]
    assert len(known) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "ROOT", folder)
        changes = {f"{line}\n": "" for line in known} | {"images_seen = 320": "images_seen = 32"}
        conftest.load_study(folder / "test.toml", shapes, patch, folder / "cache", changes)
        yield str(folder / "test.toml")


@pytest.mark.parametrize(
    "name", ["01_data", "04_encoders", "05_long_tail", "06_shift", "09_monitoring"]
)
def test_notebooks_hold_without_times_shifts_and_novel_taxa(plain, name):
    names = {}
    for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            source = cell.source.replace("profile = None", f"profile = {plain!r}")
            exec(compile(source, f"{name}, {cell.id}", "exec"), names)
    plt.close("all")


def test_a_planted_wrong_value_fails(tmp_path):
    """The committed output of 01's first checked cell is changed by one digit; nbval must notice."""
    book = nbformat.read(ROOT / "notebooks" / "01_data.ipynb", 4)
    cell = next(c for c in book.cells if set(c.metadata.get("tags", [])) >= CHECKED)
    planted = re.sub(
        r"(\d+) images", lambda m: f"{int(m[1]) + 1} images", cell.outputs[0].text, count=1
    )
    assert planted != cell.outputs[0].text
    cell.outputs[0].text = planted
    keep = book.cells.index(cell) + 1
    book.cells = book.cells[:keep]
    results = {}
    for name, text in (("right", None), ("wrong", planted)):
        if text is None:
            cell.outputs[0].text = re.sub(
                r"(\d+) images", lambda m: f"{int(m[1]) - 1} images", planted, count=1
            )
        else:
            cell.outputs[0].text = text
        nbformat.write(book, tmp_path / f"{name}.ipynb")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--nbval-lax",
            "--nbval-current-env",
            "-p",
            "no:cacheprovider",
            "-q",
        ]
        env = {**os.environ, "PLANKTON_PROFILE": "smoke", "PLANKTON_SEED": "0", "PLANKTON_DATA": ""}
        env["PLANKTON_CACHE"] = str(tmp_path / "cache")
        results[name] = subprocess.run(
            [*command, f"{name}.ipynb"], cwd=tmp_path, env=env, capture_output=True, text=True
        )
    assert results["right"].returncode == 0, results["right"].stdout[-3000:]
    assert (
        results["wrong"].returncode == 1 and "FAILED wrong.ipynb::Cell" in results["wrong"].stdout
    )
    assert "mismatch" in results["wrong"].stdout
