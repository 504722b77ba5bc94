"""Publishing a run: a folder for one seed and one revision, and the joined results."""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import pages
from agreement import AGAIN
from PIL import Image

from plankton_study.report.explorer.page import PICTURES
from plankton_study.report.provenance import RUN_KEYS
from plankton_study.report.stored import (
    JOINED,
    JOINED_RESULTS,
    MAKING_KEYS,
    STUDY_KEYS,
    StoredRun,
    cited_results,
    executed_notebooks,
)
from plankton_study.run.errors import StudyError
from plankton_study.run.files import ROOT, read_json
from plankton_study.run.study import run_name

#: the notebook whose results combine all training seeds
VERDICTS = "16_verdicts.ipynb"
#: folders that are published for seed 0 only
BULKY = ("figures", "notebooks", "denoiser", "data")
NOT_COPIED = (".*", "*.failed.ipynb", "paper.pdf", "names")
PALETTE = 256


def publish_run(live: StoredRun, published: Path) -> Path:
    """Copy a finished run to the folder of published runs; return its folder there.

    The results that combine all seeds are stored with the run of seed 0, whichever seed was run
    last.

    Args:
        live: the run.
        published: the folder of all published runs.

    Raises:
        StudyError: the run is incomplete, mixes revisions or seeds, was made with uncommitted
            changes, joins other seeds than the published ones, or has a denoiser that is worse
            than a linear filter.
    """
    origin = check_run(live, needs_figures=True)
    check_denoiser(live)
    check_joined(live, origin, published)
    target = published / live.name
    partial = target.with_name(f".{live.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    is_first_seed = origin["seed"] == 0
    left_out = NOT_COPIED if is_first_seed else (*NOT_COPIED, *BULKY, JOINED)
    if not pages.is_synthetic(live):
        left_out = (*left_out, PICTURES.name)  # real images keep their own terms
    shutil.copytree(live.folder, partial, ignore=shutil.ignore_patterns(*left_out))
    _remove_stale(partial, origin)
    shrink(partial, data_folder(live))
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    first = published / run_name(origin["profile"], 0)
    if not is_first_seed and first.is_dir():
        _replace_joined(live, first)
    return target


def check_denoiser(run: StoredRun) -> None:
    """Refuse a run whose denoiser is worse than a linear filter: its features test nothing.

    Raises:
        StudyError: it is worse at one of the noise levels.
    """
    largest = run.number("over_linear_filter")["value"]
    if largest > 1:
        raise StudyError(
            f"the denoiser of {run.name} has {largest:.2f} times the error of a linear filter at "
            "its worst noise level, so its features are no fair test: let it see more images "
            "(images_seen), and look at notebook 02"
        )


def check_run(run: StoredRun, needs_figures: bool) -> dict[str, Any]:
    """Check that a run is complete, and has one seed and one revision; return its provenance.

    Args:
        run: live or published.
        needs_figures: whether the run must have figures and executed notebooks.

    Raises:
        StudyError: something is missing or mixed; the message says what.
    """
    origins = {}
    for kind, name in cited_results():
        if (kind, name) in JOINED_RESULTS or (kind == "figure" and not needs_figures):
            continue
        path = run.folder / "provenance" / f"{kind}_{name}.json"
        if not path.is_file():
            raise StudyError(f"{run.folder} lacks the {kind} {name}: {AGAIN}")
        made = read_json(path)["provenance"]
        origins[tuple(made[key] for key in RUN_KEYS)] = name
    if len(origins) > 1:
        raise StudyError(
            f"{run.folder} mixes results of {len(origins)} runs ({', '.join(origins.values())}): "
            f"`make clean`, then {AGAIN}"
        )
    origin = run.entry("table", "claims")["provenance"]
    if origin["dirty"]:
        raise StudyError(
            f"{run.folder} was made with uncommitted changes: commit them, "
            f"`make clean`, then {AGAIN}"
        )
    if needs_figures:
        _check_notebooks(run, origin)
    return origin


def _check_notebooks(run: StoredRun, origin: dict[str, Any]) -> None:
    """Check that the executed notebooks have the seed and the revision of the run."""
    executed = {path.stem: path for path in executed_notebooks(run.folder)}
    if _is_live(run):
        present = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
        missing = sorted(present - set(executed))
        if missing:
            raise StudyError(
                f"{run.folder} lacks the executed notebooks {', '.join(missing)}: {AGAIN}"
            )
    for path in executed.values():
        _check_notebook(path, run, origin)


def _is_live(run: StoredRun) -> bool:
    return run.folder.parent.name == "results"


def _check_notebook(path: Path, run: StoredRun, origin: dict[str, Any]) -> None:
    """Check that an executed notebook has the seed, the profile and the revision of the run."""
    metadata = nbformat.read(path, 4).metadata
    seed = metadata.papermill.parameters["seed"]
    if seed != origin["seed"]:
        raise StudyError(
            f"{path} is of seed {seed}, the run of seed {origin['seed']}: remove it, then {AGAIN}"
        )
    profile = Path(metadata.papermill.parameters["profile"]).stem
    if profile != origin["profile"]:
        raise StudyError(
            f"{path} is of the profile {profile}, the run of {origin['profile']}: remove it, "
            f"then {AGAIN}"
        )
    about = metadata.get("plankton_study", {})
    revision = about.get("revision")
    is_stated = _is_live(run) or "revision" in about  # the first published runs did not state it
    if is_stated and revision != origin["revision"]:
        raise StudyError(
            f"{run.folder} holds the notebook {path.stem} of another revision ({revision}): "
            f"`make clean`, then {AGAIN}"
        )


def check_joined(live: StoredRun, origin: dict[str, Any], published: Path) -> None:
    """Check that the joined results combine this run with all published seeds, and no others.

    Seeds of other code, libraries or precision cannot be joined (see `runs_of_all_seeds`).

    Raises:
        StudyError: a published seed is not joined, or one is joined that is not published.
    """
    joined = set(live.entry("table", "joined_claims")["provenance"]["joined"])
    expected = {str(origin["seed"])}
    profile = origin["profile"]
    for path in published.glob(f"{profile}*/provenance/table_claims.json"):
        other = read_json(path)["provenance"]
        if all(other.get(key) == origin.get(key) for key in (*STUDY_KEYS, *MAKING_KEYS)):
            expected.add(str(other["seed"]))
    notebook = live.folder / "notebooks" / VERDICTS
    missing, unknown = sorted(expected - joined), sorted(joined - expected)
    if missing:
        raise StudyError(
            f"{live.folder} does not join the published seeds {', '.join(missing)}: "
            f"remove {notebook}, then {AGAIN}"
        )
    if unknown:
        raise StudyError(
            f"{live.folder} joins the seeds {', '.join(unknown)}, which are not published: "
            f"publish them first, then {AGAIN}"
        )


def _remove_stale(folder: Path, origin: dict[str, Any]) -> None:
    """Remove results of an earlier revision that this revision no longer produces."""
    for path in folder.glob("provenance/*.json"):
        made = read_json(path)["provenance"]
        if any(made[key] != origin[key] for key in RUN_KEYS):
            kind, _, name = path.stem.partition("_")
            for part in (f"{kind}s", "values"):
                for file in folder.glob(f"{part}/{name}.*"):
                    file.unlink()
            path.unlink()


def _replace_joined(live: StoredRun, first: Path) -> None:
    """Store the joined results of a run with the published run of seed 0."""
    partial = first / f".{JOINED}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(live.folder / JOINED, partial)
    notebook = live.folder / "notebooks" / VERDICTS
    (partial / "notebooks").mkdir(exist_ok=True)
    shutil.copy(notebook, partial / "notebooks")
    shrink(partial, data_folder(live))
    shutil.rmtree(first / JOINED, ignore_errors=True)
    partial.replace(first / JOINED)
    (first / "notebooks" / VERDICTS).unlink(missing_ok=True)


def data_folder(live: StoredRun) -> Path | None:
    """Return the folder of the data sets that a run was made from; None if it needed none."""
    settings = live.folder / ".settings"  # make writes "profile=…;data=…;"
    text = settings.read_text(encoding="utf-8").strip() if settings.is_file() else ""
    folder = text.partition(";data=")[2].removesuffix(";")
    return Path(folder) if folder else None


def shrink(folder: Path, data: Path | None = None) -> None:
    """Make a published folder smaller, and remove the paths of this machine.

    PNG files get a palette of 256 colours, without a visible difference. The code of notebooks is
    hidden, and the explorer of notebook 18, which holds pictures, is left to `make site`.

    Args:
        folder: of the published run.
        data: the folder of the data sets, which messages in notebooks may name.
    """
    places = [ROOT, Path(sys.prefix).parent, *([data] if data else [])]
    for path in (folder / "figures").glob("*.png"):
        path.write_bytes(with_palette(path.read_bytes()))
    for path in (folder / "notebooks").glob("*.ipynb"):
        book = nbformat.read(path, 4)
        for cell in book.cells:
            _shrink_cell(cell)
        text = nbformat.writes(book)
        for place in places:
            text = text.replace(f"{place}/", "")
        path.write_text(text + "\n", encoding="utf-8")


def _shrink_cell(cell: Any) -> None:
    if cell.cell_type != "code":
        return
    cell.metadata.setdefault("jupyter", {})["source_hidden"] = True
    for output in cell.outputs:
        data = output.get("data", {})
        if output.get("metadata", {}).get("explorer"):
            data.pop("text/html", None)  # it is gone if this was published before
        if "image/png" in data:
            png = with_palette(base64.b64decode(data["image/png"]))
            data["image/png"] = base64.b64encode(png).decode()


def with_palette(png: bytes) -> bytes:
    """Return a PNG with a palette, if that is smaller."""
    with Image.open(io.BytesIO(png)) as image:
        if image.mode == "P":  # quantised again, its colours would drift with every publication
            return png
        content = io.BytesIO()
        quantised = image.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
        quantised.save(content, "PNG", optimize=True)
    return min(content.getvalue(), png, key=len)
