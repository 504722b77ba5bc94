"""What .ci/dependencies.py reads from imports and metadata, in a small tree of its own."""

import json
import re
from graphlib import TopologicalSorter
from pathlib import Path

import dependencies
import pytest

ROOT = Path(__file__).resolve().parents[2]

MODULES = {
    "__init__.py": "",
    "run/__init__.py": "",
    "run/study.py": "import json\nfrom pathlib import Path\n",
    "images/__init__.py": "",
    "images/catalogue.py": "from plankton_study.run import study\n",
    "images/catalogue.toml": "",
    "images/classes.csv": "",
    "images/notes.md": "",
    "probes/__init__.py": "",
    "probes/metrics.py": "import numpy as np\n",
    "probes/probe.py": "from plankton_study.probes.metrics import scores\n",
    "questions/__init__.py": "",
    "questions/compare.py": "def f():\n    from plankton_study.probes.probe import probe\n",
    "questions/claims.py": "from plankton_study.questions.verdicts import judge\n",
    "questions/verdicts.py": "from plankton_study.questions.claims import differences\n",
}


@pytest.fixture
def root(tmp_path) -> Path:
    """A package of a few modules."""
    for name, text in MODULES.items():
        path = tmp_path / "plankton_study" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def write_notebook(root: Path, name: str, *cells: str, after: list[str] | None = None) -> None:
    metadata = {} if after is None else {"plankton_study": {"after": after}}
    book = {
        "metadata": metadata,
        "cells": [{"cell_type": "markdown", "source": ["import plankton_study.run.study"]}]
        + [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells],
    }
    (root / "notebooks" / f"{name}.ipynb").write_text(json.dumps(book))


def write_notebooks(root: Path, after: dict[str, list[str] | None]) -> None:
    """Write notebooks without code that run after others."""
    for name, wishes in after.items():
        write_notebook(root, name, after=wishes)


def read_rules(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return notebook → the notebooks that it runs after, and the files that it needs."""
    rules = {}
    for line in dependencies.rules(root).splitlines():
        if line.startswith("#"):
            continue
        target, _, prerequisites = line.partition(":")
        name = re.fullmatch(r"\$\(DONE\)/(\w+)\.ipynb", target)[1]
        words = prerequisites.split()
        before = [word for word in words if word.startswith("$(DONE)")]
        before = [word.removeprefix("$(DONE)/").removesuffix(".ipynb") for word in before]
        files = [word for word in words if not word.startswith("$(DONE)")]
        rules[name] = (before, [file.removeprefix("plankton_study/") for file in files])
    return rules


def order_of(rules: dict[str, tuple[list[str], list[str]]]) -> list[str]:
    """Return an order in which the notebooks can run; a cycle raises CycleError."""
    return list(
        TopologicalSorter({name: set(before) for name, (before, _) in rules.items()}).static_order()
    )


def files_needed(root: Path, *cells: str) -> list[str]:
    """Return what a notebook with these cells needs, without the rooms' own files."""
    write_notebook(root, "01_test", *cells)
    _, files = read_rules(root)["01_test"]
    return [file for file in files if not file.endswith("__init__.py")]


# --- imports


def test_a_name_that_is_a_module_is_one(root):
    files = files_needed(root, "from plankton_study.questions import compare")
    assert "questions/compare.py" in files


def test_what_a_room_runs_when_it_is_imported_counts(root):
    """Importing a.b.c runs a/__init__.py and a/b/__init__.py as well."""
    write_notebook(root, "01_test", "import plankton_study.run.study")
    _, files = read_rules(root)["01_test"]
    assert files == ["__init__.py", "run/__init__.py", "run/study.py"]


def test_a_name_inside_a_module_is_none(root):
    files = files_needed(root, "from plankton_study.probes.metrics import scores, probe")
    assert files == ["probes/metrics.py"]


@pytest.mark.parametrize(
    "line",
    [
        "import plankton_study.probes.metrics",
        "import numpy, plankton_study.probes.metrics as metrics",
        "def f():\n    from plankton_study.probes.metrics import scores",
        "if True:\n    from plankton_study.probes.metrics import (\n        scores,\n    )",
    ],
)
def test_every_way_to_import_counts(root, line):
    assert files_needed(root, line) == ["probes/metrics.py"]


def test_imports_of_imports_count_also_inside_functions(root):
    files = files_needed(root, "from plankton_study.questions.compare import compare_encoders")
    assert files == ["probes/metrics.py", "probes/probe.py", "questions/compare.py"]


def test_modules_that_import_each_other_do_not_hang(root):
    files = files_needed(root, "import plankton_study.questions.claims")
    assert files == ["questions/claims.py", "questions/verdicts.py"]


def test_data_files_beside_a_module_count(root):
    files = files_needed(root, "from plankton_study.images.catalogue import catalogue")
    assert {"images/catalogue.py", "images/catalogue.toml", "images/classes.csv"} <= set(files)
    assert "images/notes.md" not in files
    assert "run/study.py" in files, "an import of an import"


def test_other_packages_and_missing_modules_do_not_count(root):
    (root / "plankton_studies.py").write_text("")
    assert files_needed(root, "import numpy, plankton_studies", "import plankton_study.gone") == []


def test_magics_and_text_are_no_code(root):
    cell = "%matplotlib inline\n!ls\n%%time\nfrom plankton_study.probes import metrics"
    files = files_needed(root, cell)
    assert files == ["probes/metrics.py"]


def test_every_cell_is_read(root):
    files = files_needed(root, "x = 1", "import plankton_study.run.study", "from math import pi")
    assert files == ["run/study.py"]


# --- the order of notebooks


def test_a_notebook_runs_after_those_that_it_names(root):
    write_notebooks(root, {"01_data": [], "02_denoiser": ["01_data"], "03_all": ["02_denoiser"]})
    before = {name: names for name, (names, _) in read_rules(root).items()}
    assert before == {"01_data": [], "02_denoiser": ["01_data"], "03_all": ["02_denoiser"]}


def test_a_notebook_that_names_none_runs_after_the_comparison(root):
    write_notebooks(root, {"01_data": [], "05_long_tail": [], "17_sizes": None})
    assert read_rules(root)["17_sizes"][0] == ["05_long_tail"]


def test_the_comparison_itself_does_not_wait_for_itself(root):
    write_notebooks(root, {"05_long_tail": None})
    assert read_rules(root)["05_long_tail"][0] == []


def test_a_notebook_that_is_not_there_is_not_waited_for(root):
    write_notebooks(root, {"01_data": [], "02_denoiser": ["01_data", "07_gone"], "17_sizes": None})
    rules = read_rules(root)
    assert rules["02_denoiser"][0] == ["01_data"] and rules["17_sizes"][0] == []


def test_only_numbered_notebooks_take_part(root):
    write_notebooks(root, {"01_data": [], "draft": []})
    assert list(read_rules(root)) == ["01_data"]


def test_all_means_every_notebook_but_those_that_run_after_it(root):
    after = {
        "01_data": [],
        "05_long_tail": ["01_data"],
        "15_evidence": ["all"],
        "16_verdicts": ["15_evidence"],
        "17_sizes": None,
    }
    write_notebooks(root, after)
    rules = read_rules(root)
    assert rules["15_evidence"][0] == ["01_data", "05_long_tail", "17_sizes"]
    assert rules["16_verdicts"][0] == ["15_evidence"]
    assert order_of(rules)[-1] == "16_verdicts"


def test_all_does_not_mean_notebooks_aside(root):
    write_notebooks(root, {"01_data": [], "15_evidence": ["all"], "17_names": ["01_data"]})
    file = root / "notebooks" / "17_names.ipynb"
    book = json.loads(file.read_text())
    book["metadata"]["plankton_study"]["aside"] = True
    file.write_text(json.dumps(book))
    rules = read_rules(root)
    assert rules["15_evidence"][0] == rules["17_names"][0] == ["01_data"]


def test_several_notebooks_may_come_last(root):
    after = {"01_data": [], "15_evidence": ["all"], "16_verdicts": ["15_evidence"]}
    after |= {"17_end": ["all"], "18_after": ["16_verdicts"]}
    write_notebooks(root, after)
    rules = read_rules(root)
    assert rules["15_evidence"][0] == rules["17_end"][0] == ["01_data"]
    assert rules["18_after"][0] == ["16_verdicts"]
    order_of(rules)


def test_notebooks_that_wait_for_each_other_are_refused(root):
    write_notebooks(root, {"01_data": [], "02_a": ["03_b"], "03_b": ["02_a"]})
    with pytest.raises(ValueError, match=r"02_a.*wait for each other: correct 'after'"):
        dependencies.rules(root)


# --- what cannot be read


def run_on(root: Path, monkeypatch, capsys) -> tuple[int, str]:
    """Return the exit status of the program, and what it prints as an error."""
    monkeypatch.setattr(dependencies, "ROOT", root)
    dependencies.modules_imported_by.cache_clear()
    status = dependencies.main()
    return status, capsys.readouterr().err


def test_a_module_with_a_syntax_error_is_named_in_one_line(root, monkeypatch, capsys):
    write_notebook(root, "01_test", "import plankton_study.run.study")
    (root / "plankton_study" / "run" / "study.py").write_text("x = 1\nx ==== 2\n")
    status, said = run_on(root, monkeypatch, capsys)
    assert status == 1
    assert re.fullmatch(r"error: .*run/study\.py, line 2, is not valid Python: .*\n", said)


def test_a_cell_with_a_syntax_error_is_named_in_one_line(root, monkeypatch, capsys):
    write_notebook(root, "01_test", "x ==== 2")
    status, said = run_on(root, monkeypatch, capsys)
    assert status == 1
    assert said.startswith("error: notebooks/01_test.ipynb, line 1, is not valid Python")


@pytest.mark.parametrize("content", ["", "{", '{"cells": 1}', "[]"])
def test_a_broken_notebook_is_named_in_one_line(root, monkeypatch, capsys, content):
    (root / "notebooks" / "01_test.ipynb").write_text(content)
    status, said = run_on(root, monkeypatch, capsys)
    assert status == 1
    assert re.fullmatch(r"error: .*01_test\.ipynb is not a readable notebook .*\n", said)


# --- the study's own notebooks


@pytest.fixture(scope="module")
def own_rules() -> dict[str, tuple[list[str], list[str]]]:
    return read_rules(ROOT)


def test_the_notebooks_of_the_study_run_in_the_order_of_their_numbers(own_rules):
    for name, (before, _) in own_rules.items():
        assert all(other < name for other in before), name
    assert set(order_of(own_rules)) == set(own_rules)


def test_the_claims_wait_for_every_notebook_but_the_verdicts(own_rules):
    aside = {"17_names", "18_look_for_yourself"}
    others = set(own_rules) - {"15_evidence", "16_verdicts", *aside}
    assert set(own_rules["15_evidence"][0]) == others
    assert own_rules["16_verdicts"][0] == ["15_evidence"]


def test_the_notebooks_of_the_study_say_when_they_run():
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        after = metadata["plankton_study"]["after"]
        stems = {other.stem for other in path.parent.glob("*.ipynb")}
        assert set(after) <= stems | {"all"}, path.name


def test_every_rule_names_files_that_exist_in_a_fixed_order(own_rules):
    for name, (_, files) in own_rules.items():
        assert files == sorted(files), name
        assert files and all((ROOT / "plankton_study" / file).is_file() for file in files), name
