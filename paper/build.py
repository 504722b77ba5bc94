"""What is made of stored results: python paper/build.py pdf|publish|compare|site PROFILE.

The PDF; the published copy of a finished run, with its cards and the README's section; whether a live run agrees with
the published one; static pages.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from pathlib import Path

import compare as comparison
import nbformat
import pages
import pandas as pd
import typst
from compare import AGAIN, read_table
from PIL import Image

from plankton_study import report
from plankton_study.profile import ROOT, StudyError

# over all seeds
JOINED = {"table": ("ledger", "seeds"), "number": ("ledger_summary", "ledger_seeds", "ledger_verdicts")}


def stored(name: str) -> Path:
    """Return the folder of a profile's results: live ones if there are any, else the published ones."""
    for kind in ("results", "published"):
        folder = ROOT / "paper" / kind / name
        if (folder / "figures").is_dir():  # of other seeds than 0 none are published
            return folder
    raise StudyError(f"there are no results {name!r}: {AGAIN}")


def pdf(name: str) -> Path:
    """Typeset the manuscript from a profile's stored results, in seconds; return the PDF's path.

    Raises:
        StudyError: a result that the manuscript cites is missing.
    """
    return _typeset(stored(name), name)


def _typeset(folder: Path, name: str) -> Path:
    where = "/" + folder.relative_to(ROOT).as_posix()
    facts = {"results": where, "state": folder.parent.name, "profile": name}
    if folder.parent.name == "published" and (ROOT / "paper" / f"reading_{name}.typ").is_file():
        facts["reading"] = f"reading_{name}.typ"  # its words are those of one run; another is read by its ledger alone
    try:
        content = typst.compile(ROOT / "paper" / "paper.typ", root=ROOT, sys_inputs=facts)
    except typst.TypstError as error:
        raise StudyError(f"the PDF cannot be typeset from {folder}: {str(error).splitlines()[0]}") from None
    beside = folder / ".paper.pdf"
    beside.write_bytes(content)
    return beside.replace(folder / "paper.pdf")


def publish(name: str) -> Path:
    """Copy a finished, complete run to paper/published/; return the folder.

    Of another seed than 0 only tables and numbers are copied. If it joins a published seed 0, the ledger there becomes
    that of both, so that seeds may be run in any order, on any day and machine.

    Raises:
        StudyError: a cited result is missing or belongs to another run, or a notebook has not been executed.
    """
    live = ROOT / "paper" / "results" / name
    if not (live / "paper.pdf").is_file():
        raise StudyError(f"{live} holds no finished run: {AGAIN}")
    books = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    if unrun := sorted(books - {path.stem for path in (live / "notebooks").glob("*.ipynb")}):
        raise StudyError(f"{live} lacks the executed notebooks {', '.join(unrun)}: {AGAIN}")
    made = {}
    for kind, result in report.cited():
        path = live / "provenance" / f"{kind}_{result}.json"
        if not path.is_file():
            raise StudyError(f"{live} lacks the {kind} {result}: {AGAIN}")
        made[_run(path)] = result
    if len(made) > 1:
        raise StudyError(
            f"{live} mixes results of {len(made)} runs ({', '.join(made.values())}): `make clean`, then {AGAIN}"
        )
    ((config, own, _, dirty),) = made
    if dirty:
        raise StudyError(f"{live} was made with changes that no commit holds: commit them, `make clean`, then {AGAIN}")
    origin = pd.read_csv(live / "tables" / "origin.csv", dtype=str).set_index("what")["value"]
    for path in (ROOT / "paper" / "published").glob("*/provenance/table_claims.json"):
        theirs, seed, *_ = _run(path)
        if theirs == config and f"seed {seed}" not in origin:
            other, old = path.parents[1].name, live / "notebooks" / "10_claims.ipynb"
            raise StudyError(f"{live} does not join {other}, which is published: remove {old}, then {AGAIN}")
    for seed in (key for key, kind in origin.items() if re.fullmatch(r"seed \d+", key) and kind.startswith("results")):
        if seed != f"seed {own}":
            raise StudyError(f"{live} joins {seed}, which is not published: publish that first, then {AGAIN}")
    target = ROOT / "paper" / "published" / name
    beside = target.with_name(f".{name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    other_seed = own != 0
    bulk = ("figures", "notebooks") if other_seed else ()
    shutil.copytree(live, beside, ignore=shutil.ignore_patterns(".*", "*.failed.ipynb", "paper.pdf", *bulk))
    for path in beside.glob("provenance/*.json"):  # what an earlier revision made and this one no longer does
        if _run(path) not in made:
            kind, _, result = path.stem.partition("_")
            for old in [*beside.glob(f"{kind}s/{result}.*"), path]:
                old.unlink()
    _shrink(beside)
    shutil.rmtree(target, ignore_errors=True)
    beside.replace(target)
    if not other_seed:
        _present(target)
    elif origin.get("seed 0", "").startswith("published"):
        _present(_with_ledger_of(live, target.with_name(name.removesuffix(f"-seed{own}"))))
    return target


def _run(provenance: Path) -> tuple:
    """Return what the results of one run have in common."""
    facts = json.loads(provenance.read_text(encoding="utf-8"))["provenance"]
    return facts["config"], facts["seed"], facts["revision"], facts["dirty"]


def _with_ledger_of(live: Path, main: Path) -> Path:
    """Put what a run of another seed joined over all seeds into the published run of seed 0; return that."""
    rows = [read_table(folder / "tables" / "origin.csv") for folder in (main, live)]
    for kind, names in JOINED.items():
        for name in names:
            for path in [*live.glob(f"{kind}s/{name}.*"), live / "provenance" / f"{kind}_{name}.json"]:
                shutil.copy(path, main / path.relative_to(live))
    shutil.copy(live / "notebooks" / "10_claims.ipynb", main / "notebooks")
    _shrink(main)
    of_seed = [table["what"].str.fullmatch(r"seed \d+") for table in rows]
    origin = pd.concat([rows[0][~of_seed[0]], rows[1][of_seed[1]]])
    origin.to_csv(main / "tables" / "origin.csv", index=False, lineterminator="\n")
    origin.to_latex(main / "tables" / "origin.tex", index=False, escape=True)
    return main


def _present(published: Path) -> None:
    """Make anew what speaks of a published run: its cards, its PDF, the README's section."""
    for card in pages.CARDS:
        (published / f"{card}.md").write_text(pages.card(published, card), encoding="utf-8")
    _typeset(published, published.name)  # anew: the live PDF says that it is not published
    readme = ROOT / "README.md"
    readme.write_text(_with_results(readme.read_text(encoding="utf-8"), published.name), encoding="utf-8")


def _shrink(folder: Path) -> None:
    """Give every PNG a palette of 256 colours, which no eye sees; leave this machine's paths out of notebooks."""
    for path in (folder / "figures").glob("*.png"):
        path.write_bytes(_with_palette(path.read_bytes()))
    for path in (folder / "notebooks").glob("*.ipynb"):
        book = nbformat.read(path, 4)
        for output in (output for cell in book.cells for output in cell.get("outputs", ())):
            if png := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = base64.b64encode(_with_palette(base64.b64decode(png))).decode()
        text = nbformat.writes(book)
        for place in (ROOT, Path(sys.prefix).parent):  # of this machine
            text = text.replace(f"{place}/", "")
        path.write_text(text + "\n", encoding="utf-8")


def _with_palette(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        if image.mode == "P":  # has one: chosen again, colours would drift with every publishing
            return png
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(content := io.BytesIO(), "PNG", optimize=True)
    return min(content.getvalue(), png, key=len)


def _with_results(readme: str, name: str) -> str:
    """Return the README with its section on results, if it is of this published profile, made anew."""
    start, end = f"<!-- results: {name} -->", "<!-- /results -->"
    return re.sub(f"{start}.*?{end}", lambda _: f"{start}\n\n{results_section(name)}\n\n{end}", readme, flags=re.S)


def results_section(name: str) -> str:
    """Return what the README says of a published run: its main figure and its main table."""
    folder = ROOT / "paper" / "published" / name
    numbers = {p.stem: json.loads(p.read_text(encoding="utf-8"))["text"] for p in (folder / "numbers").glob("*.json")}
    seen = pages.caption(folder, "figure", "layers_and_noise")
    drawn = "drawn organisms, no finding; " if pages.synthetic(folder) else ""
    banner = f" {report.SYNTHETIC.capitalize()}: no finding." if pages.synthetic(folder) else ""
    both = []
    for setting in ("balanced", "natural"):
        table = read_table(folder / "tables" / f"{setting}.csv")
        table = table[table["head"] == "linear"].set_index(["encoder", "learnt from"])
        both.append(table["macro-F1 (%)"].rename(f"macro-F1, {setting} classes (%)"))
    table = pd.concat(both, axis=1).reset_index()
    others = ""
    if numbers["ledger_seeds"] != "one training seed":
        others = f"; beside it mean, least and most of {numbers['ledger_seeds']}"
        seeds = read_table(folder / "tables" / "seeds.csv").set_index("encoder")
        for setting in ("balanced", "natural"):
            table[f"{setting}, {numbers['ledger_seeds']}"] = table["encoder"].map(seeds[f"{setting} (%)"])
    runs = [folder, *sorted(folder.parent.glob(f"{name}-seed*"))]
    gains = "; ".join(pages.stored_number(run, "macro_f1_over_random")["text"] for run in runs)
    home = read_table(folder / "tables" / "splits.csv").iloc[0]
    over = "days or samples" if home["groups"] else "images (optimistic, since no day or sample is known)"
    ledger = read_table(folder / "tables" / "ledger.csv")[["claim", "statistic (95 %)", "by the rule"]]
    says = ledger.set_index("claim")["statistic (95 %)"]
    return f"""![{seen}](paper/published/{name}/figures/layers_and_noise.png)

*{seen} Rows are layers in order of execution, each with all its features. Ridge only ranks them: the
reported probes are logistic, and score higher.{banner}*

Published run: {numbers["run_size"]}; {drawn}{pages.cost(folder)}.
Linear probes on test images of {home["set"]}, training seed 0{others}.
95 % intervals are over {over}, without the chance of training. Each
encoder's layer (and timestep) was chosen on validation images. "Balanced" means equally many labels of each taxon; test
images keep their natural proportions. Balanced and natural columns are over different taxa
({numbers["balanced_taxa"]} and {numbers["taxa"]}): do not compare across. Macro-F1 is the mean of F1 over taxa.

{pages.markdown_table(table)}

In short, diffusion minus others in points of macro-F1, over {numbers["ledger_seeds"]}:

- the supervised encoder that is best on validation images: {says["competitive with supervised (balanced)"]} with
  balanced classes, {says["competitive with supervised (natural)"]} with natural ones;
- self-supervised ones: {says["better than self-supervised (balanced)"]} with balanced classes,
  {says["better than self-supervised (natural)"]} with natural ones;
- the same network with random weights, each seed by itself: {gains} with natural
  classes.

<details><summary>What the paper claims, and what the rules say of {numbers["ledger_seeds"]}:
{numbers["ledger_summary"]}</summary>

{pages.markdown_table(ledger)}

The claims are those of the paper; rows with an arrow, from one set to another, are ours. Competitive means
within 3 points of macro-F1. "By the rule" is what the rule alone says; a verdict needs real images, three training
seeds and, about maps, images of 64 px; passed here: {numbers["ledger_verdicts"]}. A claim may also be met because
every encoder fails, as may happen between instruments. Maps are compared on {home["set"]}, all cut to equal width.
Intervals are uncorrected, words are after Holm's correction; over several seeds both hold the chance of training as
well, with few seeds not all of it (see the PDF).
The rules, and what this means, stand in the [PDF](paper/published/{name}/paper.pdf).

</details>"""


def site(name: str) -> Path:
    """Write a profile's stored results as static pages to paper/site/; return the front page."""
    return pages.build(stored(name), ROOT / "paper" / "site")


def compare(name: str) -> str:
    """Return which published numbers a live run does not give again.

    Raises:
        StudyError: there is nothing to compare, or a number does not hold.
    """
    published, live = (ROOT / "paper" / kind / name for kind in ("published", "results"))
    table = comparison.agreement(published, live)
    text = comparison.summary(table)
    if table["verdict"].isin(comparison.JUDGED).any():
        raise StudyError(text)
    return text


def main(arguments: list[str]) -> int:
    """Run `python paper/build.py ACTION NAME`."""
    actions = {"pdf": pdf, "publish": publish, "compare": compare, "site": site}
    if len(arguments) != 2 or arguments[0] not in actions:
        print(f"usage: python paper/build.py {'|'.join(actions)} PROFILE", file=sys.stderr)
        return 2
    try:
        done = actions[arguments[0]](arguments[1])
        print(done.relative_to(ROOT) if isinstance(done, Path) else done)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
