"""Execute one notebook with papermill so that its output appears whole or not at all.

python notebooks/execute.py notebooks/01_data.ipynb paper/results/demo/notebooks/01_data.ipynb --profile demo
"""

import argparse
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any


def execute(notebook: Path, output: Path, profile: str, seed: int) -> None:
    """Run a notebook's cells in a fresh kernel, in the caller's folder, and write the executed copy.

    papermill saves after each cell, and also when one fails: so it writes to a partial name, which becomes
    `output` at the end, or `*.failed.ipynb` if a cell raised.

    Args:
        notebook: the notebook; only its parameters `profile` and `seed` are set.
        output: where the executed copy goes.
        profile: name or path of the profile.
        seed: the training seed.

    Raises:
        papermill.PapermillExecutionError: a cell raised.
    """
    import nbformat
    import papermill

    partial, failed = output.with_name(f".{output.stem}.partial.ipynb"), output.with_suffix(".failed.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    partial.unlink(missing_ok=True)
    try:
        executed = papermill.execute_notebook(
            notebook,
            partial,
            parameters={"profile": profile, "seed": seed},
            kernel_name="python3",
            progress_bar=False,  # a cell's own bars say more than a count of cells
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=CRITICAL"],  # of the kernel: no advice, no last words when interrupted
        )
        _forget_progress(executed)
        # paths of this machine do not belong into a result
        executed.metadata.papermill.update(input_path=os.path.relpath(notebook), output_path=os.path.relpath(output))
        nbformat.write(executed, partial)
        os.replace(partial, output)
        failed.unlink(missing_ok=True)
    except BaseException:
        if partial.exists():
            os.replace(partial, failed)
        raise


def _forget_progress(book: Any) -> None:
    """Leave out of an executed notebook the lines that only told a waiting reader how far it was."""
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = re.sub(r"^.*: [\d,]+ of [\d,]+, about \S+ left\n", "", output.text, flags=re.M)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text", "some").strip()]


def explain(error: Any, notebook: Path) -> str:
    """Return what to print of a failed cell: one sentence for a StudyError, else its traceback."""
    if error.ename == "StudyError":
        return f"error: {error.evalue}"
    traceback = str(error) if error.traceback else f"{error.ename}: {error.evalue}"
    return f"error: {notebook} failed in cell [{error.exec_count}]{traceback}"


def interrupt(*_: object) -> None:
    """Answer Ctrl-C and a polite kill: one line, then silence while the kernel is shut down."""
    print("interrupted; finished parts are kept, run the same command again", file=sys.stderr, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Execute the notebook that the command line names; the answer is an exit status."""
    parser = argparse.ArgumentParser(prog="python notebooks/execute.py", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if not args.notebook.is_file():
        print(f"error: there is no notebook {args.notebook}", file=sys.stderr)
        return 1
    if threads := os.environ.get("PLANKTON_THREADS"):  # NumPy asks once, when a notebook imports it
        os.environ.setdefault("OMP_NUM_THREADS", threads)
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # no widgets are drawn
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)

    sys.modules.setdefault("rfc3987_syntax", None)  # an optional part of jsonschema: 1.5 s to import
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    start = time.monotonic()
    name = args.notebook.stem
    print(f"{name}: running (profile {args.profile}, seed {args.seed})", flush=True)
    try:
        execute(args.notebook, args.output, args.profile, args.seed)
    except PapermillExecutionError as error:
        print(explain(error, args.notebook), file=sys.stderr)
        return 1
    except DeadKernelError:
        print(f"error: the kernel of {args.notebook} died, most likely for want of memory", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{name}: done in {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
