"""The only exit of results: figures, tables and numbers, each with its provenance."""

import io
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
from plankton_study.store import VERSIONS, digest, write, write_json
from plankton_study.study import Study

SYNTHETIC = "synthetic demonstration data"
STARTED = time.monotonic()


def style() -> None:
    """Set the look of every figure: seaborn's colour-blind palette, and the same bytes on every save."""
    import seaborn as sns

    rc = {"svg.hashsalt": "plankton_study", "svg.fonttype": "path", "figure.dpi": 110, "savefig.dpi": 150}
    rc |= {"figure.constrained_layout.use": True, "axes.spines.right": False, "axes.spines.top": False}
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font="DejaVu Sans", rc=rc)


def montage(images: np.ndarray, columns: int) -> np.ndarray:
    """Tile images (N, R, R) uint8 row by row into one grey picture with white gaps of 1 px."""
    tiles = np.pad(images, ((0, -len(images) % columns), (0, 1), (0, 1)), constant_values=255)
    side = tiles.shape[-1]
    return tiles.reshape(-1, columns, side, side).swapaxes(1, 2).reshape(-1, columns * side)[:-1, :-1]


def provenance(study: Study, inputs: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a result belongs to: revision, profile and its hash, inputs' digests, versions, seed, machine."""
    from torch.backends.cpu import get_cpu_capability

    run = {"profile": study.profile.name, "config": digest(study.profile.model_dump(mode="json")), "seed": study.seed}
    host = {"device": study.device, "threads": study.threads, "processor": platform.processor() or platform.machine()}
    host["instructions"] = get_cpu_capability()  # numbers are the same to the digit where these are
    tools = {"python": platform.python_version(), "versions": {**VERSIONS, "matplotlib": version("matplotlib")}}
    seconds = round(time.monotonic() - STARTED, 1)
    return {**study.revision, **run, "inputs": sorted(inputs), **host, **tools, "seconds": seconds}


def _exit(study: Study, kind: str, name: str, inputs: Iterable[str], **about: Any) -> None:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise StudyError(f"a result's name is made of lower-case letters, digits and _, not {name!r}")
    entry = {"kind": kind, "name": name, **about, "provenance": provenance(study, inputs)}
    write_json(study.results / "provenance" / f"{kind}_{name}.json", entry)


def figure(study: Study, name: str, figure: Any, caption: str, inputs: Iterable[str] = ()) -> None:
    """Save a matplotlib figure as SVG and PNG under `figures/`, with a banner where the data is synthetic.

    `name` is the file stem, `inputs` the digests of what is shown; the manuscript prints the caption.
    """
    if study.profile.synthetic:
        figure.text(1, 1, SYNTHETIC, ha="right", va="bottom", fontsize=6, color="0.4")
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        figure.savefig(content := io.BytesIO(), format=kind, metadata=metadata, bbox_inches="tight")
        write(study.results / "figures" / f"{name}.{kind}", content.getvalue())
    _exit(study, "figure", name, inputs, caption=caption)


def table(study: Study, name: str, table: pd.DataFrame, caption: str, inputs: Iterable[str] = ()) -> pd.DataFrame:
    """Save a table as CSV and as LaTeX (booktabs) under `tables/`; return it for display.

    Estimates are shown in percent (or points) with their interval; a table without rows says that it was not asked for.
    """
    table = table.map(lambda cell: cell.text() if isinstance(cell, Estimate) else cell)
    if table.empty:
        table = pd.DataFrame({"": ["not part of this profile"]})
    write(study.results / "tables" / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write(study.results / "tables" / f"{name}.tex", table.to_latex(index=False, escape=True))
    caption = f"{caption} ({SYNTHETIC})" if study.profile.synthetic else caption
    _exit(study, "table", name, inputs, caption=caption)
    return table


def number(study: Study, name: str, value: Estimate | float | str, unit: str = "", inputs: Iterable[str] = ()) -> str:
    """Save a number for the text under `numbers/`; return how it is shown.

    With the unit "%" or "points" an estimate of a share is shown in percent, with its interval.
    """
    value = value.item() if isinstance(value, np.generic) else value
    unit = "" if isinstance(value, str) else unit
    entry: dict[str, Any] = {"value": value, "low": None, "high": None, "n": None, "unit": unit}
    if isinstance(value, Estimate):
        entry |= value._asdict()
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


def completeness(study: Study, inputs: Iterable[str]) -> pd.DataFrame:
    """Say of each cited result (columns kind, name, state) whether it belongs to this run, made from `inputs`.

    The state is "ok", "missing", or which of profile ("config"), revision, seed and images is another.
    """
    here, rows = provenance(study), []
    for kind, name in cited():
        path, state = study.results / "provenance" / f"{kind}_{name}.json", "missing"
        if path.is_file():
            made = json.loads(path.read_text())["provenance"]
            other = [key for key in ("config", "revision", "seed") if made[key] != here[key]]
            other += ["images"] if set(made["inputs"]) - set(inputs) else []
            state = f"of another {', '.join(other)}" if other else "ok"
        rows.append((kind, name, state))
    return pd.DataFrame(rows, columns=["kind", "name", "state"])
