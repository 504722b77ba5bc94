"""Saving results: figures, tables and numbers, each with its provenance."""

import base64
import io
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from plankton_study.images.splits import Splits
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.metrics import METRICS
from plankton_study.report.formatting import csv_text, stored_text, text_table
from plankton_study.report.provenance import provenance
from plankton_study.report.tidy import CHOICE, MEASURED, kind_of, tidy_table
from plankton_study.run.errors import StudyError
from plankton_study.run.files import read_json, write_file, write_json
from plankton_study.run.study import Study

SYNTHETIC = "synthetic demonstration data"
NOT_IN_PROFILE = "not part of this profile"
NAME = re.compile(r"[a-z0-9_]+")
CAPTIONS_FILE = Path(__file__).with_name("captions.toml")
#: the captions of the study's own results, by name
CAPTIONS = tomllib.loads(CAPTIONS_FILE.read_text("utf-8"))


class Results:
    """The results of one run: where they are stored, and what they were computed from.

    A figure is stored as SVG and PNG under `figures/`. A table is stored as text for readers under
    `tables/` (CSV, and LaTeX with booktabs), and as numbers for programs under `values/` (see
    `tidy_table`). A number is stored under `numbers/`. Each of them has a file under
    `provenance/`.

    Args:
        study: the study of the run.
        splits: splits of the sets that the results are computed from.
        folder: the output folder; None: the run's own folder.
        joined: for results that combine several runs, training seed → revision of the code.
    """

    def __init__(
        self,
        study: Study,
        splits: Iterable[Splits],
        folder: Path | None = None,
        joined: dict[int, str | None] | None = None,
    ) -> None:
        splits = list(splits)
        self.study = study
        self.inputs = [set_splits.digest for set_splits in splits]
        self.folder = folder or study.results
        self.joined = joined
        probes = study.profile.probes
        self._words = {
            "set": splits[0].collection.name,
            "optimistic": optimistic_note(splits),
            "metric": METRICS[probes.metric],
            "least": probes.shifted_images,
            "predeclared": study.profile.features.predeclared_in_words,
        }

    def save_figure(
        self, name: str, figure: Figure, caption: str | None = None, **words: Any
    ) -> None:
        """Save a figure, show it with its caption, and close it.

        Figures of synthetic images get a banner. A figure with the label NOT_IN_PROFILE is left
        out of the manuscript.

        Args:
            name: file stem.
            figure: the matplotlib figure.
            caption: shown below the figure, in the notebook and in the manuscript; None: the one
                in captions.toml.
            words: values of the placeholders in the caption.
        """
        _check_name(name)
        caption = self._caption(name, caption, words)
        if self.study.profile.synthetic:
            figure.text(1, 1, SYNTHETIC, ha="right", va="bottom", fontsize=6, color="0.4")
        svg = _rendered(figure, "svg", {"Date": None})
        png = _rendered(figure, "png", {"Software": None})
        write_file(self.folder / "figures" / f"{name}.svg", svg)
        write_file(self.folder / "figures" / f"{name}.png", png)
        is_empty = figure.get_label() == NOT_IN_PROFILE
        self._save_provenance("figure", name, caption=caption, empty=is_empty)
        plt.close(figure)
        _show_figure(png, caption)

    def save_table(
        self,
        name: str,
        table: pd.DataFrame,
        keys: list[str],
        caption: str | None = None,
        measured: tuple[str, ...] = (),
        digits: dict[str, int] | None = None,
        **words: Any,
    ) -> pd.DataFrame:
        """Save a table as text and as numbers; return the texts, for display.

        The text of a table without rows says that it is not part of the profile.

        Args:
            name: file stem.
            table: a table of estimates, numbers and texts.
            keys: the columns that together identify a row.
            caption: shown above the table in the manuscript; None: the one in captions.toml.
            measured: columns that are not reproducible, such as seconds.
            digits: column → number of decimals.
            words: values of the placeholders in the caption.
        """
        _check_name(name)
        caption = self._caption(name, caption, words)
        numbers = tidy_table(table, keys, measured)
        texts = text_table(table, digits)
        if texts.empty:
            texts = pd.DataFrame({"": [NOT_IN_PROFILE]})
        write_file(self.folder / "values" / f"{name}.csv", csv_text(numbers))
        write_file(self.folder / "tables" / f"{name}.csv", csv_text(texts))
        write_file(self.folder / "tables" / f"{name}.tex", latex_table(texts))
        if self.study.profile.synthetic:
            caption = f"{caption} ({SYNTHETIC})"
        self._save_provenance("table", name, caption=caption)
        return texts

    def save_number(
        self,
        name: str,
        value: Estimate | float | str,
        unit: str = "",
        choice: bool = False,
        measured: bool = False,
    ) -> None:
        """Save a number, or a text, that is cited in prose.

        Args:
            name: file stem.
            value: the number or text; an estimate is a share of 1.
            unit: with "%" or "points" an estimate is shown in percent.
            choice: whether a run selected it among nearly equal candidates, so that another run
                may select differently.
            measured: whether it depends on the machine, such as a duration.
        """
        _check_name(name)
        if isinstance(value, np.generic):
            value = value.item()
        entry: dict[str, Any] = {"value": value, "low": None, "high": None, "n": None, "p": None}
        if isinstance(value, Estimate):
            entry |= value._asdict()
        entry["unit"] = "" if isinstance(value, str) else unit
        if measured:
            entry["kind"] = MEASURED
        elif choice:
            entry["kind"] = CHOICE
        else:
            entry["kind"] = kind_of(value)
        write_json(self.folder / "numbers" / f"{name}.json", entry)
        self._save_provenance("number", name)

    def number_text(self, name: str) -> str:
        """Return the text of a saved number in prose."""
        return stored_text(read_json(self.folder / "numbers" / f"{name}.json"))

    def say(self, text: str) -> None:
        """Show a paragraph in which each {name} is replaced by the number saved under that name."""
        names = set(re.findall(r"\{(\w+)\}", text))
        _show_markdown(text.format(**{name: self.number_text(name) for name in names}))

    def _caption(self, name: str, caption: str | None, words: dict[str, Any]) -> str:
        """Return a caption with its placeholders filled in.

        Raises:
            StudyError: captions.toml has no caption for the result, and none was passed.
        """
        if caption is None and name not in CAPTIONS:
            raise StudyError(f'the result {name!r} has no caption: pass caption="…"')
        template = CAPTIONS[name] if caption is None else caption
        return template.format(**(self._words | words))

    def _save_provenance(self, kind: str, name: str, **about: str | bool) -> None:
        origin = provenance(self.study, self.inputs)
        if self.joined is not None:
            origin["joined"] = {str(seed): revision for seed, revision in self.joined.items()}
        entry = {"kind": kind, "name": name, **about, "provenance": origin}
        write_json(self.folder / "provenance" / f"{kind}_{name}.json", entry)


def _check_name(name: str) -> None:
    """Check that a name can be a file stem, before anything is written."""
    if not NAME.fullmatch(name):
        raise StudyError(
            f"{name!r} cannot be the name of a result: use lower-case letters, digits and _"
        )


def optimistic_note(splits: list[Splits]) -> str:
    """Return a note for captions on intervals over single images; "" if there are none."""
    single = [set_splits for set_splits in splits if not set_splits.clustered]
    if not single:
        return ""
    if len(single) == len(splits):
        return " over single images (optimistic, since no samples or days are known)"
    sets = ", ".join(dict.fromkeys(set_splits.collection.name for set_splits in single))
    return f" (for {sets} over single images: optimistic, since no samples or days are known)"


#: characters that LaTeX prints as others, or not at all, without additional packages
LATEX = {
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
}


def latex_table(texts: pd.DataFrame) -> str:
    """Return a table of texts for LaTeX (booktabs), with all special characters escaped."""
    latex = texts.to_latex(index=False, escape=True)
    return latex.translate(str.maketrans(LATEX))


def _rendered(figure: Figure, file_format: str, metadata: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=file_format, metadata=metadata, bbox_inches="tight")
    return content.getvalue()


def _show_figure(png: bytes, caption: str) -> None:
    """Show a picture, with its caption below it and as its alternative text."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:  # not in a notebook
        return
    data = {"image/png": base64.b64encode(png).decode(), "text/plain": caption}
    display(data, raw=True, metadata={"image/png": {"alt": caption}})
    _show_markdown(f"*{caption}*")


def _show_markdown(text: str) -> None:
    from IPython import get_ipython
    from IPython.display import Markdown, display

    if get_ipython() is None:
        print(text)
    else:
        display(Markdown(text))
