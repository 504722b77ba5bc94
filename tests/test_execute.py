"""The runner, with a real kernel: an executed notebook appears whole or not at all."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

RUNNER = str(Path(__file__).resolve().parent.parent / "notebooks" / "execute.py")
PARAMETERS = new_code_cell("profile = None\nseed = None", metadata={"tags": ["parameters"]})


@pytest.fixture
def start(tmp_path):
    """Write a notebook of the given cells and start the runner on it, in its own folder."""

    def start(*cells: str) -> subprocess.Popen:
        notebook = new_notebook(cells=[PARAMETERS, *map(new_code_cell, cells)])
        notebook.metadata.kernelspec = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(notebook, tmp_path / "tiny.ipynb")
        command = [sys.executable, RUNNER, "tiny.ipynb", "out/tiny.ipynb"]
        return subprocess.Popen(
            [*command, "--profile", "smoke", "--seed", "3"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


def said(err: str) -> list[str]:
    """The lines of the standard error, without the one libzmq may leave when a kernel is being stopped."""
    return [line for line in err.splitlines() if "signaler.cpp" not in line]


def wait_for(path: Path) -> str:
    """What a running cell has written to a file."""
    for _ in range(600):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear within a minute")


def test_success_writes_the_executed_copy_and_forwards_prints(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tiny.failed.ipynb").write_text("left by an earlier failure")
    out, err = (
        run := start("print('seen', profile, seed)", "import os; print(os.getcwd())")
    ).communicate()
    assert run.returncode == 0, err
    lines = out.splitlines()
    assert lines[0] == "tiny: running (profile smoke, seed 3)"
    assert lines[1:3] == ["seen smoke 3", str(tmp_path)]
    assert lines[-1].startswith("tiny: done in ")
    assert said(err) == []
    assert outputs(tmp_path) == ["tiny.ipynb"]
    executed = json.loads((tmp_path / "out/tiny.ipynb").read_text())
    assert executed["metadata"]["papermill"]["parameters"] == {"profile": "smoke", "seed": 3}
    assert executed["metadata"]["papermill"]["output_path"] == "out/tiny.ipynb"
    assert str(tmp_path) not in json.dumps(executed["metadata"])


def test_the_executed_copy_forgets_how_far_a_cell_was(start, tmp_path):
    bar = r"\rfeatures of a set: 1,234 of 87,792, about 03:40 left"
    cells = f"print('{bar}\\nkept: 3 of 4 taxa')", f"print('{bar}\\n')", "import tqdm.auto"
    out, err = (run := start(*cells)).communicate()
    assert run.returncode == 0 and out.count("about 03:40 left") == 2 and said(err) == []
    cells = json.loads((tmp_path / "out/tiny.ipynb").read_text())["cells"]
    stored = [[output["text"] for output in cell.get("outputs", ())] for cell in cells[-3:]]
    assert stored == [[["kept: 3 of 4 taxa\n"]], [], []]


def test_a_study_error_is_one_line(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tiny.ipynb").write_text("out of date")
    cell = (
        "from plankton_study.study import StudyError\nraise StudyError('no folder x: put it there')"
    )
    out, err = (run := start(cell, "print('never')")).communicate()
    assert run.returncode == 1
    assert said(err) == ["error: no folder x: put it there"]
    assert "Traceback" not in out
    assert outputs(tmp_path) == ["tiny.failed.ipynb"]


def test_another_error_shows_the_cell_and_its_traceback(start, tmp_path):
    err = (run := start("x = 0", "1 / x")).communicate()[1]
    assert run.returncode == 1
    assert said(err)[0].startswith("error: tiny.ipynb failed in cell [4]")
    assert "----> 1 1 / x" in err
    assert "ZeroDivisionError: division by zero" in err
    assert "notebooks/execute.py" not in err  # the runner's own frames help nobody
    assert outputs(tmp_path) == ["tiny.failed.ipynb"]


def test_a_dead_kernel_and_a_missing_notebook_are_said(start, tmp_path):
    err = (run := start("import os; os._exit(9)")).communicate()[1]
    assert run.returncode == 1
    assert "error: the kernel of tiny.ipynb died" in err
    command = [sys.executable, RUNNER, "none.ipynb", "out/none.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: there is no notebook none.ipynb\n")
    assert outputs(tmp_path) == ["tiny.failed.ipynb"]


ENDLESS = (
    "import os, time\nopen('kernel', 'w').write(str(os.getpid()))\nwhile True: time.sleep(0.1)"
)


def test_sigkill_leaves_no_output_and_no_kernel(start, tmp_path):
    run = start("x = 1", ENDLESS)
    kernel = int(wait_for(tmp_path / "kernel"))
    run.kill()
    run.communicate()
    assert "tiny.ipynb" not in outputs(tmp_path)
    for _ in range(100):  # the kernel looks for its parent once a second
        if not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        psutil.Process(kernel).kill()
        pytest.fail("the kernel outlived its runner")
    run = start("x = 1")  # the same command again starts from a clean slate
    assert run.communicate()[1] == ""
    assert outputs(tmp_path) == ["tiny.ipynb"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_one_line(start, tmp_path, number):
    run = start(ENDLESS)
    wait_for(tmp_path / "kernel")
    run.send_signal(number)
    err = run.communicate()[1]
    assert run.returncode == 130
    assert err == "interrupted; finished parts are kept, run the same command again\n"
    assert "tiny.ipynb" not in outputs(tmp_path)
