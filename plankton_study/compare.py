"""Encoders side by side: results, paired differences with Holm's correction, and what each one cost."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from plankton_study import encoders, metrics, probes
from plankton_study.profile import StudyError
from plankton_study.splits import Splits
from plankton_study.study import Study

METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
Results = dict[str, probes.ProbeResult]
Names = Iterable[str]


def run(
    study: Study, splits: Splits, setting: str, search: str = "all", budget: str = "images", names: Names | None = None
) -> tuple[Results, dict[str, str]]:
    """Return encoder → its probes in one setting, and encoder → why it was not run.

    `names` are those of the profile and of `encoders.ENCODERS` unless given; all else is as in `probes.probe`.
    """
    names = [*study.profile.encoders, *encoders.ENCODERS] if names is None else list(names)
    absent = {name: why for name in names if (why := encoders.unavailable(study, name))}
    present = [name for name in names if name not in absent]
    return {name: probes.probe(study, splits, name, setting, search, budget) for name in present}, absent


def scores(
    study: Study, splits: Splits, results: Results, part: str, heads: Names = ("linear",), absent: Names = ()
) -> pd.DataFrame:
    """Return one row an encoder and head: encoder, learnt from, head, cell, accuracy and macro-F1 with intervals.

    Those of `absent` follow with "not run" as their head.
    """
    rows = []
    for name, result in results.items():
        for head in (head for head in heads if head in result.probabilities):
            found = probes.evaluate(study, splits, result, part, head)
            cell = "" if head == "end to end" else str(result.selected)
            rows.append((name, family(study, name), head, cell, *(found[key].text() for key in METRICS)))
    rows += [(name, family(study, name), "not run", "", "", "") for name in absent]
    return pd.DataFrame(rows, columns=["encoder", "learnt from", "head", "cell", "accuracy (%)", "macro-F1 (%)"])


def searches(study: Study, splits: Splits, results: Results) -> pd.DataFrame:
    """Return one row an encoder: test macro-F1 when one predeclared cell, equally many, or all cells are candidates."""
    setting = next(iter(results.values())).setting
    found = {how: run(study, splits, setting, how, names=results)[0] for how in ("predeclared", "equal")}
    table = pd.DataFrame({"encoder": list(results)})
    for how, each in (found | {"all": results}).items():
        values = [probes.evaluate(study, splits, r, "test")["macro_f1"].text() for r in each.values()]
        table[f"{how} ({max(len(r.grid) for r in each.values())} at most)"] = values
    return table


def differences(study: Study, splits: Splits, results: Results, part: str) -> pd.DataFrame:
    """Return one row a metric and other encoder: the paired difference of diffusion's linear probe to it.

    Returns:
        Columns encoder, learnt from, metric, estimate, and p_holm, corrected over the encoders of one metric.
    """
    others = {name: result for name, result in results.items() if name != "diffusion"}
    found = {n: probes.evaluate(study, splits, results["diffusion"], part, minus=r) for n, r in others.items()}
    rows = [(n, family(study, n), label, each[key]) for key, label in METRICS.items() for n, each in found.items()]
    table = pd.DataFrame(rows, columns=["encoder", "learnt from", "metric", "estimate"])
    p = table["estimate"].map(lambda estimate: estimate.p)
    return table.assign(p_holm=p.groupby(table["metric"]).transform(lambda each: metrics.holm(each.to_numpy())))


def panels(table: pd.DataFrame, xlabel: str) -> Any:
    """Draw estimates with their intervals, in percent or points; return the matplotlib figure.

    Columns of `table`: panel; encoder, a line each; kind, a colour each; estimate; and if wanted filled (bool).
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    names, shown = table["encoder"].unique(), table["panel"].unique()
    width = max(len(shown), 1)
    size = (2 + 2.6 * width, 1.3 + 0.26 * len(names))
    figure, axes = plt.subplots(1, width, figsize=size, sharey=True, squeeze=False)
    styles = zip(sns.color_palette("colorblind"), "os^Dvph", strict=False)
    looks = dict(zip(table["kind"].unique(), styles, strict=False))
    for ax, panel in zip(axes[0], shown, strict=False):
        for name, one in table[table["panel"] == panel].groupby("encoder", sort=False):
            for place, row in enumerate(one.to_dict("records")):
                at = list(names).index(name) + 0.7 * ((place + 0.5) / len(one) - 0.5)
                (colour, mark), (value, low, high) = looks[row["kind"]], (100 * x for x in row["estimate"][:3])
                ax.plot([low, high], [at, at], color=colour)
                ax.plot(value, at, mark, color=colour, markersize=4, mfc=colour if row.get("filled", True) else "white")
        if table["estimate"].map(lambda estimate: estimate.p is not None).all():
            ax.axvline(0, color="0.5", linewidth=0.8)
        ax.set(title=panel, xlabel=xlabel)
    if table.empty:
        axes[0, 0].set(title="not part of this profile", xticks=[])
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    handles = [plt.Line2D([], [], color=colour, marker=mark, label=kind) for kind, (colour, mark) in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncol=4, frameon=False)
    return figure


def forest(delta: pd.DataFrame) -> Any:
    """Draw `differences`, a panel a metric; return the matplotlib figure. Filled points have p_holm below 0.05."""
    table = delta.rename(columns={"metric": "panel", "learnt from": "kind"}).assign(filled=delta["p_holm"] < 0.05)
    return panels(table, "diffusion minus the other (points)")


def written(delta: pd.DataFrame) -> pd.DataFrame:
    """Return `differences` as a table to show."""
    names = ["diffusion minus", "learnt from", "metric", "difference (points)", "p (Holm)"]
    return delta.assign(p_holm=delta["p_holm"].map("{:.3f}".format)).set_axis(names, axis=1)


def family(study: Study, name: str) -> str:
    """Return what an encoder learnt from; an encoder of one's own: "elsewhere"."""
    return study.profile.encoders[name].family if name in study.profile.encoders else "elsewhere"


def best_on_validation(study: Study, results: Results, learnt_from: str) -> str:
    """Return the encoder of a family whose selected probe, the one that is tested, has the best validation macro-F1."""
    if not (names := [name for name in results if family(study, name) == learnt_from]):
        raise StudyError(f"no encoder that learnt from {learnt_from!r} is left to compare with: keep one")
    return max(names, key=lambda name: results[name].validation["macro_f1"])
