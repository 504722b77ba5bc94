"""Publishing a run: what is refused, what is copied, and what becomes of the joined results."""

import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from stored_runs import (
    PUBLISHED,
    ROOT,
    VERDICTS,
    build,
    change_json,
    change_provenance,
    copy_manuscript,
    publishing,
)

from plankton_study.report.stored import JOINED_RESULTS, StoredRun, cited_results
from plankton_study.run.errors import StudyError

FIRST_CITED = next(result for result in cited_results() if result not in JOINED_RESULTS)
README = """Before. <!-- results: demo -->

old words

<!-- /results --> Behind."""
TEMPLATE = """Over {{ number("ledger_seeds") }}: {{ score("SimCLR", "balanced, one cell") }},
{{ denoiser_minutes() }} minutes.
"""


@pytest.fixture
def paper(tmp_path, monkeypatch) -> Path:
    """A copy of the manuscript's folder, and a README with a section on the demonstration."""
    folder = copy_manuscript(tmp_path, monkeypatch)
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (folder / "readme_results.md").write_text(TEMPLATE, encoding="utf-8")
    return folder


def origin_of(folder: Path) -> dict:
    entry = json.loads((folder / "provenance" / "table_claims.json").read_text(encoding="utf-8"))
    return entry["provenance"]


def change_notebook(path: Path, revision: str | None = None, **parameters: object) -> None:
    """Make an executed notebook state another revision, seed or profile."""
    book = nbformat.read(path, 4)
    book.metadata.papermill.parameters |= parameters
    if revision is not None:
        book.metadata.setdefault("plankton_study", {})["revision"] = revision
    nbformat.write(book, path)


def join(folder: Path, revisions: dict[str, str | None]) -> None:
    """Let the joined results of a run be those of these seeds and revisions."""
    paths = (folder / "joined" / "provenance").glob("*.json")
    change_provenance(paths, joined=revisions, seed=origin_of(folder)["seed"])


def make_live(paper: Path, seed: int) -> Path:
    """Make a live run out of the published demonstration, which joins its own seed alone.

    Returns:
        The folder of the run.
    """
    name = "demo" if seed == 0 else f"demo-seed{seed}"
    live = Path(shutil.copytree(PUBLISHED, paper / "results" / name))
    joined_notebooks = live / "joined" / "notebooks"
    if joined_notebooks.is_dir():  # a later run of another seed had joined them
        shutil.move(joined_notebooks / VERDICTS, live / "notebooks" / VERDICTS)
        joined_notebooks.rmdir()
    change_provenance((live / "provenance").glob("*.json"), seed=seed)
    revision = origin_of(live)["revision"]
    for path in (live / "notebooks").glob("*.ipynb"):
        change_notebook(path, revision, seed=seed)
    join(live, {str(seed): revision})
    return live


@pytest.fixture
def live(paper) -> Path:
    """A finished live run of seed 0."""
    return make_live(paper, seed=0)


@pytest.fixture
def second_seed(paper) -> Path:
    """A finished live run of seed 1, which joins the published run of seed 0."""
    shutil.copytree(PUBLISHED, paper / "published" / "demo")
    live = make_live(paper, seed=1)
    revision = origin_of(live)["revision"]
    join(live, {"0": revision, "1": revision})
    change_json(live / "joined" / "numbers" / "ledger_seeds.json", value="2 training seeds")
    change_json(live / "numbers" / "best_cell.json", value="the cell of seed 1")
    return live


# --- what is refused


def test_a_run_without_its_pdf_is_not_published(live):
    (live / "paper.pdf").unlink()
    with pytest.raises(StudyError, match="demo holds no finished run: run `make paper`"):
        build.publish("demo")


def test_a_run_that_lacks_a_cited_result_is_not_published(live):
    kind, name = FIRST_CITED
    (live / "provenance" / f"{kind}_{name}.json").unlink()
    with pytest.raises(StudyError, match=f"lacks the {kind} {name}: run `make paper`"):
        build.publish("demo")


@pytest.mark.parametrize("fact", ["revision", "config", "seed"])
def test_a_mixed_run_is_not_published(live, fact):
    kind, name = FIRST_CITED
    change_provenance([live / "provenance" / f"{kind}_{name}.json"], **{fact: "another"})
    with pytest.raises(StudyError, match=f"mixes results of 2 runs .*{name}.*: `make clean`"):
        build.publish("demo")


def test_a_run_whose_denoiser_is_worse_than_a_linear_filter_is_not_published(live):
    change_json(live / "numbers" / "over_linear_filter.json", value=1.3)
    with pytest.raises(StudyError, match="1.30 times the error of a linear filter.*images_seen"):
        build.publish("demo")


def test_a_run_made_with_uncommitted_changes_is_not_published(live):
    change_provenance((live / "provenance").glob("*.json"), dirty=True)
    with pytest.raises(StudyError, match="was made with uncommitted changes: commit"):
        build.publish("demo")


def test_a_run_that_lacks_an_executed_notebook_is_not_published(live):
    (live / "notebooks" / "03_layers_and_noise.ipynb").rename(
        live / "notebooks" / "03_layers_and_noise.failed.ipynb"
    )
    with pytest.raises(StudyError, match="lacks the executed notebooks 03_layers_and_noise: run"):
        build.publish("demo")


def test_an_executed_notebook_of_another_seed_is_not_published(live):
    change_notebook(live / "notebooks" / "03_layers_and_noise.ipynb", seed=2)
    sentence = "03_layers_and_noise.ipynb is of seed 2, the run of seed 0: remove it"
    with pytest.raises(StudyError, match=sentence):
        build.publish("demo")


def test_an_executed_notebook_of_another_revision_is_not_published(live):
    change_notebook(live / "notebooks" / "03_layers_and_noise.ipynb", revision="another")
    with pytest.raises(StudyError, match=r"03_layers_and_noise of another revision \(another\)"):
        build.publish("demo")


def test_an_executed_notebook_of_another_profile_is_not_published(live):
    change_notebook(live / "notebooks" / "03_layers_and_noise.ipynb", profile="quick")
    with pytest.raises(StudyError, match="is of the profile quick, the run of demo: remove it"):
        build.publish("demo")


def test_an_executed_notebook_that_states_no_revision_is_not_published(live):
    path = live / "notebooks" / "03_layers_and_noise.ipynb"
    book = nbformat.read(path, 4)
    del book.metadata["plankton_study"]["revision"]
    nbformat.write(book, path)
    with pytest.raises(StudyError, match=r"03_layers_and_noise of another revision \(None\)"):
        build.publish("demo")


def test_a_published_seed_that_is_not_joined_is_told(second_seed):
    join(second_seed, {"1": "abc"})
    sentence = f"does not join the published seeds 0: remove .*{VERDICTS}, then run `make paper`"
    with pytest.raises(StudyError, match=sentence):
        build.publish("demo-seed1")


def test_a_joined_seed_that_is_not_published_is_told(second_seed):
    """It is live on this machine alone, so nobody else could join it."""
    join(second_seed, {"0": "abc", "1": "abc", "2": "abc"})
    with pytest.raises(StudyError, match="joins the seeds 2, which are not published: publish"):
        build.publish("demo-seed1")


def test_published_runs_of_another_profile_or_of_other_images_need_not_be_joined(live, paper):
    for seed, facts in ((1, {"config": "another"}), (2, {"inputs": ["others"]})):
        folder = paper / "published" / f"demo-seed{seed}" / "provenance"
        shutil.copytree(PUBLISHED / "provenance", folder)
        change_provenance([folder / "table_claims.json"], seed=seed, **facts)
    origin = publishing.check_run(StoredRun(live), needs_figures=True)
    publishing.check_joined(StoredRun(live), origin, paper / "published")


def test_a_refused_run_leaves_what_is_published(second_seed, paper):
    (second_seed / "numbers" / "best_accuracy.json").write_text("{}")
    change_provenance((second_seed / "provenance").glob("*.json"), dirty=True)
    with pytest.raises(StudyError):
        build.publish("demo-seed1")
    assert [path.name for path in (paper / "published").iterdir()] == ["demo"]


# --- what is copied


def test_the_first_seed_is_published_whole(live, paper):
    (live / ".settings").write_text("profile=demo")
    shutil.copy(live / "notebooks" / "01_data.ipynb", live / "notebooks" / "17_sizes.failed.ipynb")
    target = build.publish("demo")
    assert target == paper / "published" / "demo"
    parts = {path.name for path in target.iterdir()}
    assert parts == {
        *("figures", "notebooks", "tables", "values", "numbers", "provenance", "joined", "data"),
        *("paper.pdf", "model_card.md", "data_card.md"),
    }
    assert not list(target.rglob("*.failed.ipynb"))
    assert origin_of(target) == origin_of(live)
    assert publishing.check_run(StoredRun(target), needs_figures=True) == origin_of(live)
    assert [path.name for path in target.parent.iterdir()] == ["demo"]


@pytest.mark.parametrize("is_drawn", [True, False])
def test_the_explorer_is_published_but_pictures_of_real_images_are_not(live, is_drawn):
    for name in ("explorer.json", "explorer.png"):
        (live / "data" / name).parent.mkdir(exist_ok=True)
        (live / "data" / name).touch()
    if not is_drawn:
        change_json(live / "provenance" / "table_claims.json", caption="The evidence.")
    target = publishing.publish_run(StoredRun(live), live.parents[1] / "published")
    assert (target / "data" / "explorer.json").is_file()
    assert (target / "data" / "explorer.png").is_file() == is_drawn


def test_publishing_again_changes_nothing(live, paper):
    def contents() -> dict[str, bytes]:
        folder = paper / "published" / "demo"
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    build.publish("demo")
    first = contents()
    build.publish("demo")
    assert contents() == first


def test_results_that_only_an_older_revision_made_stay_behind(live, paper):
    made = json.loads((live / "provenance" / "number_taxa.json").read_text())["provenance"]
    older = {"provenance": made | {"revision": "an older one, which made more"}}
    for kind in ("number", "table"):
        (live / "provenance" / f"{kind}_abandoned.json").write_text(json.dumps(older))
    for name in (
        "numbers/abandoned.json",
        "tables/abandoned.csv",
        "tables/abandoned.tex",
        "values/abandoned.csv",
    ):
        (live / name).write_text("{}")
    build.publish("demo")
    assert not list((paper / "published" / "demo").rglob("*abandoned*"))
    assert (live / "numbers" / "abandoned.json").is_file()


def test_another_seed_is_published_without_figures_and_notebooks(second_seed, paper):
    assert build.publish("demo-seed1") == paper / "published" / "demo-seed1"
    parts = {path.name for path in (paper / "published" / "demo-seed1").iterdir()}
    assert parts >= {"tables", "values", "numbers", "provenance"}
    assert not parts & {"figures", "notebooks", "joined", "paper.pdf"}


# --- the joined results


def test_another_seed_renews_the_joined_results_beside_the_first(second_seed, paper):
    """Seed 1 may be run where seed 0 never was."""
    build.publish("demo-seed1")
    first = StoredRun(paper / "published" / "demo")
    revision = origin_of(PUBLISHED)["revision"]
    assert first.number_text("ledger_seeds") == "2 training seeds"
    joined = first.entry("table", "joined_claims")["provenance"]["joined"]
    assert joined == {"0": revision, "1": revision}
    assert (first.folder / "joined" / "notebooks" / VERDICTS).is_file()
    assert not (first.folder / "notebooks" / VERDICTS).exists(), "that of seed 0 is out of date"
    assert not list(first.folder.glob(".*"))


def test_another_seed_leaves_the_results_of_the_first_alone(second_seed, paper):
    build.publish("demo-seed1")
    first = paper / "published" / "demo"
    for part in ("figures", "notebooks", "numbers", "tables", "values", "provenance"):
        for path in (PUBLISHED / part).iterdir():
            if path.name != VERDICTS:
                assert (first / part / path.name).read_bytes() == path.read_bytes(), path.name
    assert publishing.check_run(StoredRun(first), needs_figures=True)["seed"] == 0


def test_another_seed_renews_what_speaks_of_the_first(second_seed, paper):
    build.publish("demo-seed1")
    readme = (paper.parent / "README.md").read_text(encoding="utf-8")
    assert "Over 2 training seeds: " in readme
    first = paper / "published" / "demo"
    assert (first / "paper.pdf").read_bytes() != (PUBLISHED / "paper.pdf").read_bytes()
    assert (first / "model_card.md").read_text() == (PUBLISHED / "model_card.md").read_text()


def test_seeds_may_be_published_in_any_order(second_seed, paper):
    """Without a published run of seed 0 there is nothing to renew."""
    shutil.rmtree(paper / "published" / "demo")
    join(second_seed, {"1": "abc"})
    build.publish("demo-seed1")
    assert [path.name for path in (paper / "published").iterdir()] == ["demo-seed1"]
    assert (paper.parent / "README.md").read_text(encoding="utf-8") == README


# --- the section of README


def test_the_section_of_the_readme_is_renewed_and_the_rest_is_kept(live, paper):
    build.publish("demo")
    readme = (paper.parent / "README.md").read_text(encoding="utf-8")
    start, section, end = README.partition("old words")
    assert section and readme.startswith(start) and readme.endswith(end)
    assert "old words" not in readme
    run = StoredRun(paper / "published" / "demo")
    assert build.results_section(run) in readme
    scores = run.texts("main").set_index("encoder")["balanced, one cell (%)"]
    assert f"Over {run.number_text('ledger_seeds')}: {scores['SimCLR']}," in readme


def test_a_readme_about_another_run_stays_as_it_is(paper):
    run = StoredRun(PUBLISHED)
    readme = README.replace("results: demo", "results: another")
    assert build.with_results(readme, run) == readme


# --- small files


def test_published_pictures_are_smaller_and_look_the_same(tmp_path):
    shutil.copytree(PUBLISHED / "figures", tmp_path / "figures")
    before = {}
    for path in (tmp_path / "figures").glob("*.png"):  # as a run leaves them: 24 bits and alpha
        Image.open(path).convert("RGBA").save(path)
        before[path] = (path.stat().st_size, np.asarray(Image.open(path).convert("RGB"), int))
    publishing.shrink(tmp_path)
    assert len(before) > 10
    for path, (size, pixels) in before.items():
        assert path.stat().st_size < size
        distance = np.abs(np.asarray(Image.open(path).convert("RGB"), int) - pixels)
        assert distance.mean() < 2, path


def test_a_picture_with_a_palette_stays_as_it_is(tmp_path):
    shutil.copytree(PUBLISHED / "figures", tmp_path / "figures")
    publishing.shrink(tmp_path)
    once = {path: path.read_bytes() for path in (tmp_path / "figures").glob("*.png")}
    publishing.shrink(tmp_path)
    assert {path: path.read_bytes() for path in once} == once


def test_a_run_that_needs_no_data_names_no_folder(tmp_path):
    assert publishing.data_folder(StoredRun(tmp_path)) is None
    (tmp_path / ".settings").write_text("profile=demo;\n", encoding="utf-8")
    assert publishing.data_folder(StoredRun(tmp_path)) is None


def test_published_notebooks_name_no_folder_of_this_machine_and_fold_their_code(tmp_path):
    shutil.copytree(PUBLISHED / "notebooks", tmp_path / "notebooks")
    path = tmp_path / "notebooks" / "02_denoiser.ipynb"
    book = nbformat.read(path, 4)
    cell = next(cell for cell in book.cells if cell.cell_type == "code")
    warning = f"{ROOT}/plankton_study/models/rivals.py:3: a warning\n/mnt/sets/pwssc has no times"
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text=warning)]
    nbformat.write(book, path)
    assert str(ROOT) in path.read_text(encoding="utf-8")
    (tmp_path / ".settings").write_text("profile=season;data=/mnt/sets;\n", encoding="utf-8")
    publishing.shrink(tmp_path, publishing.data_folder(StoredRun(tmp_path)))
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text and "/mnt/sets" not in text
    assert "plankton_study/models/rivals.py:3: a warning" in text and "pwssc has no times" in text
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        book = nbformat.read(path, 4)
        nbformat.validate(book)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert all(cell.metadata.jupyter.source_hidden for cell in code)
