"""`make bench`: measure, compare, and write the table, the figure and the README's section on speed."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECTIONS = ("extraction", "probing", "training", "scale")
START, END = "<!-- bench -->", "<!-- /bench -->"


def run(section: str) -> list[dict]:
    """Measure a section in a process of its own."""
    code = f"import json, sys; sys.path.insert(0, {str(HERE)!r}); import {section}; "
    code += f"json.dump({section}.measure(), open(sys.argv[1], 'w'), default=float)"
    to = HERE / f".{section}.json"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(to)], check=True, stdout=subprocess.DEVNULL
    )
    rows = json.loads(to.read_text())
    to.unlink()
    return rows


def shown(table):
    """Return the table as text, a column each for what, value, range, aim and whether it is met."""
    import pandas as pd

    spread = [f"{r.low:.3g} to {r.high:.3g}" if r.low != r.high else "" for r in table.itertuples()]
    met = table["met"].map({True: "yes", False: "no"}).fillna("")
    number = [
        f"{r.median:,.0f}" if r.median >= 1000 else f"{r.median:.3g}" for r in table.itertuples()
    ]
    value = [f"{text} {unit}".strip() for text, unit in zip(number, table["unit"], strict=True)]
    columns = {
        "": table["section"],
        "compared": table["what"],
        "median": value,
        "range": spread,
        "aim": table["aim"],
    }
    return pd.DataFrame({**columns, "met": met})


def figure(table, about, file: Path) -> None:
    """Draw the ratios, and time and memory over the number of images."""
    import matplotlib.pyplot as plt

    from plankton_study import report

    report.style()
    ratios = table[(table["unit"] == "×") & (table["section"] != "scale")]
    scales = {what.partition(",")[0]: a for what, a in about.items() if "numbers" in a}
    drawn, (left, middle, right) = plt.subplots(
        1, 3, figsize=(10, 3.2), width_ratios=[1.5, 1, 1], layout="constrained"
    )
    left.barh(ratios["what"], ratios["median"], color="C0")
    left.errorbar(
        ratios["median"],
        ratios["what"],
        xerr=[ratios["median"] - ratios["low"], ratios["high"] - ratios["median"]],
        fmt="none",
        color="black",
    )
    left.set(xscale="log", xlabel="ratio of times or rates")
    left.axvline(1, color="0.5", linewidth=0.8)
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=6)
    for name, one in scales.items():
        times = [n / one["numbers"][0] for n in one["numbers"]]
        middle.plot(times, [x / one["seconds"][0] for x in one["seconds"]], ".-", label=name)
        right.plot(times, one["megabytes"], ".-", label=name)
    middle.plot([1, 16], [1, 16], color="0.6", linewidth=0.8, label="linear")
    middle.set(xscale="log", yscale="log", xlabel="times as many images", ylabel="times as long")
    right.set(
        xscale="log",
        ylim=(0, None),
        xlabel="times as many images",
        ylabel="peak memory of the process (MB)",
    )
    middle.legend(frameon=False, fontsize=6)
    drawn.savefig(file, dpi=120, metadata={"Software": None})


def main() -> None:
    """Run all sections, or those named as arguments."""
    sections, started = sys.argv[1:] or SECTIONS, time.monotonic()
    rows = []
    for section in sections:
        print(f"{section} …", flush=True)
        rows += run(section)
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
    sys.path.append(str(ROOT / "paper"))
    import archive
    import pandas as pd
    from pages import markdown_table

    from plankton_study import report, study

    s = study.load("quick", 0)
    kind = "cpu" if s.device == "cpu" else "gpu"
    table = pd.DataFrame(rows)
    about = {r["what"]: r["about"] for r in rows if "about" in r}
    text = shown(table)
    print(text.to_string(index=False))
    if len(sections) < len(SECTIONS):
        return
    table.drop(columns="about").to_csv(HERE / f"{kind}.csv", index=False)
    entry = {
        "about": about,
        "provenance": report.provenance(s),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    (HERE / f"{kind}.json").write_text(json.dumps(entry, indent=1, sort_keys=True) + "\n")
    figure(table, about, HERE / f"{kind}.png")
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    facts = f"{s.threads} threads, {entry['provenance']['processor']}, {os.uname().sysname}"
    new = f"{START}\n\nMeasured with {facts}; medians and range of the rounds.\n\n{markdown_table(text)}\n\n"
    new += f"**{archive.IMAGES:,} images**, as many as all of WHOI-Plankton, would cost here, by these rates:\n\n"
    new += f"{markdown_table(archive.costs(about))}\n\n{END}"
    readme.write_text(re.sub(f"{START}.*{END}", lambda _: new, old, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    main()
