"""The explorer: what it shows, and how it works in a browser."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import needs_chromium, visit
from PIL import Image

from plankton_study.images.splits import make_splits
from plankton_study.probes.probe import probe_encoder
from plankton_study.questions import explorer
from plankton_study.questions.clusters import cluster_encoder
from plankton_study.report.explorer.page import (
    DATA,
    PICTURES,
    explorer_fragment,
    save_explorer,
    show_explorer,
)

NAMES = ("diffusion", "ResNet, labels")


@pytest.fixture(scope="module")
def splits(shared):
    return make_splits(shared, "shapes")


@pytest.fixture(scope="module")
def probes(shared, splits):
    return {name: probe_encoder(shared, splits, name) for name in NAMES}


@pytest.fixture(scope="module")
def data(shared, splits, probes) -> dict:
    cells = {name: explorer.cells_of_encoder(shared, splits, name) for name in NAMES}
    clusters = cluster_encoder(shared, splits, "diffusion")
    images = explorer.images_to_show(shared, splits, probes, clusters)
    truth = splits.taxa(probes["diffusion"].rows["validation"]).astype(str)
    about = {
        "set": "shapes",
        "encoders": {name: {"cells": cells[name]} for name in NAMES},
        "validation": pd.Series(truth).value_counts().to_dict(),
    }
    return about | images


@pytest.fixture(scope="module")
def stored(data, splits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    save_explorer(folder, data, splits.collection.images)
    return folder


def test_every_cell_has_the_scores_of_the_map_and_its_confusions(data, probes):
    for name, probe in probes.items():
        cells = data["encoders"][name]["cells"]
        single = [cell for cell in cells if cell["layer"] != "all layers"]
        assert len(single) == len(probe.grid)
        assert len(cells) > len(single)
        for cell, row in zip(single, probe.grid.to_dict("records"), strict=True):
            assert cell["layer"] == row["layer"]
            value, low, high = cell["macro_f1"]
            assert value == pytest.approx(100 * row["macro_f1"], abs=0.06)
            assert low is None or (low <= value + 0.1 and value <= high + 0.1)
            assert sum(count for *_, count in cell["confusions"]) <= len(probe.rows["validation"])
            assert all(true != taken_for for true, taken_for, _ in cell["confusions"])


def test_every_test_image_shown_has_its_names_and_its_nearest_training_images(data, probes, splits):
    test = probes["diffusion"].rows["test"]
    position = {row: place for place, row in enumerate(test.tolist())}
    predicted = {name: probe.predicted_taxa("test") for name, probe in probes.items()}
    assert data["images"]
    for number, image in enumerate(data["images"]):
        assert image["taxon"] == str(splits.taxa(np.array([image["row"]]))[0])
        for name in NAMES:
            taxon, percent = data["names"][name][number]
            assert data["taxa"][taxon] == predicted[name][position[image["row"]]]
            assert 0 < percent <= 100
        assert set(image["nearest"]) <= set(splits["train"].tolist())
        assert all(str(row) in data["training"] for row in image["nearest"])


def test_no_taxon_has_more_images_than_can_be_looked_at():
    taxa = np.repeat(["many", "few"], [40, 3])
    shown = explorer.positions_to_show(taxa)
    assert len(shown) == explorer.IMAGES_OF_A_TAXON + 3
    assert (np.diff(shown) > 0).all()
    assert (shown == explorer.positions_to_show(taxa)).all()


def test_the_stored_picture_holds_each_image_at_its_tile(stored, data, splits):
    tiles = json.loads((stored / DATA).read_text())["tiles"]
    picture = np.asarray(Image.open(stored / PICTURES))
    for row in (data["images"][0]["row"], data["images"][-1]["nearest"][0]):
        down, right = divmod(tiles["rows"].index(row), tiles["columns"])
        top, left = down * tiles["side"], right * tiles["side"]
        image = splits.collection.images[row]
        tile = picture[top : top + len(image), left : left + len(image)]
        assert (tile == image).all()


def test_names_of_taxa_cannot_end_the_script_that_holds_them(stored, tmp_path):
    text = (stored / DATA).read_text().replace('"disc"', '"</script><b>disc"')
    (tmp_path / DATA).parent.mkdir()
    (tmp_path / DATA).write_text(text)
    fragment = explorer_fragment(tmp_path)
    assert fragment.count("</script>") == 2  # of the data and of the code
    assert "<b>disc" not in fragment


def test_a_notebook_shows_the_explorer_in_a_frame_of_its_own(stored, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(data))
    show_explorer(stored)
    (data,) = shown
    assert data["text/html"].startswith("<iframe") and "srcdoc" in data["text/html"]
    assert "explorer" in data["text/plain"]


# --- in a browser

#: a visit: what is written after an @ is read by the test
VISIT = """<script>
const seen = {errors: [], fetched: []}
addEventListener("error", (event) => seen.errors.push(String(event.message)))
addEventListener("load", () => {
  const find = (name) => document.querySelector(name)
  const pick = (name, value) => {
    const select = find(`[data-choice="${name}"]`)
    select.value = value
    select.dispatchEvent(new Event("change"))
  }
  const cells = [...document.querySelectorAll('[data-place="map"] button')]
  seen.cells = cells.map((cell) => cell.textContent)
  find('[data-place="chosen"] button').click()
  cells[0].focus()
  cells[0].click()
  seen.clicked = cells[0].textContent
  seen.score = find('[data-place="chosen"] [data-score="macro_f1"]').textContent
  seen.kept = find('[data-place="kept"] [data-score="macro_f1"]').textContent
  seen.focus = document.activeElement.textContent
  const mistakes = document.querySelectorAll('[data-place="chosen"] li')
  seen.mistakes = [...mistakes].map((one) => one.textContent)
  pick("readout", "layers")
  seen.layers = document.querySelectorAll('[data-place="map"] button').length
  pick("by", "taxon")
  pick("which", "disc")
  seen.discs = [...document.querySelectorAll(".gallery .card > h3")].map((one) => one.textContent)
  seen.shots = document.querySelectorAll(".gallery .card > .shot").length
  pick("by", "confusion")
  seen.confusions = document.querySelectorAll('[data-choice="which"] option').length
  seen.wrong = document.querySelectorAll(".gallery .wrong").length
  seen.fetched = performance.getEntriesByType("resource").map((one) => one.name)
    .filter((name) => !name.startsWith("data:"))
  document.body.append("@@" + JSON.stringify(seen) + "@@")
})
</script>"""


def seen_by_visitor(stored: Path, folder: Path) -> dict:
    page = folder / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{VISIT}{explorer_fragment(stored)}")
    ran = visit(page)
    found = re.findall(r"@@(\{.*?\})@@", ran.stdout.split("</html>")[0].rpartition("</script>")[2])
    assert found, ran.stderr[-2000:]
    return json.loads(found[0].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def mistake_text(taxon: str, other: str, count: int, data: dict) -> str:
    return f"{taxon}, called {other}: {count} of {data['validation'][taxon]} images"


@needs_chromium
@pytest.mark.parametrize("with_pictures", [True, False])
def test_a_visitor_chooses_cells_and_images(stored, data, tmp_path, with_pictures):
    folder = tmp_path / "results"
    shutil.copytree(stored, folder)
    if not with_pictures:
        (folder / PICTURES).unlink()
    seen = seen_by_visitor(folder, tmp_path)
    assert seen["errors"] == [] and seen["fetched"] == []
    cells = data["encoders"]["diffusion"]["cells"]
    single = [cell for cell in cells if cell["layer"] != "all layers"]
    assert sorted(map(float, seen["cells"])) == sorted(cell["macro_f1"][0] for cell in single)
    assert seen["score"].startswith(f"macro-F1 {seen['clicked']} %")
    best = max(cell["macro_f1"][0] for cell in single)
    assert seen["kept"].startswith(f"macro-F1 {best:.1f} %")
    assert seen["focus"] == seen["clicked"]  # the keyboard stays where it was
    clicked = single[0]  # the map is drawn in the order of the cells
    assert seen["mistakes"] == [mistake_text(*one, data) for one in clicked["confusions"]]
    assert seen["layers"] == len(cells) - len(single)
    discs = sum(image["taxon"] == "disc" for image in data["images"])
    assert seen["discs"] == ["disc"] * discs
    assert seen["shots"] == (discs if with_pictures else 0)
    assert seen["confusions"] > 0 and seen["wrong"] > 0
