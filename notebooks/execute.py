"""Execute one notebook with papermill; its output appears complete or not at all.

python notebooks/execute.py SOURCE OUTPUT --profile demo --seed 0
"""

import argparse
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

KERNEL_OPTIONS = ["--log-level=CRITICAL"]  # no hints, and no messages on interruption
#: the lines printed by plankton_study.run.progress
PROGRESS_LINE = re.compile(r"^.*: [\d,]+ of [\d,]+, about \S+ left\n", re.MULTILINE)
INTERRUPTED = 130  # exit status


def execute(notebook: Path, output: Path, profile: str, seed: int) -> None:
    """Run a notebook in a fresh kernel and write the executed copy.

    The kernel runs in the caller's folder. papermill saves after each cell, even if one
    fails. So it writes to a temporary name, which becomes `output` at the end, or
    `*.failed.ipynb` if a cell raised an error.

    Args:
        notebook: the notebook; its parameters `profile` and `seed` are set.
        output: path of the executed copy.
        profile: name or path of the profile.
        seed: the training seed.

    Raises:
        papermill.PapermillExecutionError: a cell raised an error.
    """
    import nbformat
    import papermill

    partial = output.with_name(f".{output.stem}.partial.ipynb")
    failed = output.with_suffix(".failed.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    partial.unlink(missing_ok=True)
    try:
        executed = papermill.execute_notebook(
            notebook,
            partial,
            parameters={"profile": profile, "seed": seed},
            kernel_name="python3",
            progress_bar=False,  # the progress bars inside cells are more informative
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            extra_arguments=KERNEL_OPTIONS,
        )
        remove_progress_lines(executed)
        # results must not contain paths of this machine
        executed.metadata.papermill.update(
            input_path=os.path.relpath(notebook), output_path=os.path.relpath(output)
        )
        if "PLANKTON_REVISION" in os.environ:  # set by make
            about = executed.metadata.setdefault("plankton_study", {})
            about["revision"] = os.environ["PLANKTON_REVISION"] or None
        nbformat.write(executed, partial)
        os.replace(partial, output)
        failed.unlink(missing_ok=True)
    except BaseException:
        if partial.exists():
            os.replace(partial, failed)
        raise


def remove_progress_lines(book: Any) -> None:
    """Remove progress lines from outputs, and outputs that are then empty."""
    for cell in book.cells:
        if "outputs" not in cell:
            continue
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = PROGRESS_LINE.sub("", output.text)
        cell.outputs = [output for output in cell.outputs if not _is_blank(output)]


def _is_blank(output: Any) -> bool:
    return output.output_type == "stream" and not output.text.strip()


def explain_failure(error: Any, notebook: Path) -> str:
    """Return the message for a failed cell.

    It is one sentence for a StudyError, and a traceback for other errors.
    """
    if error.ename == "StudyError":
        return f"error: {error.evalue}"
    traceback = str(error) if error.traceback else f"{error.ename}: {error.evalue}"
    return f"error: {notebook} failed in cell [{error.exec_count}]{traceback}"


def interrupt(*_: object) -> None:
    """Handle SIGINT and SIGTERM: print one line, then silence stderr.

    The kernel would print more messages while it shuts down.
    """
    message = "interrupted; finished parts are kept, run the same command again"
    print(message, file=sys.stderr, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise KeyboardInterrupt


def set_up_environment() -> None:
    """Set what libraries read when they are imported, here and in the kernel."""
    threads = os.environ.get("PLANKTON_THREADS")
    if threads:  # NumPy reads it only once, when a notebook imports it
        os.environ.setdefault("OMP_NUM_THREADS", threads)
    # progress bars use no widgets
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    # an optional part of jsonschema that takes 1.5 s to import
    sys.modules.setdefault("rfc3987_syntax", None)


def main(arguments: list[str] | None = None) -> int:
    """Execute the notebook given on the command line; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    notebook = options.notebook
    if not notebook.is_file():
        print(f"error: there is no notebook {notebook}", file=sys.stderr)
        return 1
    set_up_environment()
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)

    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    started = time.monotonic()
    name = notebook.stem
    print(
        f"{name}: running (profile {options.profile}, seed {options.seed})", flush=True
    )
    try:
        execute(notebook, options.output, options.profile, options.seed)
    except PapermillExecutionError as error:
        print(explain_failure(error, notebook), file=sys.stderr)
        return 1
    except DeadKernelError:
        message = (
            f"error: the kernel of {notebook} died, probably because memory ran out"
        )
        print(message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    print(f"{name}: done in {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
