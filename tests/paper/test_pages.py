"""Static pages and cards of the published demonstration."""

import json
import re
import shutil
from pathlib import Path

import jinja2
import pandas as pd
import pytest
from browser import needs_chromium, visit
from stored_runs import NUMBERS_AND_TABLES, PUBLISHED, change_json, copy_run, pages

from plankton_study.report.stored import StoredRun
from plankton_study.run.errors import StudyError
from plankton_study.run.files import write_json

RUN = StoredRun(PUBLISHED)
PHONE = 390  # px wide
READABLE = 150  # of 255, the least distance of ink and ground


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of all pages."""
    folder = tmp_path_factory.mktemp("pages") / "site"
    assert pages.build_site(RUN, folder) == folder / "index.html"
    return folder


def test_every_notebook_and_every_card_has_a_page(site):
    names = {path.stem for path in site.glob("*.html")}
    notebooks = {path.stem for path in pages.notebooks_of(RUN)}
    assert "16_verdicts" in notebooks
    assert names == {"index", "explorer", *pages.CARDS} | notebooks
    assert not list(site.parent.glob("*.partial"))


def test_the_pages_need_nothing_from_outside(site):
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="([^"]*)"', text)
        assert not [address for address in fetched if re.match(r"(https?:)?//", address)], path
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", text), path


def test_every_link_of_the_pages_leads_somewhere(site):
    for path in site.glob("*.html"):
        for link in re.findall(r'(?:src|href)="([^"#:]+)"', path.read_text(encoding="utf-8")):
            assert (site / link).exists(), (path.name, link)


def test_the_front_page_tells_the_claims_the_tables_and_how_to_cite(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert all(claim in text for claim in RUN.texts("ledger")["claim"])
    assert all(sentence in text for sentence in pages.answer(RUN))
    assert text.count("<details>") >= 30
    assert "author = {{Nieto Juscafresa} and {Mazcuñán Herreros} and {Sullivan}}" in text
    assert "2601.13416" in text
    assert "figures/layers_and_noise.png" in text
    assert "Synthetic demonstration data" in text
    assert pages.cost_text(RUN) in text


def test_the_front_page_tells_the_cost_of_the_networks():
    trainings = RUN.values("trainings")
    number = (trainings["quantity"] == "first loss").sum()
    assert f"training its {number} networks took " in pages.cost_text(RUN)


def test_the_front_page_answers_in_three_sentences_with_the_stored_scores():
    sentences = pages.answer(RUN)
    assert len(sentences) == 3
    table = RUN.texts("main" if "main" in RUN.names("tables", ".csv") else "seeds")
    (own,) = table.loc[table["encoder"] == "diffusion"].to_dict("records")
    natural = own.get("natural, one cell (%)", own.get("natural (%)"))
    assert f"a macro-F1 of {natural.split()[0]} %" in sentences[0]
    assert "may judge none" in sentences[2], "the demonstration is synthetic"
    for part in RUN.number_text("ledger_summary").split(", "):
        count, word = part.split(" ", 1)
        assert f"{count} {pages.IN_WORDS[word]}" in sentences[2]


def test_the_front_page_of_real_images_gives_their_verdicts():
    run = StoredRun(PUBLISHED.with_name("overnight"))
    verdicts = run.texts("ledger")["verdict"]
    assert f"{(verdicts == 'not supported').sum()} not supported" in pages.answer(run)[2]
    assert "by the rules alone" not in pages.answer(run)[2]


def test_each_claim_is_a_card_with_a_word_for_each_place():
    cards = pages.claim_cards(RUN)
    ledger = RUN.texts("ledger")
    assert sum(len(card["places"]) for card in cards) == len(ledger)
    words = {place["word"] for card in cards for place in card["places"]}
    assert words <= {"supported", "not supported", "open", "not tested"}
    titles = [card["title"] for card in cards]
    assert len(titles) == len(set(titles)) and "k-means recovers classes" in titles


def test_tables_are_grouped_by_the_notebook_that_makes_them(site):
    assert pages.notebook_of_result("splits") == "01_data"
    assert pages.notebook_of_result("ledger") == "16_verdicts"
    assert pages.notebook_of_result("my_own_table") == ""
    text = (site / "index.html").read_text(encoding="utf-8")
    tables = text.split("<h2>All tables</h2>")[1]
    assert tables.index("01 · ") < tables.index("09 · ") < tables.index("16 · ")


def test_pages_of_notebooks_fold_their_code_and_lead_to_their_neighbours(site):
    text = (site / "01_data.html").read_text(encoding="utf-8")
    assert text.count('<details class="code">') == text.count('<div class="highlight hl-ipython3">')
    turn = text.split('<p class="turn">')[1]
    assert 'href="00_one_image.html"' in turn and 'href="02_denoiser.html"' in turn


def test_each_figure_of_a_notebook_has_its_provenance_below_it(site):
    for path in pages.notebooks_of(RUN):
        text = (site / f"{path.stem}.html").read_text(encoding="utf-8")
        figures = text.count("<img ")
        assert text.count("<summary>provenance</summary>") == figures, path.stem
        assert text.count(f'"revision": "{RUN.revision}"') == figures, path.stem


def test_the_explorer_is_a_page_of_runs_that_have_one(tmp_path):
    run = copy_run(tmp_path / "demo", ["figures", "notebooks", "tables", "numbers", "provenance"])
    for part in ("values", "joined"):
        shutil.copytree(PUBLISHED / part, run.folder / part, dirs_exist_ok=True)
    shutil.copy(PUBLISHED / "paper.pdf", run.folder)
    shutil.rmtree(run.folder / "data", ignore_errors=True)
    pages.build_site(run, tmp_path / "without")
    assert not (tmp_path / "without" / "explorer.html").exists()
    data = {"encoders": {}, "images": [], "names": {}, "training": {}, "tiles": {}, "taxa": []}
    write_json(run.folder / "data" / "explorer.json", data)
    pages.build_site(run, tmp_path / "with")
    page = (tmp_path / "with" / "explorer.html").read_text(encoding="utf-8")
    assert "Look for yourself" in page and '"pictures":null' in page
    assert 'href="explorer.html"' in (tmp_path / "with" / "index.html").read_text()


def test_pages_are_not_made_from_a_run_without_its_pdf_or_notebooks(tmp_path):
    run = copy_run(tmp_path / "demo", ["figures", "notebooks"])
    with pytest.raises(StudyError, match=r"demo lacks paper.pdf: run `make paper`"):
        pages.build_site(run, tmp_path / "site")
    (run.folder / "paper.pdf").touch()
    shutil.rmtree(run.folder / "notebooks")
    with pytest.raises(StudyError, match="demo lacks notebooks: run `make paper`"):
        pages.build_site(run, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_notebooks_of_a_run_are_its_own_then_the_joined_and_none_that_failed(tmp_path):
    for name in ("01_data", "02_denoiser", "02_denoiser.failed", "draft"):
        (tmp_path / "notebooks" / f"{name}.ipynb").parent.mkdir(exist_ok=True)
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    (tmp_path / "joined" / "notebooks").mkdir(parents=True)
    (tmp_path / "joined" / "notebooks" / "16_verdicts.ipynb").touch()
    names = [path.stem for path in pages.notebooks_of(StoredRun(tmp_path))]
    assert names == ["01_data", "02_denoiser", "16_verdicts"]


# --- how they look


# reports the width, the ink and the ground of every page as @name width rgb(…) rgb(…)
LOOK = """<script>addEventListener("load", () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument
    const style = frame.contentWindow.getComputedStyle(page.body)
    const width = page.documentElement.scrollWidth
    document.body.append(`\\n@${frame.name} ${width} ${style.color} ${style.backgroundColor}`)
  }
})</script>"""


def look_at(site: Path, folder: Path, dark: bool) -> list[tuple[str, int, int, int]]:
    """Return name, width, ink and ground of each page, as a phone shows it."""
    frames = [
        f'<iframe name="{path.stem}" src="{path.as_uri()}" width="{PHONE}" height="800"></iframe>'
        for path in site.glob("*.html")
    ]
    (folder / "frames.html").write_text(f"<meta charset=utf-8>{LOOK}{''.join(frames)}")
    flags = ["--allow-file-access-from-files"]
    if dark:
        flags.append("--blink-settings=preferredColorScheme=0")
    ran = visit(folder / "frames.html", *flags)
    seen = re.findall(r"@(\w+) (\d+) rgb\((\d+).*?\) rgb\((\d+)", ran.stdout)
    assert len(seen) == len(frames), ran.stderr[-2000:]
    return [(name, int(width), int(ink), int(ground)) for name, width, ink, ground in seen]


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_are_readable_on_a_phone_and_in_the_dark(site, tmp_path, dark):
    """Nothing sticks out sideways; text and ground differ in brightness."""
    for name, width, ink, ground in look_at(site, tmp_path, dark):
        assert width <= PHONE, name
        assert (ink - ground if dark else ground - ink) > READABLE, name


SORT = """<script>addEventListener("load", () => {
  const table = document.querySelector(".scroll table")
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent)
  const head = table.querySelectorAll("thead th")[1]
  head.click()
  const sorted = column()
  head.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}))
  document.body.append("@@" + JSON.stringify([sorted, column()]) + "@@")
})</script>"""


@needs_chromium
def test_a_click_on_the_head_of_a_column_sorts_the_table(tmp_path):
    page = jinja2.Template((pages.PAPER / "page.html").read_text(encoding="utf-8"))
    table = pd.DataFrame({"encoder": list("abcd"), "score": ["9.5 [1, 2]", "−3.0", "10", ""]})
    body = f'<div class="scroll">{table.to_html(index=False)}</div>{SORT}'
    words = {"pages": [], "synthetic": False, "highlight": "", "has_explorer": False}
    text = page.render(words, title="x", body=body, before=None, after=None)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    ran = visit(tmp_path / "page.html")
    found = re.findall(r"@@(\[.*\])@@", ran.stdout.rpartition("</script>")[2])
    assert json.loads(found[0]) == [
        ["10", "9.5 [1, 2]", "−3.0", ""],
        ["", "−3.0", "9.5 [1, 2]", "10"],
    ]


# --- cards


def test_the_cards_say_what_the_run_says():
    model, data = (pages.card(RUN, name) for name in pages.CARDS)
    assert RUN.number_text("best_accuracy") in model and "Synthetic demonstration data" in model
    assert all(f"| {part} |" in data for part in RUN.texts("splits")["part"])


def test_a_word_that_no_run_has_fails_the_card(tmp_path):
    (tmp_path / "card.md").write_text("{{ run.seed }} {{ no_such_word }}")
    with pytest.raises(jinja2.UndefinedError, match="no_such_word"):
        pages.render(tmp_path / "card.md", RUN)
    (tmp_path / "card.md").write_text('{{ run["seed"] }}: {{ number("taxa") }}\n')
    text = pages.render(tmp_path / "card.md", RUN)
    assert text == f"0: {RUN.number_text('taxa')} taxa\n"


def test_a_table_in_markdown_has_a_line_for_each_row():
    lines = pages.markdown_table(RUN.texts("splits")).splitlines()
    assert len(lines) == 2 + len(RUN.texts("splits"))
    assert set(lines[1]) == set("| -")


def test_names_from_a_profile_cannot_change_the_pages(tmp_path):
    """The name of a set, or of a taxon, may hold characters that mean something in HTML."""
    name = "<b>station</b> & co"
    run = copy_run(tmp_path / "demo", parts=NUMBERS_AND_TABLES)
    for part in ("figures", "notebooks"):
        shutil.copytree(PUBLISHED / part, run.folder / part)
    shutil.copy(PUBLISHED / "paper.pdf", run.folder)
    change_json(run.folder / "numbers" / "run_size.json", value=name)
    change_json(run.folder / "numbers" / "sets.json", value=name)
    for path in (run.folder / "provenance").glob("*_balanced*.json"):
        change_json(path, caption=f"On {name}.")
    pages.build_site(run, tmp_path / "site")
    for page in ("index", "data_card"):
        text = (tmp_path / "site" / f"{page}.html").read_text(encoding="utf-8")
        assert "<b>station" not in text
        assert "&lt;b&gt;station&lt;/b&gt; &amp; co" in text
    table = pages.markdown_table(pd.DataFrame({"taxon": ["a|b", "<i>"]}))
    assert r"a\|b" in table and "&lt;i&gt;" in table
