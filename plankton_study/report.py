"""The only exit of results: figures, tables and numbers, each with its provenance."""

import json
import platform
import re
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from plankton_study.metrics import Estimate
from plankton_study.profile import ROOT, StudyError
from plankton_study.store import digest, write_json, write_text
from plankton_study.study import Study

SYNTHETIC = "synthetic demonstration data"
PACKAGES = ("torch", "diffusers", "numpy", "scikit-learn", "pillow", "matplotlib")
STARTED = time.monotonic()


def style() -> None:
    """Set the look of every figure: seaborn's colour-blind palette, and the same bytes on every save."""
    import matplotlib as mpl
    import seaborn as sns

    sns.set_theme(context="paper", style="ticks", palette="colorblind", font="DejaVu Sans")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "plankton_study",
            "svg.fonttype": "path",
            "figure.dpi": 110,
            "savefig.dpi": 150,
            "figure.constrained_layout.use": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
        }
    )


def montage(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Tile images (N, R, R) uint8 row by row into one grey picture with white gaps of `gap` px."""
    size = images.shape[1] + gap
    rows = -(-len(images) // columns)
    sheet = np.full((rows * size - gap, columns * size - gap), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * size, i % columns * size
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def provenance(study: Study, inputs: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a result belongs to: revision, profile and its hash, inputs' digests, versions, seed, machine."""
    return {
        **study.revision,
        "profile": study.profile.name,
        "config": digest(study.profile.model_dump(mode="json")),
        "inputs": sorted(inputs),
        "seed": study.seed,
        "device": study.device,
        "threads": study.threads,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "seconds": round(time.monotonic() - STARTED, 1),
    }


def _exit(study: Study, kind: str, name: str, inputs: Iterable[str], **about: Any) -> None:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise StudyError(f"a result's name is made of lower-case letters, digits and _, not {name!r}")
    entry = {"kind": kind, "name": name, **about, "provenance": provenance(study, inputs)}
    write_json(study.results / "provenance" / f"{kind}_{name}.json", entry)


def figure(study: Study, name: str, figure: Any, caption: str, inputs: Iterable[str] = ()) -> None:
    """Save a matplotlib figure as SVG and PNG under `figures/`, with a banner where the data is synthetic.

    `name` is the file stem, `inputs` the digests of what is shown; the manuscript prints the caption.
    """
    figure = getattr(figure, "figure", figure)
    if study.profile.synthetic:
        figure.text(1, 1, SYNTHETIC, ha="right", va="bottom", fontsize=6, color="0.4")
    folder = study.results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        beside = folder / f".{name}.{kind}"
        figure.savefig(beside, format=kind, metadata=metadata, bbox_inches="tight")
        beside.replace(folder / f"{name}.{kind}")
    _exit(study, "figure", name, inputs, caption=caption)


def table(study: Study, name: str, table: pd.DataFrame, caption: str, inputs: Iterable[str] = ()) -> pd.DataFrame:
    """Save a table as CSV (and as a LaTeX booktabs table) under `tables/`; return it for display.

    Cells are written as they are shown: format numbers before.
    """
    folder = study.results / "tables"
    write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(folder / f"{name}.tex", table.to_latex(index=False, escape=True))
    caption = f"{caption} ({SYNTHETIC})" if study.profile.synthetic else caption
    _exit(study, "table", name, inputs, caption=caption)
    return table


def number(
    study: Study, name: str, value: Estimate | float | int | str, unit: str = "", inputs: Iterable[str] = ()
) -> str:
    """Save a number for the text under `numbers/`; return how it is shown.

    With the unit "%" or "points" an estimate of a share is shown in percent, with its interval.
    """
    entry: dict[str, Any] = {"value": value, "low": None, "high": None, "n": None, "unit": unit}
    if isinstance(value, Estimate):
        entry |= {"value": value.value, "low": value.low, "high": value.high, "n": value.n}
        text = value.text() if unit in ("%", "points") else value.text(1, 3)
    else:
        text = f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value
    write_json(study.results / "numbers" / f"{name}.json", {**entry, "text": text})
    _exit(study, "number", name, inputs)
    return text


def cited() -> list[tuple[str, str]]:
    """Return (kind, name) of every figure, table and number that the manuscript asks for."""
    text = (ROOT / "paper" / "paper.typ").read_text(encoding="utf-8")
    return sorted(set(re.findall(r'#?\b(figure|table|number)-of\("([a-z0-9_]+)"', text)))


def completeness(study: Study) -> pd.DataFrame:
    """Say for each result the manuscript cites whether it exists and belongs to this run.

    Returns:
        Columns kind, name, state: "ok", "missing", or which of profile, revision or seed differs.
    """
    here = provenance(study)
    rows = []
    for kind, name in cited():
        path = study.results / "provenance" / f"{kind}_{name}.json"
        state = "missing"
        if path.is_file():
            made = json.loads(path.read_text())["provenance"]
            other = [key for key in ("config", "revision", "seed") if made[key] != here[key]]
            state = "of another " + ", ".join(other) if other else "ok"
        rows.append((kind, name, state))
    return pd.DataFrame(rows, columns=["kind", "name", "state"])
