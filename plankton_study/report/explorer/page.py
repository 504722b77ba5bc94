"""The explorer's page, from stored results: it needs no server and no network."""

import base64
import io
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from plankton_study.report.style import montage
from plankton_study.run.files import read_json, write_file

HERE = Path(__file__).parent
#: the files of the explorer in a run's folder of results
DATA, PICTURES = Path("data", "explorer.json"), Path("data", "explorer.png")
COLUMNS = 32  # images in a row of the picture
HEIGHT_IN_NOTEBOOK = 900  # px


def save_explorer(results: Path, data: dict[str, Any], images: np.ndarray) -> None:
    """Store what the explorer shows.

    Args:
        results: the run's folder of results.
        data: encoders, set, validation (taxon → number of validation images), and what
            `images_to_show` returns.
        images: (N, R, R) uint8, the images of the collection; those that are shown are stored as
            one picture.
    """
    rows = [image["row"] for image in data["images"]] + [int(row) for row in data["training"]]
    rows = sorted(set(rows))
    tiles = {"rows": rows, "columns": COLUMNS, "side": images.shape[1] + 1}
    text = json.dumps(data | {"tiles": tiles}, separators=(",", ":"), ensure_ascii=False)
    write_file(results / DATA, text + "\n")
    picture = io.BytesIO()
    Image.fromarray(montage(images[rows], COLUMNS)).save(picture, "PNG", optimize=True)
    write_file(results / PICTURES, picture.getvalue())


def explorer_fragment(results: Path) -> str:
    """Return the explorer of a run as a piece of HTML, with its data and, if stored, its pictures.

    Args:
        results: the run's folder of results.
    """
    data = read_json(results / DATA)
    data["pictures"] = _data_address(results / PICTURES)
    # "<" could end the script that holds the data
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = (HERE / "explorer.html").read_text(encoding="utf-8")
    script = (HERE / "explorer.js").read_text(encoding="utf-8")
    return template.replace("{{ script }}", script).replace("{{ data }}", text)


def _data_address(picture: Path) -> str | None:
    if not picture.is_file():
        return None
    content = base64.b64encode(picture.read_bytes()).decode()
    return f"data:image/png;base64,{content}"


def show_explorer(results: Path) -> None:
    """Show the explorer of a run in a notebook."""
    from IPython.display import display

    page = f"<!doctype html><meta charset='utf-8'>{explorer_fragment(results)}"
    frame = (
        f'<iframe title="explorer" width="100%" height="{HEIGHT_IN_NOTEBOOK}" '
        f'style="border: 0" srcdoc="{escape(page)}"></iframe>'
    )
    note = "the explorer of this run: open the notebook in JupyterLab, or see `make site`"
    display({"text/html": frame, "text/plain": note}, raw=True, metadata={"explorer": True})
