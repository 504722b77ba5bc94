"""The graph of the Makefile, in a copy whose interpreter is a stub: what runs, what does not."""

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import dependencies
import pytest

from plankton_study.report.provenance import SHAPES_RESULTS

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# what a surrounding `make test` or an active environment would lend to the inner make
LENT = re.compile(
    r"PLANKTON_|OMP_|(GNU)?MAKE|MFLAGS|PYTHONPATH$|"
    r"(PROFILE|SEED|DATA|LAB|PY|PYTHON|VIRTUAL_ENV|CONDA_PREFIX)$"
)
RULES = ".cache/dependencies.mk"

STUB = """#!/bin/sh
# python notebooks/execute.py NOTEBOOK OUTPUT --profile P --seed S, or ... paper/build.py pdf NAME
[ "$1" = paper/build.py ] && set -- "$1" "$2" "paper/results/$3/paper.pdf"
echo "${3##*/} threads=$PLANKTON_THREADS hash=$PYTHONHASHSEED $4 $5 $6 $7" >> log
echo "$PLANKTON_REVISION/$PLANKTON_DIRTY" > revision
echo "$PYTHONPATH" > path
mkdir -p "${3%/*}" && : > "$3"
"""


@functools.cache
def rules_of_the_repository() -> str:
    return dependencies.rules(ROOT)


def lendable_environment() -> dict[str, str]:
    """Return this process's environment without what would reach into another make."""
    return {key: value for key, value in os.environ.items() if not LENT.match(key)}


class Tree:
    """A copy of what the Makefile looks at."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("Makefile", ".ci/dependencies.py"):
            self.write(name, (ROOT / name).read_text(encoding="utf-8"))
        for name in NOTEBOOKS:
            self.write(f"notebooks/{name}.ipynb", self.original(f"notebooks/{name}.ipynb"))
        for ending in ("py", "toml", "csv"):
            for path in (ROOT / "plankton_study").rglob(f"*.{ending}"):
                name = path.relative_to(ROOT).as_posix()
                self.write(name, self.original(name))
        for name in ("environment.yml", "pyproject.toml", "paper/build.py", "paper/paper.typ"):
            self.write(name, "")
        for name in ("paper/style.typ", "paper/references.bib"):
            self.write(name, "")
        self.write("plankton_study/profiles/demo.toml", 'title = "Demo"\n')
        self.write("plankton_study/profiles/smoke.toml", '# small\nextends = "demo"\n')
        self.write(RULES, rules_of_the_repository())
        self.write("stub", STUB)
        (root / "stub").chmod(0o755)
        self.clock = time.time() - 1000
        self.age()

    @staticmethod
    def original(name: str) -> str:
        return (ROOT / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def write_notebook(self, name: str, code: str = "", after: list[str] | None = None) -> None:
        metadata = {} if after is None else {"plankton_study": {"after": after}}
        book = {"metadata": metadata, "cells": [{"cell_type": "code", "source": [code]}]}
        self.write(f"notebooks/{name}.ipynb", json.dumps(book))

    def age(self) -> None:
        """Make every file equally old, so that nothing is out of date."""
        for path in self.root.rglob("*"):
            os.utime(path, (self.clock, self.clock))

    def make(self, *arguments: str, stub: bool = True, **env: str) -> subprocess.CompletedProcess:
        command = ["make", f"PYTHON={sys.executable}", *arguments]
        if stub:
            command.append("PY=./stub")
        env = lendable_environment() | env
        return subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True)

    def ran(self, *arguments: str, **env: str) -> list[str]:
        """Run make and return the names of the outputs it made, in order."""
        log = self.root / "log"
        log.unlink(missing_ok=True)
        done = self.make(*arguments, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def built(tree):
    """A tree after one `make paper`."""
    tree.ran("paper")
    tree.age()
    return tree


def outputs(*numbers: str) -> list[str]:
    """The outputs of the notebooks with these numbers, then the PDF."""
    return [f"{name}.ipynb" for name in NOTEBOOKS if name[:2] in numbers] + ["paper.pdf"]


def since(first: str) -> list[str]:
    """The outputs of the notebooks from this number on, then the PDF."""
    return outputs(*(name[:2] for name in NOTEBOOKS if name[:2] >= first))


def since_without(first: str, *aside: str) -> list[str]:
    """The same without the notebooks with these numbers, on which no claim rests."""
    return [name for name in since(first) if name[:2] not in aside]


ALL = outputs(*(name[:2] for name in NOTEBOOKS))


def test_everything_is_made_once(tree):
    assert tree.ran("paper") == ALL
    assert tree.ran("paper") == []
    assert tree.make("-q", "paper").returncode == 0


@pytest.mark.parametrize(
    ("touched", "again"),
    [
        ("notebooks/03_layers_and_noise.ipynb", [*outputs("03")[:-1], *since_without("05", "17")]),
        ("notebooks/15_evidence.ipynb", since_without("15", "17", "18")),
        ("notebooks/16_verdicts.ipynb", since_without("16", "17", "18")),
        ("plankton_study/questions/claims.py", since_without("15", "17", "18")),
        ("plankton_study/questions/clusters.py", outputs("09", "15", "16", "18")),
        ("plankton_study/questions/compare.py", since("04")),
        ("plankton_study/questions/shift/nuisances.py", outputs("08", "15", "16")),
        ("plankton_study/models/training.py", outputs("00")[:-1] + since("02")),
        ("plankton_study/report/results.py", ALL),
        ("plankton_study/report/captions.toml", ALL),
        ("plankton_study/images/coarse_classes.csv", ALL),
        ("plankton_study/profiles/demo.toml", ALL),
        ("environment.yml", ALL),
        ("paper/paper.typ", ["paper.pdf"]),
        ("paper/references.bib", ["paper.pdf"]),
        ("README.md", []),
    ],
)
def test_a_change_reruns_what_depends_on_it_and_nothing_else(built, touched, again):
    (built.root / touched).touch()
    assert built.ran("paper") == again


def test_one_notebook_and_what_it_needs(tree):
    assert tree.ran("02_denoiser") == ["01_data.ipynb", "02_denoiser.ipynb"]
    assert tree.ran("00_one_image") == ["00_one_image.ipynb"]
    rest = [name for name in ALL if name[:2] not in ("00", "01", "02", "pa")]
    assert tree.ran("notebooks") == rest


@pytest.mark.parametrize("name", ["my station.toml", "Bob's (2024).toml", 'a "b" & c.toml'])
def test_a_profile_may_have_blanks_and_quotes_in_its_path(tree, name):
    tree.write(f"My data's/{name}", 'extends = "demo"\n')
    assert tree.ran("01_data", f"PROFILE=My data's/{name}") == ["01_data.ipynb"]
    assert tree.ran("01_data", f"PROFILE=My data's/{name}") == []
    (results,) = [path.name for path in (tree.root / "paper/results").iterdir()]
    assert re.fullmatch(r"[\w-]+", results)
    (link,) = (tree.root / ".cache/profiles").glob("*/*.toml")
    assert link.read_text() == 'extends = "demo"\n'
    tree.age()
    tree.write(f"My data's/{name}", 'extends = "demo"\ntitle = "x"\n')
    assert tree.ran("01_data", f"PROFILE=My data's/{name}") == ["01_data.ipynb"]


def test_the_data_may_lie_in_a_folder_with_quotes(tree):
    folder = 'Bob\'s "data"'
    (tree.root / folder).mkdir()
    assert tree.ran("01_data", f"DATA={folder}") == ["01_data.ipynb"]
    assert tree.ran("01_data", f"DATA={folder}") == []


def test_names_need_only_their_own_notebook_which_looks_at_the_images_each_time(tree):
    assert tree.ran("names") == ["17_names.ipynb"]
    assert tree.ran("names") == ["17_names.ipynb"]
    assert "names: paper/results/demo/names/" in tree.make("names").stdout


def test_a_notebook_of_ones_own_joins_the_graph(built):
    built.write_notebook("19_sizes", "from plankton_study.questions import few_labels")
    assert built.ran("19_sizes") == ["19_sizes.ipynb"]
    assert built.ran("paper") == since_without("15", "17", "18")  # the claims wait for all
    built.age()
    (built.root / "plankton_study/questions/few_labels.py").touch()
    assert "19_sizes.ipynb" in built.ran("paper") and built.ran("paper") == []
    assert "19_sizes" in built.make("help").stdout


def test_a_notebook_of_ones_own_runs_after_the_comparison_or_what_it_names(tree):
    tree.write_notebook("19_sizes")
    tree.write_notebook("19_late", after=["19_sizes", "01_data"])
    assert tree.ran("19_sizes")[-2:] == ["05_long_tail.ipynb", "19_sizes.ipynb"]
    tree.write_notebook("19_early", after=["01_data"])
    shutil.rmtree(tree.root / "paper/results")
    assert tree.ran("19_early") == ["01_data.ipynb", "19_early.ipynb"]
    assert tree.ran("19_late")[-2:] == ["19_sizes.ipynb", "19_late.ipynb"]


def test_metadata_and_imports_are_read_anew_when_they_change(built):
    built.write_notebook("19_sizes", after=[])
    assert built.ran("19_sizes") == ["19_sizes.ipynb"]
    built.age()
    built.write_notebook(
        "19_sizes", "import plankton_study.probes.linear.lda", after=["00_one_image"]
    )
    assert built.ran("19_sizes") == ["19_sizes.ipynb"]
    built.age()
    (built.root / "notebooks/00_one_image.ipynb").touch()
    assert built.ran("19_sizes") == ["00_one_image.ipynb", "19_sizes.ipynb"]
    built.age()
    lda = built.root / "plankton_study/probes/linear/lda.py"
    lda.write_text("from plankton_study.run import new\n")
    built.write("plankton_study/run/new.py", "")
    assert "19_sizes.ipynb" in built.ran("19_sizes")
    built.age()
    (built.root / "plankton_study/run/new.py").touch()
    assert "19_sizes.ipynb" in built.ran("19_sizes")


def test_rules_that_nobody_has_written_yet_are_written_first(tree):
    (tree.root / RULES).unlink()
    assert tree.ran("02_denoiser") == ["01_data.ipynb", "02_denoiser.ipynb"]
    assert (tree.root / RULES).read_text() == rules_of_the_repository()
    assert not list((tree.root / ".cache").glob("*.partial"))


def test_profiles_share_no_results_and_follow_their_parents(built):
    assert built.ran("paper", "PROFILE=smoke") == ALL
    assert built.ran("paper") == []
    built.age()
    (built.root / "plankton_study/profiles/demo.toml").touch()
    assert built.ran("paper", "PROFILE=smoke") == ALL


def test_a_profile_of_the_user_follows_a_file_beside_it(built):
    built.write("mine/base.toml", 'extends = "smoke"\n')
    built.write("mine/study.toml", "extends = 'base.toml'\n")
    assert built.ran("paper", "PROFILE=mine/study.toml") == ALL
    assert (built.root / "paper/results/study/paper.pdf").exists()
    assert "--profile mine/study.toml --seed 0" in (built.root / "log").read_text()
    built.age()
    for parent in (
        "mine/base.toml",
        "plankton_study/profiles/smoke.toml",
        "plankton_study/profiles/demo.toml",
    ):
        assert built.ran("paper", "PROFILE=mine/study.toml") == []
        (built.root / parent).touch()
        assert built.ran("paper", "PROFILE=mine/study.toml") == ALL
        built.age()


def test_profiles_that_extend_each_other_do_not_hang(tree):
    tree.write("plankton_study/profiles/demo.toml", 'extends = "smoke"\n')
    assert tree.ran("paper") == ALL


def test_options_reach_jupyterlab(tree):
    command = tree.make("-n", "lab", "LAB=--no-browser --port 9000").stdout
    assert re.search(
        r"-m jupyterlab .*lab/tree/notebooks --no-browser --port 9000$", command.strip()
    )


def test_another_seed_has_results_of_its_own_and_other_data_make_them_out_of_date(built):
    assert built.ran("paper", "SEED=1") == ALL
    assert built.ran("paper", "SEED=1") == [] == built.ran("paper")
    built.write(
        "paper/results/demo-seed1/values/claims.csv", ""
    )  # newer than the ledger that joins the seeds
    assert built.ran("paper") == since_without("16", "17", "18") and built.ran("paper") == []
    assert built.ran("paper", "SEED=1") == []
    built.age()
    built.write("paper/published/demo-seed2/values/claims.csv", "")  # a published seed counts too
    assert (
        built.ran("paper") == since_without("16", "17", "18") and built.ran("paper", "SEED=1") == []
    )
    assert (built.root / "paper/results/demo-seed1/paper.pdf").exists()
    assert built.ran("paper", "SEED=1", "DATA=plankton_study") == ALL
    assert built.ran("paper", "SEED=1", "DATA=plankton_study") == []
    assert built.ran("paper", "SEED=1") == []  # no DATA: whatever the results were made from


def test_the_environment_variables_of_a_run(tree):
    cores = int(
        subprocess.run(["getconf", "_NPROCESSORS_ONLN"], capture_output=True, text=True).stdout
    )
    tree.ran("01_data")
    alone = int(re.search(r"threads=(\d+) hash=0", (tree.root / "log").read_text()).group(1))
    assert 1 <= alone <= cores
    for flags, expected in (("-j2", max(1, alone // 2)), ("-j", 1), ("-kj64", 1)):
        shutil.rmtree(tree.root / "paper/results")
        tree.ran(flags, "01_data")
        assert f"threads={expected} " in (tree.root / "log").read_text()
    shutil.rmtree(tree.root / "paper/results")
    tree.ran("01_data", PLANKTON_THREADS="7", PLANKTON_PROFILE="smoke", PLANKTON_SEED="5")
    assert (
        tree.root / "log"
    ).read_text() == "01_data.ipynb threads=7 hash=0 --profile smoke --seed 5\n"


def test_the_revision_is_that_of_this_repository(tree):
    def git(*arguments: str, at: Path = tree.root) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=at, capture_output=True, text=True
        ).stdout.strip()

    def recorded() -> str:
        tree.ran("01_data", "SEED=1")
        shutil.rmtree(tree.root / "paper/results")
        return (tree.root / "revision").read_text().strip()

    assert recorded() == "/0"
    git("init", at=tree.root.parent)  # a repository around the copy is not the study's
    assert recorded() == "/0"
    git("init")
    tree.write(".gitignore", "log\npath\nrevision\npaper/results\n.cache\n")
    git("add", ".")
    git("commit", "-m", "all")
    head = git("rev-parse", "HEAD")
    assert recorded() == f"{head}/0"
    tree.write("station.toml", 'extends = "demo"\n')  # one's own profile is no change of the code
    assert recorded() == f"{head}/0"
    tree.write("plankton_study/probes/linear/lda.py", "changed = True\n")
    assert recorded() == f"{head}/1"


def test_the_files_that_shape_results_are_named_alike_in_make_and_in_provenance():
    (names,) = re.findall(r"^SHAPES_RESULTS := (.*)$", MAKEFILE, re.M)
    assert tuple(names.split()) == SHAPES_RESULTS


def test_a_failing_notebook_stops_the_run_and_leaves_nothing(tree):
    tree.write("stub", STUB + '[ "${3##*/}" != 02_denoiser.ipynb ]\n')
    (tree.root / "stub").chmod(0o755)
    assert tree.make("paper").returncode != 0
    made = sorted(path.name for path in (tree.root / "paper/results/demo/notebooks").iterdir())
    assert made == ["00_one_image.ipynb", "01_data.ipynb"]


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (
            "PROFILE=plankton",
            "PROFILE=plankton: there is no file plankton_study/profiles/plankton.toml",
        ),
        ("PROFILE=no/such.toml", "PROFILE=no/such.toml: there is no file no/such.toml"),
        ("PROFILE=my study.toml", "PROFILE=my study.toml: there is no such file"),
        ("DATA=no/such", "DATA=no/such: there is no such folder"),
    ],
)
def test_a_wrong_setting_gives_one_sentence(tree, argument, sentence):
    done = tree.make("paper", argument)
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert sentence in done.stderr


def test_a_python_that_cannot_make_the_environment_gives_one_sentence(tree):
    tree.write("old", "#!/bin/sh\nexit 1\n")
    tree.write("lacking", '#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\n')
    for name, sentence in (
        ("old", "not Python 3.11 or newer"),
        ("lacking", "install its venv package"),
        ("none", "not Python 3.11 or newer"),
    ):
        if (tree.root / name).exists():
            (tree.root / name).chmod(0o755)
        done = tree.make("env", f"PYTHON=./{name}", stub=False)
        assert done.returncode != 0
        assert [
            line
            for line in done.stderr.splitlines()
            if sentence in line and line.startswith("error: ")
        ]
        assert not (tree.root / ".venv").exists()


def test_an_active_environment_is_used_only_if_it_holds_the_pins(tree):
    tree.write("active/bin/python", "#!/bin/sh\nexit $HELD\n")  # answers `pins.py check`
    (tree.root / "active/bin/python").chmod(0o755)
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        active = {variable: str(tree.root / "active")}
        (held,) = tree.make("-n", "unit", stub=False, HELD="0", **active).stdout.splitlines()
        assert held.startswith(f'"{tree.root}/active/bin/python" -m pytest tests')
        lacking = tree.make("-n", "unit", stub=False, HELD="1", **active).stdout
        assert lacking.splitlines()[-1].startswith('".venv/bin/python" -m pytest tests')
        assert "-m venv" in lacking


def test_help_has_a_line_for_every_target(tree):
    done = tree.make()
    assert done.returncode == 0
    phony = (
        re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.M)
        .group(1)
        .replace("\\\n", " ")
        .split()
    )
    listed = re.findall(r"^  make (\S+) +\S", done.stdout, re.M)
    assert set(listed) == set(phony) - {"$(NOTEBOOKS)", "FORCE"} | {"01_data"}


def test_clean_removes_one_profile_and_clean_cache_keeps_downloads(built):
    built.ran("paper", "PROFILE=smoke")
    built.write(".cache/downloads/set.zip", "")
    built.write(".cache/train/weights", "")
    assert built.ran("clean", "PROFILE=smoke") == []
    assert [path.name for path in (built.root / "paper/results").iterdir()] == ["demo"]
    assert built.ran("clean-cache") == []
    assert [path.name for path in (built.root / ".cache").iterdir()] == ["downloads"]


# --- what a notebook imports


def imported_files(source: str) -> set[str]:
    """Return the modules of the package that a source names, as paths inside the package.

    What is only a room (an __init__.py) is left out.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    paths = {name.replace(".", "/") + ".py" for name in names}
    return {path for path in paths if path.startswith("plankton_study/") and (ROOT / path).exists()}


def files_behind(notebook: str) -> set[str]:
    """Return the modules that a notebook imports, directly or through other modules."""
    book = json.loads((ROOT / f"notebooks/{notebook}.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join(code).splitlines()
    waiting = imported_files("\n".join(line for line in lines if line[:1] not in ("%", "!")))
    files: set[str] = set()
    while waiting:
        path = waiting.pop()
        files.add(path)
        waiting |= imported_files((ROOT / path).read_text(encoding="utf-8")) - files
    return files


def test_every_module_that_a_notebook_imports_makes_it_out_of_date(built):
    """Modules imported by modules count too: otherwise an edit would leave stale results."""
    imported = {name: files_behind(name) for name in NOTEBOOKS}
    assert all(imported.values())
    for path in sorted(set.union(*imported.values())):
        # as if the module had just changed; the rules themselves stay
        planned = built.make("-n", "-o", RULES, "-W", path, "notebooks").stdout
        again = set(re.findall(r"execute\.py notebooks/(\w+)\.ipynb", planned))
        users = {name for name in NOTEBOOKS if path in imported[name]}
        assert users <= again, f"{path} is used by {users - again}, which make does not know"


def test_no_module_of_the_package_is_unknown_to_make(tree):
    """Each module is used by a notebook, except the command line, and what has none yet."""
    known = set(re.findall(r"plankton_study/\S+\.py", rules_of_the_repository()))
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "plankton_study").rglob("*.py")
        if path.name != "__init__.py"
    }
    without_notebook = {"plankton_study/__main__.py"}
    assert modules - known == without_notebook


# --- another checkout's environment


@pytest.fixture(scope="module")
def two_checkouts(tmp_path_factory) -> tuple[Path, Path]:
    """Two copies of the package; the first has an environment that was made for it."""
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for folder in folders:
        for name in ("plankton_study", ".ci", "paper"):
            unused = shutil.ignore_patterns("__pycache__", "published", "results", "site")
            shutil.copytree(ROOT / name, folder / name, ignore=unused)
        for name in ("Makefile", "environment.yml", "pyproject.toml", "notebooks/execute.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    first, second = folders
    venv.create(first / ".venv", symlinks=True)
    (site_packages,) = (first / ".venv" / "lib").glob("python3*/site-packages")
    # as an editable install does it: the checkout itself, then all other packages
    paths = [str(first), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    (site_packages / "plankton_study.pth").write_text("\n".join(paths) + "\n")
    return first, second


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the time of change of every file below a folder."""
    stats = {str(path): path.lstat() for path in folder.rglob("*")}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


SAY_WHERE = """
import plankton_study
from plankton_study.run.files import ROOT, write_json
from plankton_study.run.study import load_study
study = load_study(profile, seed)
place = {"package": plankton_study.__file__, "root": str(ROOT), "cache": str(study.cache)}
write_json(study.results / "place.json", place)
"""


def make_in(folder: Path, python: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run make in a checkout with the interpreter of another, in any folder."""
    command = ["make", "-C", str(folder), f"PYTHON={sys.executable}", f"PY={python}", *arguments]
    return subprocess.run(
        command, cwd="/", env=lendable_environment(), capture_output=True, text=True
    )


def test_make_runs_the_package_of_its_own_folder_whatever_the_environment(two_checkouts):
    first, second = two_checkouts
    python = first / ".venv" / "bin" / "python"
    where = "import plankton_study; print(plankton_study.__file__)"
    imported = subprocess.run(
        [python, "-c", where], cwd="/", env=lendable_environment(), capture_output=True, text=True
    )
    assert Path(imported.stdout.strip()).is_relative_to(first), (
        "the environment is that of the first"
    )
    parameters = {"metadata": {"tags": ["parameters"]}, "source": "profile = None\nseed = None"}
    cells = [parameters, {"metadata": {}, "source": SAY_WHERE}]
    kind = {"cell_type": "code", "execution_count": None, "outputs": []}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {
        "nbformat": 4,
        "nbformat_minor": 4,
        "metadata": {"kernelspec": kernel, "plankton_study": {"after": []}},
        "cells": [kind | cell for cell in cells],
    }
    (second / "notebooks" / "01_place.ipynb").write_text(json.dumps(book))
    before = state_of(first)

    done = make_in(second, python, "01_place", "PROFILE=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    place = json.loads((second / "paper/results/smoke/place.json").read_text())
    assert place == {
        "package": str(second / "plankton_study/__init__.py"),
        "root": str(second),
        "cache": str(second / ".cache"),
    }
    assert state_of(first) == before, "nothing is written into the other checkout"


def test_build_reads_the_results_of_its_own_folder_whatever_the_environment(two_checkouts):
    first, second = two_checkouts
    before = state_of(first)
    done = make_in(second, first / ".venv" / "bin" / "python", "compare", "PROFILE=quick")
    assert done.returncode != 0
    assert f"error: {second}/paper/published/quick holds no results" in done.stderr
    assert str(first / "paper") not in done.stderr
    assert state_of(first) == before


def test_the_users_own_path_stays_behind_that_of_the_folder(tree):
    tree.ran("01_data")
    assert (tree.root / "path").read_text() == f"{tree.root}\n"
    shutil.rmtree(tree.root / "paper/results")
    tree.ran("01_data", PYTHONPATH="/some/folder")
    assert (tree.root / "path").read_text() == f"{tree.root}:/some/folder\n"
