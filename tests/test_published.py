"""What is made of stored results: agreement with a published run, static pages, cards, the README's section."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "paper" / "published" / "demo"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture
def paper(monkeypatch):
    """Import build.py, compare.py and pages.py, which lie beside the manuscript."""
    monkeypatch.syspath_prepend(str(ROOT / "paper"))
    for name in ("build", "compare", "pages"):
        sys.modules.pop(name, None)
    import build

    yield build
    for name in ("build", "compare", "pages"):
        sys.modules.pop(name, None)


@pytest.fixture
def live(tmp_path):
    for kind in ("numbers", "tables", "provenance"):
        shutil.copytree(PUBLISHED / kind, tmp_path / "demo" / kind)
    return tmp_path / "demo"


@pytest.fixture
def elsewhere(paper, tmp_path, monkeypatch):
    """A copy of the manuscript without results, which `paper` takes for its own."""
    shutil.copytree(
        ROOT / "paper",
        tmp_path / "paper",
        ignore=shutil.ignore_patterns("published", "results", "site"),
    )
    for module in (paper, paper.pages):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(paper.pages, "PAPER", tmp_path / "paper")
    return tmp_path


# --- what is published

WHOLE = sorted(path.parent for path in PUBLISHED.parent.glob("*/paper.pdf"))


@pytest.mark.parametrize("folder", WHOLE, ids=lambda folder: folder.name)
def test_a_published_run_is_whole_and_its_pdf_is_that_of_the_manuscript(paper, folder, elsewhere):
    for kind, name in paper.report.cited():
        made = json.loads((folder / "provenance" / f"{kind}_{name}.json").read_text())["provenance"]
        assert made["profile"] == folder.name and made["dirty"] is False, name
    copy = shutil.copytree(folder, elsewhere / "paper" / "published" / folder.name)
    for other in folder.parent.glob(f"{folder.name}-seed*"):  # a text may cite another training
        (copy.parent / other.name).symlink_to(other)
    (copy / "paper.pdf").unlink()
    assert paper.pdf(folder.name).read_bytes() == (folder / "paper.pdf").read_bytes(), (
        "make pdf, and commit it"
    )


@pytest.mark.parametrize("folder", WHOLE, ids=lambda folder: folder.name)
def test_the_ledger_of_a_published_run_joins_the_seeds_that_are_published(paper, folder):
    origin = paper.read_table(folder / "tables" / "origin.csv").set_index("what")["value"]
    joined = {
        key.removeprefix("seed "): value for key, value in origin.items() if key.startswith("seed ")
    }
    others = {
        path.name.rpartition("-seed")[2]: path
        for path in folder.parent.glob(f"{folder.name}-seed*")
    }
    assert joined.keys() == {"0"} | others.keys()
    for seed, path in others.items():
        made = json.loads((path / "provenance" / "table_claims.json").read_text())["provenance"]
        assert (
            joined[seed].endswith(made["revision"])
            and str(made["seed"]) == seed
            and made["dirty"] is False
        )


# --- compare


def test_a_run_agrees_with_itself(paper, live):
    table = paper.comparison.agreement(PUBLISHED, live)
    assert (table["verdict"] == "same").all() and len(table) > 1000
    assert "all published numbers hold" in paper.comparison.summary(table)


@pytest.mark.parametrize(
    ("published", "now", "verdict"),
    [
        ("64.2 [58.6, 69.4]", "64.2 [58.6, 69.4]", "same"),
        ("64.2 [58.6, 69.4]", "60.0 [50.0, 63.0]", "agrees"),
        (
            "64.2 [58.6, 69.4]",
            "58.0 [50.0, 66.0]",
            "agrees",
        ),  # the published value lies in the live interval
        ("64.2 [58.6, 69.4]", "58.0 [55.0, 61.0]", "differs"),
        ("-7.0 [-15.4, 1.1]", "+2.0 [-9.0, 3.0]", "agrees"),
        ("-7.0 [-9.4, -5.1] points to ResNet", "-2.0 [-4.0, 1.0] points to ResNet", "differs"),
        ("64.2 [58.6, 69.4]", "not run", "differs"),
        ("61.0 ± 2.7", "56.0 ± 2.0", "agrees"),
        ("61.0 ± 2.7", "54.0 ± 2.0", "differs"),
        ("flat", "still falling", "other choice"),
        ("0.016", "0.020", "other choice"),
    ],
)
def test_the_rule_of_agreement(paper, published, now, verdict):
    both = paper.comparison.parse(published), paper.comparison.parse(now)
    assert paper.comparison.verdict(*both) == verdict


def test_a_number_that_does_not_hold_is_found_and_fails(paper, live, monkeypatch, capsys):
    path = live / "numbers" / "best_accuracy.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {"value": 0.1, "low": 0.05, "high": 0.2, "text": "10"}
        )
    )
    counts = live / "numbers" / "taxa.json"
    counts.write_text(json.dumps(json.loads(counts.read_text()) | {"value": 17, "text": "17"}))
    (live / "numbers" / "cells.json").unlink()
    table = live / "tables" / "balanced.csv"
    table.write_text(re.sub(r"^diffusion,.*", "", table.read_text(), count=1, flags=re.M))
    found = paper.comparison.agreement(PUBLISHED, live).set_index("what")["verdict"]
    assert found["number best_accuracy"] == found["number taxa"] == "differs"
    assert (
        found["number cells"]
        == found["table balanced, diffusion, diffusion, linear, accuracy (%)"]
        == "missing"
    )
    assert sum(found != "same") == 6
    monkeypatch.setattr(
        paper.comparison,
        "agreement",
        lambda *_: found.rename("verdict").reset_index().assign(published="", live=""),
    )
    assert paper.main(["compare", "demo"]) == 1
    assert "6 published numbers do not hold" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("config", "other")])
def test_runs_of_other_profiles_are_not_compared(paper, live, key, value):
    for path in (live / "provenance").glob("number_*.json"):
        entry = json.loads(path.read_text())
        path.write_text(json.dumps(entry | {"provenance": entry["provenance"] | {key: value}}))
    with pytest.raises(paper.StudyError, match="another profile or seed"):
        paper.comparison.agreement(PUBLISHED, live)
    with pytest.raises(paper.StudyError, match="absent holds no results: run `make paper`"):
        paper.comparison.agreement(PUBLISHED, live.with_name("absent"))
    with pytest.raises(paper.StudyError, match="absent holds no results: nothing was published"):
        paper.comparison.agreement(PUBLISHED.with_name("absent"), live)


def test_every_difference_of_a_claim_and_every_count_is_compared(paper, live):
    table = live / "tables" / "ledger.csv"
    was = re.search(r"; ([+-][\d.]+ \[[^]]*\])", table.read_text())[1]  # the second of a row
    table.write_text(table.read_text().replace(f"; {was}", "; +99.0 [98.0, 100.0]", 1))
    splits = live / "tables" / "splits.csv"
    splits.write_text(splits.read_text().replace("synthetic,test,464", "synthetic,test,465"))
    found = paper.comparison.agreement(PUBLISHED, live).set_index("what")["verdict"]
    assert (
        found["table splits, synthetic, test, images"] == "differs" and sum(found == "differs") == 2
    )


def test_rows_that_cannot_be_told_apart_are_refused(paper, live):
    (live / "tables" / "twice.csv").write_text("encoder,score\na,1\na,2\n")
    with pytest.raises(paper.StudyError, match="several rows 'a'"):
        paper.comparison.values(live)


# --- pages and cards


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    code = "import sys; sys.path.insert(0, 'paper'); import pages; from pathlib import Path; "
    code += "print(pages.build(*map(Path, sys.argv[1:])))"
    to = tmp_path_factory.mktemp("pages") / "site"
    ran = subprocess.run(
        [sys.executable, "-c", code, PUBLISHED, to], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return to


def test_the_pages_need_nothing_from_outside(site):
    names = {path.stem for path in site.glob("*.html")}
    assert names >= {
        "index",
        "model_card",
        "data_card",
        *(p.stem for p in (PUBLISHED / "notebooks").glob("*.ipynb")),
    }
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="([^"]*)"', text)
        assert not [a for a in fetched if re.match(r"(https?:)?//", a)], path
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", text), path
        for link in re.findall(r'(?:src|href)="([^"#:]+)"', text):
            assert (site / link).exists(), (path.name, link)


def test_the_front_page_tells_the_claims_the_tables_and_how_to_cite(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    ledger = pd.read_csv(PUBLISHED / "tables" / "ledger.csv")
    assert all(claim in text for claim in ledger["claim"])
    assert (
        text.count("<details>") >= 30
        and "author = {{Nieto Juscafresa} and {Mazcuñán Herreros} and {Sullivan}}" in text
        and "2601.13416" in text
        and "figures/layers_and_noise.png" in text
    )
    assert "Synthetic demonstration data" in text


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_are_readable_on_a_phone_and_in_the_dark(site, tmp_path, dark):
    """Chromium lays them out 390 px wide: nothing sticks out sideways, text and ground differ in brightness."""
    look = """<script>addEventListener("load", () => { for (const f of document.querySelectorAll("iframe")) {
      const d = f.contentDocument, s = f.contentWindow.getComputedStyle(d.body);
      const width = d.documentElement.scrollWidth;
      document.body.append(`\\n@${f.name} ${width} ${s.color} ${s.backgroundColor}`) } })</script>"""
    frames = [
        f'<iframe name="{p.stem}" src="{p.as_uri()}" width="390" height="800"></iframe>'
        for p in site.glob("*.html")
    ]
    (tmp_path / "frames.html").write_text(f"<meta charset=utf-8>{look}{''.join(frames)}")
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--dump-dom",
    ]
    flags += ["--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    ran = subprocess.run(
        [CHROMIUM, *flags, str(tmp_path / "frames.html")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seen = re.findall(r"@(\w+) (\d+) rgb\((\d+).*?\) rgb\((\d+)", ran.stdout)
    assert len(seen) == len(frames), ran.stderr[-2000:]
    for name, width, ink, ground in seen:
        assert int(width) <= 390, name
        assert (int(ink) - int(ground) > 150) if dark else (int(ground) - int(ink) > 150), name


def test_the_cards_say_what_the_run_says(paper):
    model, data = (paper.pages.card(PUBLISHED, name) for name in paper.pages.CARDS)
    best = json.loads((PUBLISHED / "numbers" / "best_accuracy.json").read_text())["text"]
    assert best in model and "Synthetic demonstration data" in model
    splits = pd.read_csv(PUBLISHED / "tables" / "splits.csv", dtype=str)
    assert all(f"| {part} |" in data for part in splits["part"])


def test_the_section_of_the_readme_is_that_of_the_published_run(paper):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"<!-- results: (\w+) -->", readme)
    assert paper._with_results(readme, name) == readme and paper.results_section(name) in readme
    assert paper._with_results(readme, "another") == readme


def test_the_answer_in_the_readme_is_that_of_the_ledger(paper):
    """Whoever publishes results that say otherwise has to write it anew, and the words here."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"<!-- results: (\w+) -->", readme)
    ledger = paper.read_table(
        ROOT / "paper" / "published" / name / "tables" / "ledger.csv"
    ).set_index("claim")
    answer = {
        "competitive with supervised (balanced)": "refuted",
        "better than self-supervised (balanced)": "refuted",
    }
    answer |= {
        "competitive with supervised (natural)": "refuted",
        "better than self-supervised (natural)": "refuted",
    }
    answer |= {
        f"{claim} (pwssc: later)": "undecided"
        for claim in ("competitive with supervised", "better than self-supervised")
    }
    assert "**The answer**" in readme and ledger.loc[[*answer], "by the rule"].to_dict() == answer


def test_published_pictures_are_smaller_and_look_the_same(paper, tmp_path):
    shutil.copytree(PUBLISHED / "figures", tmp_path / "figures")
    shutil.copytree(PUBLISHED / "notebooks", tmp_path / "notebooks")
    for file in tmp_path.glob("figures/*.png"):  # as a run leaves them: 24 bits and alpha
        Image.open(file).convert("RGBA").save(file)
    before = {
        file: (len(file.read_bytes()), np.asarray(Image.open(file).convert("RGB"), int))
        for file in tmp_path.glob("figures/*.png")
    }
    named = tmp_path / "notebooks" / "02_diffusion.ipynb"
    named.write_text(
        named.read_text().replace("diffusion", f"{ROOT}/diffusion")
    )  # as a warning would
    assert str(ROOT) in named.read_text()
    paper._shrink(tmp_path)
    assert str(ROOT) not in named.read_text()
    for file, (size, pixels) in before.items():
        assert len(file.read_bytes()) < size
        away = np.abs(np.asarray(Image.open(file).convert("RGB"), int) - pixels)
        assert away.mean() < 2, file
    for file in tmp_path.glob("notebooks/*.ipynb"):
        nbformat.validate(nbformat.read(file, 4))


def test_another_seed_renews_the_ledger_of_the_published_run(paper, elsewhere):
    """Seed 1 was run where seed 0 never was: its joined ledger goes beside the published results of seed 0."""
    shutil.copytree(PUBLISHED, elsewhere / "paper" / "published" / "demo")
    (elsewhere / "README.md").write_text(
        "<!-- results: demo --><!-- /results -->", encoding="utf-8"
    )
    (elsewhere / "notebooks").symlink_to(ROOT / "notebooks")
    live = elsewhere / "paper" / "results" / "demo-seed1"
    shutil.copytree(PUBLISHED, live)
    for path in live.glob("provenance/*.json"):
        entry = json.loads(path.read_text())
        path.write_text(json.dumps(entry | {"provenance": entry["provenance"] | {"seed": 1}}))
    seeds = live / "numbers" / "ledger_seeds.json"
    seeds.write_text(json.dumps(json.loads(seeds.read_text()) | {"text": "2 training seeds"}))
    origin = paper.read_table(live / "tables" / "origin.csv").set_index("what")
    origin.loc["seed"], origin.loc["seed 0"], origin.loc["seed 1"] = (
        "1",
        "published, abc",
        "results, def",
    )
    origin.reset_index().to_csv(live / "tables" / "origin.csv", index=False)
    accuracy = live / "numbers" / "best_accuracy.json"
    accuracy.write_text(accuracy.read_text().replace('"text": "', '"text": "of seed 1: '))
    entry = json.loads((live / "provenance" / "number_taxa.json").read_text())
    entry["provenance"]["revision"] = "an older one, which made one number more"
    (live / "provenance" / "number_old.json").write_text(json.dumps(entry))
    (live / "numbers" / "old.json").write_text("{}")

    kind, cited = paper.report.cited()[0]
    path = live / "provenance" / f"{kind}_{cited}.json"
    whole, entry = path.read_text(), json.loads(path.read_text())
    path.write_text(
        json.dumps(entry | {"provenance": entry["provenance"] | {"revision": "another"}})
    )
    with pytest.raises(paper.StudyError, match="mixes results of 2 runs"):
        paper.publish("demo-seed1")
    path.unlink()
    with pytest.raises(paper.StudyError, match=f"lacks the {kind} {cited}"):
        paper.publish("demo-seed1")
    path.write_text(whole)
    assert paper.publish("demo-seed1") == elsewhere / "paper" / "published" / "demo-seed1"
    assert not (elsewhere / "paper" / "published" / "demo-seed1" / "figures").exists()
    assert not list((elsewhere / "paper" / "published" / "demo-seed1").rglob("*old.json"))
    main = elsewhere / "paper" / "published" / "demo"
    assert (
        json.loads((main / "numbers" / "ledger_seeds.json").read_text())["text"]
        == "2 training seeds"
    )
    assert "of seed 1" not in (main / "numbers" / "best_accuracy.json").read_text()
    for kept in [*PUBLISHED.glob("figures/*"), *PUBLISHED.glob("notebooks/0*.ipynb")]:
        assert (main / kept.relative_to(PUBLISHED)).read_bytes() == kept.read_bytes(), kept.name
    joined = paper.read_table(main / "tables" / "origin.csv").set_index("what")["value"]
    assert (
        joined["seed"] == "0"
        and joined["seed 0"] == "published, abc"
        and joined["seed 1"] == "results, def"
    )
    assert "2 training seeds" in (elsewhere / "README.md").read_text(encoding="utf-8")
    assert (main / "paper.pdf").read_bytes() != (PUBLISHED / "paper.pdf").read_bytes()

    origin.loc["seed 0"] = "results, abc"  # live and not published: nobody else could join it
    origin.reset_index().to_csv(live / "tables" / "origin.csv", index=False)
    with pytest.raises(paper.StudyError, match="joins seed 0, which is not published"):
        paper.publish("demo-seed1")
    origin.drop("seed 0").reset_index().to_csv(live / "tables" / "origin.csv", index=False)
    with pytest.raises(
        paper.StudyError, match="does not join demo, which is published: remove .*10_claims.ipynb"
    ):
        paper.publish("demo-seed1")
    for path in live.glob("provenance/*.json"):
        path.write_text(path.read_text().replace('"dirty": false', '"dirty": true'))
    with pytest.raises(paper.StudyError, match="was made with changes that no commit holds"):
        paper.publish("demo-seed1")


def test_a_text_that_the_ledger_contradicts_fails_the_build(paper, elsewhere):
    folder = elsewhere / "paper" / "published" / "demo"
    shutil.copytree(PUBLISHED, folder)
    row = (
        paper.read_table(folder / "tables" / "ledger.csv")
        .set_index("claim")
        .loc["k-means recovers classes"]
    )
    text = '#import "style.typ": *\n#let answer = []\n'
    text += '#let conclusion = [#ledger-of("k-means recovers classes", "WORD"AGAINST)]\n'
    own = elsewhere / "paper" / "reading_demo.typ"
    text, one = text.replace("AGAINST", ""), text.replace("WORD", row["by the rule"])
    own.write_text(text.replace("WORD", row["by the rule"]))
    assert paper.pdf("demo") == folder / "paper.pdf"
    own.write_text(one.replace("AGAINST", ', against: "SimCLR"'))
    assert paper.pdf("demo") == folder / "paper.pdf"
    own.write_text(one.replace("AGAINST", ', against: "CLR"'))
    with pytest.raises(
        paper.StudyError, match="the ledger has no difference to CLR for “k-means recovers classes”"
    ):
        paper.pdf("demo")
    own.write_text(text.replace("WORD", "supported"))
    with pytest.raises(
        paper.StudyError, match="the text says that “k-means recovers classes” is supported"
    ):
        paper.pdf("demo")


def test_a_text_cites_one_row_of_a_table_of_any_published_seed(paper, elsewhere):
    for name in ("demo", "demo-seed1"):
        shutil.copytree(PUBLISHED, elsewhere / "paper" / "published" / name)
    text = '#import "style.typ": *\n#let answer = []\n'
    text += '#let conclusion = [#value-of("seeds", "natural (%)", seed: 1, KEY)]\n'
    own = elsewhere / "paper" / "reading_demo.typ"
    own.write_text(text.replace("KEY", '"diffusion"'))
    before = paper.pdf("demo").read_bytes()
    table = elsewhere / "paper" / "published" / "demo-seed1" / "tables" / "seeds.csv"
    table.write_text(table.read_text().replace("(one seed)", "(another seed)"))
    assert paper.pdf("demo").read_bytes() != before
    own.write_text(text.replace("KEY", '"difusion"'))
    with pytest.raises(paper.StudyError, match="0 rows of the table seeds hold"):
        paper.pdf("demo")
