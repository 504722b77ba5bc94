"""Stored results: reading a run's folder, finding runs of other seeds, checking completeness."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from plankton_study.report.formatting import stored_text
from plankton_study.report.provenance import provenance
from plankton_study.report.tidy import read_tidy
from plankton_study.run.errors import StudyError
from plankton_study.run.files import ROOT, read_json
from plankton_study.run.study import Study, run_name

PAPER = ROOT / "paper"
#: folder, inside a run's folder, of the results that combine the runs of all seeds
JOINED = "joined"
#: the article and its supplement
MANUSCRIPT = ("paper.typ", "supplement.typ")
#: what pandas calls a column without a name
NAMELESS = re.compile(r"^Unnamed: \d+$")
#: how the manuscript cites a result
CITATION = re.compile(r'#?\b(figure|table|number)-of\("([a-z0-9_]+)"')


def executed_notebooks(folder: Path) -> list[Path]:
    """Return the executed notebooks of a run's folder, sorted, without those that failed."""
    notebooks = sorted((folder / "notebooks").glob("[0-9]*.ipynb"))
    return [path for path in notebooks if not path.stem.endswith(".failed")]


@dataclass(frozen=True)
class StoredRun:
    """The stored results of one run, with a subfolder for those that combine several runs."""

    folder: Path

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.folder.name

    @property
    def revision(self) -> str | None:
        """The revision of the code that made the run."""
        return self.entry("table", "claims")["provenance"]["revision"]

    def find(self, part: str, file: str) -> Path:
        """Return the path of a stored file of the run itself or of the joined results.

        Raises:
            StudyError: there is no such file.
        """
        for folder in (self.folder, self.folder / JOINED):
            path = folder / part / file
            if path.is_file():
                return path
        raise StudyError(f"{self.folder} has no {part}/{file}: run `make paper` for it first")

    def texts(self, table: str) -> pd.DataFrame:
        """Return a table as text; empty cells are ""."""
        path = self.find("tables", f"{table}.csv")
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)
        return texts.rename(columns=lambda name: NAMELESS.sub("", name))

    def values(self, table: str) -> pd.DataFrame:
        """Return a table as numbers, see `tidy_table`."""
        return read_tidy(self.find("values", f"{table}.csv"))

    def number(self, name: str) -> dict[str, Any]:
        """Return a stored number: value, low, high, n, p, unit and kind."""
        return read_json(self.find("numbers", f"{name}.json"))

    def number_text(self, name: str) -> str:
        """Return the text of a stored number in prose."""
        return stored_text(self.number(name))

    def entry(self, kind: str, name: str) -> dict[str, Any]:
        """Return the caption and the provenance of a figure, table or number."""
        return read_json(self.find("provenance", f"{kind}_{name}.json"))

    def caption(self, kind: str, name: str) -> str:
        """Return the caption of a figure or table."""
        return self.entry(kind, name)["caption"]

    def names(self, part: str, ending: str) -> list[str]:
        """Return the stems of all stored files of a part, such as "tables", sorted."""
        files = []
        for folder in (self.folder, self.folder / JOINED):
            files += (folder / part).glob(f"*{ending}")
        return sorted({file.stem for file in files})


def cited_results() -> list[tuple[str, str]]:
    """Return (kind, name) of every figure, table and number that the manuscript cites."""
    texts = [(PAPER / name).read_text(encoding="utf-8") for name in MANUSCRIPT]
    return sorted(set(CITATION.findall("".join(texts))))


def completeness(study: Study, inputs: Iterable[str]) -> pd.DataFrame:
    """Return whether each cited result belongs to this run.

    Results that combine several runs are made by the last notebook, and are left out.

    Args:
        study: the study of the run.
        inputs: digests of the images of the run.

    Returns:
        Columns kind, name and state: "ok", "missing", or which of profile ("config"), revision,
        seed and images differ.
    """
    current = provenance(study, inputs)
    lines = []
    for kind, name in cited_results():
        if (kind, name) in JOINED_RESULTS:
            continue
        path = study.results / "provenance" / f"{kind}_{name}.json"
        lines.append((kind, name, _state(path, current)))
    return pd.DataFrame(lines, columns=["kind", "name", "state"])


#: the results that the last notebook computes from the runs of all seeds
JOINED_RESULTS = {
    ("table", "ledger"),
    ("table", "seeds"),
    ("table", "joined_claims"),
    ("table", "slopes"),
    ("table", "gaps"),
    ("table", "main"),
    ("figure", "all_encoders"),
    ("figure", "shift_of_seeds"),
    ("figure", "labels_of_seeds"),
    ("figure", "budgets_of_seeds"),
    ("number", "ledger_summary"),
    ("number", "ledger_seeds"),
    ("number", "ledger_verdicts"),
}


def _state(path: Path, current: dict[str, Any]) -> str:
    if not path.is_file():
        return "missing"
    origin = read_json(path)["provenance"]
    differing = [key for key in ("config", "revision", "seed") if origin[key] != current[key]]
    if set(origin["inputs"]) - set(current["inputs"]):
        differing.append("images")
    return f"of another {', '.join(differing)}" if differing else "ok"


#: facts of the provenance that runs of one study share, and those of how they were made
STUDY_KEYS = ("config", "inputs")
MAKING_KEYS = ("code", "precision")


class SeedRuns(NamedTuple):
    """The runs of all training seeds of one profile and its images.

    Attributes:
        runs: training seed → stored run, of those that may be joined.
        refused: one sentence for each run that may not.
    """

    runs: dict[int, StoredRun]
    refused: list[str]


def runs_of_all_seeds(study: Study, inputs: Iterable[str]) -> SeedRuns:
    """Return the stored runs of all training seeds that may be joined with this run.

    They have the same profile and images, and were made by the same code, libraries and precision,
    so that they differ in nothing but the seed. Of two runs of a seed the live one counts.

    Args:
        study: the study of this run.
        inputs: digests of the images.

    Raises:
        StudyError: the run of this study's own seed is missing, or was made by other code.
    """
    current = provenance(study, inputs)
    runs, refused = {}, {}
    live = study.results_root
    for root in (live.with_name("published"), live):
        for path in sorted(root.glob(f"{study.profile.name}*/values/claims.csv")):
            run = StoredRun(path.parents[1])
            origin = run.entry("table", "claims")["provenance"]
            seed = origin["seed"]
            is_same_study = all(origin[key] == current[key] for key in STUDY_KEYS)
            if not is_same_study or run.name != run_name(study.profile.name, seed):
                continue
            differing = _differences_in_making(origin, current)
            if differing:
                refused[seed] = _refusal(run, seed, differing)
            else:
                runs[seed] = run
    reasons = [reason for seed, reason in sorted(refused.items()) if seed not in runs]
    if study.seed not in runs:
        missing = f"{study.results} holds no claims: run notebook 15 first"
        raise StudyError(reasons[0] if reasons else missing)
    return SeedRuns(dict(sorted(runs.items())), reasons)


def _refusal(run: StoredRun, seed: int, differing: list[str]) -> str:
    """Return why a run is not joined, in one sentence."""
    verb = "differs" if len(differing) == 1 else "differ"
    return (
        f"seed {seed} ({run.folder.parent.name}/{run.name}) is not joined, since its "
        f"{' and '.join(differing)} {verb} from this run's: run `make paper SEED={seed}` again"
    )


def _differences_in_making(origin: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Return what differs between two runs besides the seed; "code" includes the libraries."""
    return [key for key in MAKING_KEYS if origin.get(key) != current[key]]


def settings_table(study: Study) -> pd.DataFrame:
    """Return every setting of the profile; for encoders, only those that are not defaults.

    Returns:
        Columns key and value.
    """
    excluded = {"name", "title", "extends", "hub", "coarse", "encoders"}
    (flat,) = pd.json_normalize(study.profile.model_dump(mode="json", exclude=excluded)).to_dict(
        "records"
    )
    settings = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flat.items()
        if value is not None
    }
    for name, config in study.profile.encoders.items():
        changed = config.model_dump(exclude_defaults=True)
        pairs = [f"{key} = {value}" for key, value in changed.items()]
        settings[f"encoders.{name}"] = ", ".join(pairs)
    return pd.DataFrame(settings.items(), columns=["key", "value"])


def origin_table(study: Study, inputs: Iterable[str]) -> pd.DataFrame:
    """Return the provenance of the results of a run, as columns what and value."""
    facts = provenance(study, inputs)
    keys = ("revision", "dirty", "code", "profile", "config", "seed", "device", "threads", "python")
    lines = [(key, str(facts[key])) for key in keys]
    lines += [(f"precision of {step}", name) for step, name in facts["precision"].items()]
    lines += [(f"{name} version", value) for name, value in facts["versions"].items()]
    return pd.DataFrame(lines, columns=["what", "value"])
