"""The runner, with a real kernel: an executed notebook appears whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

RUNNER = str(Path(__file__).resolve().parents[2] / "notebooks" / "execute.py")
PARAMETERS = new_code_cell("profile = None\nseed = None", metadata={"tags": ["parameters"]})
REVISION = "PLANKTON_REVISION"
COMMIT = "759e98e0c5f7b27a4b8a7a5a3f7f0b0c5d6e7f80"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


@pytest.fixture
def start(tmp_path) -> Callable[..., subprocess.Popen]:
    """A function that starts the runner on a notebook of the given cells, in its own folder.

    The runner sees no PLANKTON_REVISION unless the test passes a revision.
    """

    def start(*cells: str, revision: str | None = None) -> subprocess.Popen:
        notebook = new_notebook(cells=[PARAMETERS, *map(new_code_cell, cells)])
        notebook.metadata.kernelspec = KERNEL
        nbformat.write(notebook, tmp_path / "tiny.ipynb")
        environment = {key: value for key, value in os.environ.items() if key != REVISION}
        if revision is not None:
            environment[REVISION] = revision
        command = [sys.executable, RUNNER, "tiny.ipynb", "out/tiny.ipynb"]
        return subprocess.Popen(
            [*command, "--profile", "smoke", "--seed", "3"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


def executed_notebook(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out/tiny.ipynb").read_text())


def error_lines(stderr: str) -> list[str]:
    """Return the lines without the one that libzmq may write while a kernel is being stopped."""
    return [line for line in stderr.splitlines() if "signaler.cpp" not in line]


def wait_for_text(path: Path) -> str:
    """Return what a running cell has written to a file."""
    for _ in range(600):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear within a minute")


# --- a notebook that succeeds


def test_success_writes_the_executed_copy_and_forwards_prints(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tiny.failed.ipynb").write_text("left by an earlier failure")
    run = start("print('seen', profile, seed)", "import os; print(os.getcwd())")
    stdout, stderr = run.communicate()
    assert run.returncode == 0, stderr
    lines = stdout.splitlines()
    assert lines[0] == "tiny: running (profile smoke, seed 3)"
    assert lines[1:3] == ["seen smoke 3", str(tmp_path)]
    assert lines[-1].startswith("tiny: done in ")
    assert error_lines(stderr) == []
    assert outputs(tmp_path) == ["tiny.ipynb"]
    metadata = executed_notebook(tmp_path)["metadata"]
    assert metadata["papermill"]["parameters"] == {"profile": "smoke", "seed": 3}
    assert metadata["papermill"]["output_path"] == "out/tiny.ipynb"
    assert str(tmp_path) not in json.dumps(metadata)
    assert "plankton_study" not in metadata  # nobody said a revision


@pytest.mark.parametrize(("variable", "stored"), [(COMMIT, COMMIT), ("", None)])
def test_the_executed_copy_holds_the_revision_of_the_code(start, tmp_path, variable, stored):
    """Without git, make passes an empty revision: it is unknown."""
    run = start("x = 1", revision=variable)
    _, stderr = run.communicate()
    assert run.returncode == 0, stderr
    assert executed_notebook(tmp_path)["metadata"]["plankton_study"] == {"revision": stored}


def test_the_executed_copy_leaves_out_how_far_a_cell_was(start, tmp_path):
    line = r"\rfeatures of a set: 1,234 of 87,792, about 03:40 left"
    prints = f"print('{line}\\nkept: 3 of 4 taxa')", f"print('{line}\\n')", "import tqdm.auto"
    run = start(*prints)
    stdout, stderr = run.communicate()
    assert run.returncode == 0 and error_lines(stderr) == []
    assert stdout.count("about 03:40 left") == 2
    cells = executed_notebook(tmp_path)["cells"][-3:]
    texts = [[output["text"] for output in cell["outputs"]] for cell in cells]
    assert texts == [[["kept: 3 of 4 taxa\n"]], [], []]


# --- failures

RAISE_STUDY_ERROR = """
from plankton_study.run.errors import StudyError
raise StudyError('no folder x: put it there')
"""


def test_a_study_error_is_one_line(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tiny.ipynb").write_text("out of date")
    run = start(RAISE_STUDY_ERROR, "print('never')")
    stdout, stderr = run.communicate()
    assert run.returncode == 1
    assert error_lines(stderr) == ["error: no folder x: put it there"]
    assert "Traceback" not in stdout and "never" not in stdout
    assert outputs(tmp_path) == ["tiny.failed.ipynb"]


def test_another_error_shows_the_cell_and_its_traceback(start, tmp_path):
    run = start("x = 0", "1 / x")
    _, stderr = run.communicate()
    assert run.returncode == 1
    assert error_lines(stderr)[0].startswith("error: tiny.ipynb failed in cell [4]")
    assert "----> 1 1 / x" in stderr
    assert "ZeroDivisionError: division by zero" in stderr
    assert "notebooks/execute.py" not in stderr  # the runner's own frames help nobody
    assert outputs(tmp_path) == ["tiny.failed.ipynb"]


def test_a_dead_kernel_is_said(start, tmp_path):
    run = start("import os; os._exit(9)")
    _, stderr = run.communicate()
    assert run.returncode == 1
    assert "error: the kernel of tiny.ipynb died" in stderr
    assert outputs(tmp_path) == ["tiny.failed.ipynb"]


def test_a_missing_notebook_is_said(tmp_path):
    command = [sys.executable, RUNNER, "none.ipynb", "out/none.ipynb"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (1, "error: there is no notebook none.ipynb\n")
    assert not (tmp_path / "out").exists()


# --- runs that are killed or interrupted

ENDLESS = """
import os, time
open('kernel', 'w').write(str(os.getpid()))
while True:
    time.sleep(0.1)
"""


def is_running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_sigkill_leaves_no_output_and_no_kernel(start, tmp_path):
    run = start("x = 1", ENDLESS)
    kernel = int(wait_for_text(tmp_path / "kernel"))
    run.kill()
    run.communicate()
    assert "tiny.ipynb" not in outputs(tmp_path)
    for _ in range(100):  # the kernel looks for its parent once a second
        if not is_running(kernel):
            break
        time.sleep(0.1)
    else:
        psutil.Process(kernel).kill()
        pytest.fail("the kernel outlived its runner")
    run = start("x = 1")  # the same command starts from a clean slate
    _, stderr = run.communicate()
    assert error_lines(stderr) == []
    assert outputs(tmp_path) == ["tiny.ipynb"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_one_line(start, tmp_path, number):
    run = start(ENDLESS)
    wait_for_text(tmp_path / "kernel")
    run.send_signal(number)
    _, stderr = run.communicate()
    assert run.returncode == 130
    assert stderr == "interrupted; finished parts are kept, run the same command again\n"
    assert "tiny.ipynb" not in outputs(tmp_path)
