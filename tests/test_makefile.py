"""The graph of the Makefile, in a copy whose interpreter is a stub: what runs, and what does not."""

import ast
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
NOTEBOOKS = re.search(r"^NOTEBOOKS := (.*)$", MAKEFILE, re.M).group(1).split()
# what a surrounding `make test` or an active environment would lend to the inner make
LENT = re.compile(
    r"PLANKTON_|OMP_|(GNU)?MAKE|MFLAGS|(PROFILE|SEED|DATA|LAB|PY|PYTHON|VIRTUAL_ENV|CONDA_PREFIX)$"
)

STUB = """#!/bin/sh
# python notebooks/execute.py NOTEBOOK OUTPUT --profile P --seed S, or ... paper/build.py pdf NAME
[ "$1" = paper/build.py ] && set -- "$1" "$2" "paper/results/$3/paper.pdf"
echo "${3##*/} threads=$PLANKTON_THREADS hash=$PYTHONHASHSEED $4 $5 $6 $7" >> log
echo "$PLANKTON_REVISION/$PLANKTON_DIRTY" > revision
mkdir -p "${3%/*}" && : > "$3"
"""


class Tree:
    """A copy of what the Makefile looks at."""

    def __init__(self, root: Path):
        self.root = root
        shutil.copy(ROOT / "Makefile", root)
        named = [f"notebooks/{name}.ipynb" for name in NOTEBOOKS]
        for group in re.findall(r"\(call modules,([^)]*)\)", MAKEFILE):
            named += [f"plankton_study/{name}.py" for name in group.split()]
        named += [
            "environment.yml",
            "pyproject.toml",
            "plankton_study/catalogue.toml",
            "plankton_study/synthetic.toml",
        ]
        named += ["plankton_study/coarse_classes.csv"]
        named += ["paper/build.py", "paper/paper.typ", "paper/style.typ", "paper/references.bib"]
        for name in named:
            self.write(name, "")
        self.write("plankton_study/profiles/demo.toml", 'title = "Demo"\n')
        self.write("plankton_study/profiles/smoke.toml", '# small\nextends = "demo"\n')
        self.write("stub", STUB)
        (root / "stub").chmod(0o755)
        self.clock = time.time() - 1000
        self.age()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def age(self) -> None:
        """Make every file equally old, so that nothing is out of date."""
        for path in self.root.rglob("*"):
            os.utime(path, (self.clock, self.clock))

    def make(self, *arguments: str, stub: bool = True, **env: str) -> subprocess.CompletedProcess:
        clean = {key: value for key, value in os.environ.items() if not LENT.match(key)}
        command = ["make", *arguments, *(["PY=./stub"] if stub else [])]
        return subprocess.run(
            command, cwd=self.root, env={**clean, **env}, capture_output=True, text=True
        )

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


def outputs(*names: str) -> list[str]:
    """The outputs of the notebooks with these numbers, then the PDF."""
    return [f"{name}.ipynb" for name in NOTEBOOKS if name[:2] in names] + ["paper.pdf"]


def since(first: str) -> list[str]:
    """The outputs of the notebooks from this number on, then the PDF."""
    return outputs(*(name[:2] for name in NOTEBOOKS if name[:2] >= first))


ALL = outputs(*(name[:2] for name in NOTEBOOKS))


def test_everything_is_made_once(tree):
    assert tree.ran("paper") == ALL
    assert tree.ran("paper") == []
    assert tree.make("-q", "paper").returncode == 0


@pytest.mark.parametrize(
    ("touched", "again"),
    [
        ("notebooks/03_layers_and_noise.ipynb", since("03")),
        ("notebooks/10_claims.ipynb", outputs("10")),
        ("plankton_study/probes.py", since("02")),
        ("plankton_study/compare.py", since("04")),
        ("plankton_study/shift.py", outputs("06", "09", "10")),
        ("plankton_study/train.py", since("02")),
        ("plankton_study/report.py", ALL),
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
    assert tree.ran("02_diffusion") == ["01_data.ipynb", "02_diffusion.ipynb"]
    assert tree.ran("notebooks") == [name for name in ALL[2:] if name != "paper.pdf"]


def test_a_notebook_of_ones_own_joins_the_graph(built):
    built.write("notebooks/11_sizes.ipynb", "")
    assert built.ran("11_sizes") == ["11_sizes.ipynb"]
    assert built.ran("paper") == outputs("10")  # the last one looks whether everything is there
    built.age()
    (built.root / "plankton_study/shift.py").touch()
    assert "11_sizes.ipynb" in built.ran("paper") and built.ran("paper") == []
    assert "11_sizes" in built.make("help").stdout


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
    told = tree.make("-n", "lab", "LAB=--no-browser --port 9000").stdout
    assert re.search(r"-m jupyterlab .*lab/tree/notebooks --no-browser --port 9000$", told.strip())


def test_another_seed_has_results_of_its_own_and_other_data_make_them_out_of_date(built):
    assert built.ran("paper", "SEED=1") == ALL
    assert built.ran("paper", "SEED=1") == [] == built.ran("paper")
    built.write(
        "paper/results/demo-seed1/tables/claims.csv", ""
    )  # newer than the ledger that joins the seeds
    assert built.ran("paper") == outputs("10") and built.ran("paper") == []
    assert built.ran("paper", "SEED=1") == []
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
    tree.write(".gitignore", "log\nrevision\npaper/results\n")
    git("add", ".")
    git("commit", "-m", "all")
    head = git("rev-parse", "HEAD")
    assert recorded() == f"{head}/0"
    tree.write("plankton_study/probes.py", "changed = True\n")
    assert recorded() == f"{head}/1"


def test_a_failing_notebook_stops_the_run_and_leaves_nothing(tree):
    tree.write("stub", STUB + '[ "${3##*/}" != 02_diffusion.ipynb ]\n')
    (tree.root / "stub").chmod(0o755)
    assert tree.make("paper").returncode != 0
    made = sorted(path.name for path in (tree.root / "paper/results/demo/notebooks").iterdir())
    assert made == ["01_data.ipynb"]


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (
            "PROFILE=plankton",
            "PROFILE=plankton: there is no file plankton_study/profiles/plankton.toml",
        ),
        ("PROFILE=no/such.toml", "PROFILE=no/such.toml: there is no file no/such.toml"),
        ("PROFILE=my study.toml", "PROFILE='my study.toml' is not one word"),
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
        held = tree.make("-n", "unit", stub=False, HELD="0", **active).stdout
        assert held.splitlines() == [f'"{tree.root}/active/bin/python" -m pytest tests']
        lacking = tree.make("-n", "unit", stub=False, HELD="1", **active).stdout
        assert lacking.splitlines()[-1] == '".venv/bin/python" -m pytest tests'
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


def imports(source: str) -> set[str]:
    """The package's modules that a source names in its import statements."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "plankton_study":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plankton_study."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("plankton_study.")
            }
    return {name for name in found if (ROOT / f"plankton_study/{name}.py").exists()}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_module_that_a_notebook_imports_is_a_prerequisite(tree, name):
    """Modules imported by modules count too: otherwise an edit would leave stale results."""
    cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    used, todo = (
        set(),
        imports("\n".join(line for line in "\n".join(code).splitlines() if line[:1] not in "%!")),
    )
    while todo:
        module = todo.pop()
        used.add(module)
        todo |= imports((ROOT / f"plankton_study/{module}.py").read_text(encoding="utf-8")) - used
    tree.ran("notebooks")
    tree.age()
    for module in sorted(used):
        (tree.root / f"plankton_study/{module}.py").touch()
        assert f"{name}.ipynb" in tree.ran("notebooks"), (
            f"the Makefile does not know that {name} uses {module}.py"
        )
        tree.age()
