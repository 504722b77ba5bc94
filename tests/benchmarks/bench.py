"""`make bench`: measure all sections, and write the results beside this file.

`python bench.py SECTION …` measures some sections, and renews only their results.
"""

import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from archive import IMAGES, archive_costs
from matplotlib.axes import Axes
from scale import costs_of_stages

from plankton_study.report.provenance import provenance
from plankton_study.report.style import set_style
from plankton_study.run.files import read_json, write_file, write_json
from plankton_study.run.study import Study, load_study

HERE = Path(__file__).resolve().parent
PAPER = HERE.parents[1] / "paper"
README = HERE / "README.md"
START, END = "<!-- bench -->", "<!-- /bench -->"
SECTIONS = ("extraction", "probing", "training", "quality", "scale")

#: measures one section; its arguments are this folder, the section, and the file of the rows
MEASURE = """
import importlib, json, pathlib, sys
folder, section, file = sys.argv[1:]
sys.path.insert(0, folder)
rows = importlib.import_module(section).measure()
pathlib.Path(file).write_text(json.dumps(rows, default=float))
"""


def main(sections: tuple[str, ...]) -> None:
    """Measure some sections, and write the results."""
    started = time.monotonic()
    rows = []
    for section in sections:
        print(f"{section} …", flush=True)
        rows += measure_in_process(section)
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
    minutes = (time.monotonic() - started) / 60
    about = {row["what"]: row["about"] for row in rows if "about" in row}
    table = pd.DataFrame(rows).drop(columns="about", errors="ignore")
    print(texts_of(table).to_string(index=False))
    study = load_study("quick", 0)
    if set(sections) != set(SECTIONS):
        table, about = with_other_sections(table, about, kind_of(study))
    write_results(study, table, about, minutes)


def with_other_sections(
    table: pd.DataFrame, about: dict[str, dict], kind: str
) -> tuple[pd.DataFrame, dict[str, dict]]:
    """Return new results with the stored ones of the sections that were not measured.

    Args:
        table: a row for each new result.
        about: text of a row → what its section knows about it.
        kind: "cpu" or "gpu".
    """
    stored = pd.read_csv(HERE / f"{kind}.csv").fillna({"aim": "", "unit": ""})
    others = stored[~stored["section"].isin(table["section"])]
    joined = pd.concat([others, table])
    order = {section: place for place, section in enumerate(stored["section"].unique())}
    joined = joined.sort_values("section", key=lambda names: names.map(order), kind="stable")
    return joined.reset_index(drop=True), read_json(HERE / f"{kind}.json")["about"] | about


def kind_of(study: Study) -> str:
    """Return the stem of the files with the results of this machine."""
    return "cpu" if study.device == "cpu" else "gpu"


def measure_in_process(section: str) -> list[dict]:
    """Measure a section in a process of its own, and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        arguments = [str(HERE), section, str(file)]
        command = [sys.executable, "-W", "ignore", "-c", MEASURE, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_json(file)


def write_results(
    study: Study, table: pd.DataFrame, about: dict[str, dict], minutes: float
) -> None:
    """Write the rows, what is known about them, the figure and the README.

    Args:
        study: whose machine was measured.
        table: a row for each result.
        about: text of a row → what its section knows about it.
        minutes: that the measurement took.
    """
    kind = kind_of(study)
    table.to_csv(HERE / f"{kind}.csv", index=False)
    origin = provenance(study)
    entry = {"about": about, "provenance": origin, "minutes": round(minutes, 1)}
    write_json(HERE / f"{kind}.json", entry)
    draw_figure(table, about, HERE / f"{kind}.png")
    machine = f"{study.threads} threads, {origin['processor']}, {platform.system()}"
    report = report_text(table, about, machine, f"{kind}.png")
    write_file(README, with_report(README.read_text(encoding="utf-8"), report))


# --- the tables


def texts_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the results as readable text."""
    rows = list(table.itertuples())
    return pd.DataFrame(
        {
            "": table["section"],
            "compared": table["what"],
            "median": [f"{number_text(row.median)} {row.unit}".strip() for row in rows],
            "range": [range_text(row.low, row.high) for row in rows],
            "aim": table["aim"],
            "met": table["met"].map({True: "yes", False: "no"}).fillna(""),
        }
    )


def number_text(value: float) -> str:
    """Return a number with three significant digits, or whole if it is large."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def range_text(low: float, high: float) -> str:
    """Return a range; nothing for a single value."""
    if low == high:
        return ""
    return f"{low:.3g} to {high:.3g}"


def report_text(table: pd.DataFrame, about: dict[str, dict], machine: str, figure: str) -> str:
    """Return the tables and the figure in Markdown."""
    sys.path.append(str(PAPER))
    from pages import markdown_table

    paragraphs = (
        f"Measured with {machine}; medians and range of the rounds.",
        markdown_table(texts_of(table)),
        f"**{IMAGES:,} images**, as many as all of WHOI-Plankton, would cost here, by these rates:",
        markdown_table(archive_costs(about)),
        f"![Ratios, and time and memory over the number of images]({figure})",
    )
    return "\n\n".join(paragraphs)


def with_report(text: str, report: str) -> str:
    """Return a text with the report between its markers."""
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the text has no markers {START} and {END}")
    return f"{before}{START}\n\n{report}\n\n{END}{after}"


# --- the figure


def draw_figure(table: pd.DataFrame, about: dict[str, dict], file: Path) -> None:
    """Draw the ratios, and time and memory over the number of images."""
    set_style()
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(10, 3.2), width_ratios=[1.5, 1, 1], layout="constrained"
    )
    is_ratio = (table["unit"] == "×") & (table["section"] != "scale")
    draw_ratios(left, table[is_ratio])
    stages = costs_of_stages(about)
    draw_seconds(middle, stages)
    draw_memory(right, stages)
    figure.savefig(file, dpi=120, metadata={"Software": None})
    plt.close(figure)


def draw_ratios(ax: Axes, ratios: pd.DataFrame) -> None:
    """Draw medians and ranges of ratios."""
    ax.barh(ratios["what"], ratios["median"], color="C0")
    below = ratios["median"] - ratios["low"]
    above = ratios["high"] - ratios["median"]
    ax.errorbar(ratios["median"], ratios["what"], xerr=[below, above], fmt="none", color="black")
    ax.set(xscale="log", xlabel="ratio of times or rates")
    ax.axvline(1, color="0.5", linewidth=0.8)
    ax.invert_yaxis()
    ax.tick_params(axis="y", labelsize=6)


def draw_seconds(ax: Axes, stages: dict[str, dict]) -> None:
    """Draw the time of each stage over the number of images, both over their smallest."""
    for name, stage in stages.items():
        seconds = pd.Series(stage["seconds"])
        ax.plot(_times_as_many(stage), seconds / seconds[0], ".-", label=name)
    ax.plot([1, 16], [1, 16], color="0.6", linewidth=0.8, label="linear")
    ax.set(xscale="log", yscale="log", xlabel="times as many images", ylabel="times as long")
    ax.legend(frameon=False, fontsize=6)


def draw_memory(ax: Axes, stages: dict[str, dict]) -> None:
    """Draw the peak memory of each stage over the number of images."""
    for name, stage in stages.items():
        ax.plot(_times_as_many(stage), stage["megabytes"], ".-", label=name)
    ax.set(
        xscale="log",
        ylim=(0, None),
        xlabel="times as many images",
        ylabel="peak memory of the process (MB)",
    )


def _times_as_many(stage: dict) -> pd.Series:
    numbers = pd.Series(stage["numbers"])
    return numbers / numbers[0]


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or SECTIONS)
