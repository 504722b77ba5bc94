"""Comparing encoders: results, paired differences with Holm's correction, and cost."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from plankton_study.features.registry import (
    ENCODERS,
    encoder_family,
    make_encoder,
    why_unavailable,
)
from plankton_study.images.splits import Splits
from plankton_study.probes import intervals
from plankton_study.probes.attentive import ATTENTIVE, attend
from plankton_study.probes.intervals import Estimate, MeanWithError
from plankton_study.probes.metrics import METRICS
from plankton_study.probes.probe import best_lda_score, probe_encoder
from plankton_study.probes.result import END_TO_END, ProbeResult, evaluate
from plankton_study.probes.selection import JOINED
from plankton_study.run.errors import StudyError
from plankton_study.run.study import Study

#: a relative change of the held-out loss by more than this counts as falling or rising
FLAT = 0.02

ProbeResults = dict[str, ProbeResult]


class Comparison(NamedTuple):
    """Encoders in one setting of one set.

    Attributes:
        results: encoder → result of its probe.
        absent: encoder → why it was not run.
    """

    results: ProbeResults
    absent: dict[str, str]

    def same_images(self) -> bool:
        """Return whether all encoders are tested on the same images."""
        first, *others = self.results.values()
        return all(
            np.array_equal(first.rows[part], other.rows[part])
            for other in others
            for part in first.rows
        )


def compare_encoders(
    study: Study,
    splits: Splits,
    setting: str,
    search: str = "all",
    budget: str = "images",
    names: Iterable[str] | None = None,
) -> Comparison:
    """Probe all encoders of the profile under the same rules.

    Args:
        study, splits, setting, search, budget: as for `probe_encoder`.
        names: names of the encoders; None: those of the profile and your own.
    """
    if names is None:
        names = [*study.profile.encoders, *ENCODERS]
    results, absent = {}, {}
    for name in names:
        reason = why_unavailable(study, name)
        if reason:
            absent[name] = reason
        else:
            results[name] = probe_encoder(study, splits, name, setting, search, budget)
    return Comparison(results, absent)


def scores_table(
    study: Study,
    splits: Splits,
    comparison: Comparison,
    part: str,
    heads: Iterable[str] = ("linear",),
) -> pd.DataFrame:
    """Return one row for each encoder and head.

    Returns:
        Columns encoder, learnt from, head, cell, accuracy (%) and macro-F1 (%). Encoders that
        were not run come last, with "not run" as their head.
    """
    lines = []
    for name, result in comparison.results.items():
        for head in heads:
            if head in result.heads:
                scores = evaluate(study, splits, result, part, head)
                lines.append(
                    {
                        "encoder": name,
                        "learnt from": encoder_family(study, name),
                        "head": head,
                        "cell": "" if head == END_TO_END else str(result.selected),
                        "accuracy (%)": scores["accuracy"],
                        "macro-F1 (%)": scores["macro_f1"],
                    }
                )
    for name in comparison.absent:
        line = {"encoder": name, "learnt from": encoder_family(study, name), "head": "not run"}
        lines.append(line | {"cell": "", "accuracy (%)": None, "macro-F1 (%)": None})
    columns = ["encoder", "learnt from", "head", "cell", "accuracy (%)", "macro-F1 (%)"]
    return pd.DataFrame(lines, columns=columns)


def searches_table(study: Study, splits: Splits, results: ProbeResults) -> pd.DataFrame:
    """Return the test score, the profile's metric, by the number of candidate cells.

    Returns:
        One row for each encoder; columns encoder, and a column for each search: one predeclared
        cell, equally many cells, all cells.
    """
    setting = next(iter(results.values())).setting
    searches = {
        search: compare_encoders(study, splits, setting, search, names=results).results
        for search in ("predeclared", "equal")
    }
    searches["all"] = results
    table = pd.DataFrame({"encoder": list(results)})
    for search, search_results in searches.items():
        largest = max(len(result.grid) for result in search_results.values())
        table[f"{search} ({largest} at most, %)"] = [
            evaluate(study, splits, result, "test")[study.profile.probes.metric]
            for result in search_results.values()
        ]
    return table


def read_outs_table(study: Study, splits: Splits, results: ProbeResults) -> pd.DataFrame:
    """Return the test score, the profile's metric, of one cell and of all layers together.

    With natural class frequencies, an attentive probe reads all layers and timesteps. (In the
    balanced setting it would be fitted to each draw of the labels.)

    Args:
        study, splits: the set.
        results: encoder → result of the search over all single cells.

    Returns:
        One row for each encoder; columns encoder, one cell (%), all layers (%), timestep (of the
        layers), gain (points), all layers minus one cell, and diffusion minus it (points), both
        with all layers; and, in the natural setting, attentive (%).
    """
    metric = study.profile.probes.metric
    setting = next(iter(results.values())).setting
    joined = compare_encoders(study, splits, setting, JOINED, names=results).results
    lines = []
    for name, result in results.items():
        own = joined[name]
        gain = evaluate(study, splits, own, "test", minus=result)[metric]
        lead = evaluate(study, splits, joined["diffusion"], "test", minus=own)[metric]
        line = {
            "encoder": name,
            "one cell (%)": evaluate(study, splits, result, "test")[metric],
            "all layers (%)": evaluate(study, splits, own, "test")[metric],
            "timestep": "" if own.selected.timestep is None else str(own.selected.timestep),
            "gain (points)": gain,
            "diffusion minus it (points)": None if name == "diffusion" else lead,
        }
        if setting == "natural":
            attending = attend(study, splits, result)
            line["attentive (%)"] = evaluate(study, splits, attending, "test", ATTENTIVE)[metric]
        lines.append(line)
    return pd.DataFrame(lines)


def differences(study: Study, splits: Splits, results: ProbeResults, part: str) -> pd.DataFrame:
    """Return the paired differences between diffusion's linear probe and each other encoder's.

    Returns:
        One row for each metric and encoder; columns encoder, learnt from, metric, estimate and
        p_holm, corrected over the encoders of one metric.
    """
    diffusion = results["diffusion"]
    others = {name: result for name, result in results.items() if name != "diffusion"}
    estimates = {
        name: evaluate(study, splits, diffusion, part, minus=result)
        for name, result in others.items()
    }
    lines = [
        (name, encoder_family(study, name), label, estimates[name][metric])
        for metric, label in METRICS.items()
        for name in others
    ]
    table = pd.DataFrame(lines, columns=["encoder", "learnt from", "metric", "estimate"])
    return table.assign(p_holm=_corrected_within_metric(table))


def _corrected_within_metric(table: pd.DataFrame) -> pd.Series:
    p_values = table["estimate"].map(_p_value)
    by_metric = p_values.groupby(table["metric"])
    return by_metric.transform(lambda p: intervals.holm(p.to_numpy(dtype=float)))


def _p_value(estimate: Estimate) -> float | None:
    return estimate.p


def differences_table(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the result of `differences` with the column names used in tables."""
    return differences.rename(
        columns={
            "encoder": "diffusion minus",
            "estimate": "difference (points)",
            "p_holm": "p (Holm)",
        }
    )


def best_on_validation(
    study: Study, results: ProbeResults, learnt_from: str, head: str = "linear"
) -> str:
    """Return the encoder of a family with the best validation score, the profile's metric.

    Args:
        study: provides the families and the metric.
        results: encoder → result of its probe.
        learnt_from: a family, see `EncoderConfig.family`.
        head: the head that is scored: "linear", the selected probe, or "end to end", a supervised
            network as it was trained.

    Raises:
        StudyError: there is no encoder of the family.
    """
    names = [name for name in results if encoder_family(study, name) == learnt_from]
    if not names:
        raise StudyError(
            f"no encoder that learnt from {learnt_from!r} is left to compare with: "
            "keep one of them in the profile"
        )
    metric = study.profile.probes.metric

    def score(name: str) -> float:
        draws = results[name].of_each_draw
        return float(np.mean([draw.validation[head][metric] for draw in draws]))

    return max(names, key=score)


class AgainstTrained(NamedTuple):
    """A supervised network as it was trained, end to end.

    Attributes:
        score: its macro-F1 on test images.
        lead: the macro-F1 of diffusion's linear probe minus that score.
    """

    score: Estimate
    lead: Estimate


def best_as_trained(study: Study, results: ProbeResults) -> str:
    """Return the supervised encoder that is best on validation images as it was trained."""
    trained = {name: result for name, result in results.items() if END_TO_END in result.heads}
    return best_on_validation(study, trained, "labels", END_TO_END)


def against_as_trained(
    study: Study, splits: Splits, results: ProbeResults, name: str
) -> AgainstTrained:
    """Compare diffusion's linear probe with a supervised network as it was trained."""
    diffusion, rival = results["diffusion"], results[name]
    score = evaluate(study, splits, rival, "test", END_TO_END)
    lead = evaluate(study, splits, diffusion, "test", minus=rival, minus_head=END_TO_END)
    return AgainstTrained(score["macro_f1"], lead["macro_f1"])


# --- did every encoder learn, and what did it cost?


def learning_curves(results: ProbeResults) -> dict[str, pd.DataFrame]:
    """Return encoder → its learning curve, for the encoders that were trained here."""
    curves = {}
    for name, result in results.items():
        if result.encoder.folder:
            curves[name] = pd.read_csv(result.encoder.folder / "curve.csv")
    return curves


def learning_table(
    study: Study, splits: Splits, results: ProbeResults, setting: str
) -> pd.DataFrame:
    """Return LDA validation scores before and after training, and the loss.

    The score is the profile's metric.

    Returns:
        One row for each encoder that was trained here; columns encoder, before training (%),
        after (%), and held-out loss in the last doubling (its trend, see `loss_trend`).
    """
    cooldown = study.profile.training.cooldown
    lines = []
    for name, curve in learning_curves(results).items():
        result = results[name]
        after = _lda_score(study, result)
        lines.append(
            {
                "encoder": name,
                "before training (%)": _score_before(study, splits, results, name, setting),
                "after (%)": after,
                "held-out loss in the last doubling": loss_trend(curve, cooldown),
            }
        )
    return pd.DataFrame(lines)


def _score_before(
    study: Study, splits: Splits, results: ProbeResults, name: str, setting: str
) -> MeanWithError:
    if name == "diffusion":
        return _lda_score(study, results["random U-Net"])
    initial = make_encoder(study, splits, name, setting, budget="none")
    return best_lda_score(study, splits, initial, setting)


def _lda_score(study: Study, result: ProbeResult) -> MeanWithError:
    best = result.grid[study.profile.probes.metric].max()
    return MeanWithError(best, result.standard_error)


def loss_trend(curve: pd.DataFrame, cooldown: float) -> str:
    """Return the trend of the held-out loss in the last doubling at the full learning rate.

    The loss always falls in the cooldown, which says nothing about more images.

    Args:
        curve: columns images_seen and held_out; two points for each doubling.
        cooldown: share of the images during which the learning rate fell.
    """
    at_full_rate = curve["images_seen"] <= (1 - cooldown) * curve["images_seen"].iloc[-1]
    losses = curve["held_out"][at_full_rate]
    if losses.empty:
        return "flat"
    before, last = losses.iloc[-3:].iloc[[0, -1]]
    if last < (1 - FLAT) * before:
        return "still falling"
    if last > (1 + FLAT) * before:
        return "rising"
    return "flat"


def cost_table(study: Study, results: ProbeResults) -> pd.DataFrame:
    """Return the cost of each encoder.

    Returns:
        One row for each encoder; columns encoder, learnt from, parameters, images seen, training
        GFLOPs and seconds, as far as known.
    """
    lines = []
    for name, result in results.items():
        cost = result.encoder.cost
        line = {"encoder": name, "learnt from": encoder_family(study, name)}
        line["parameters"] = int(cost["parameters"])
        line["images seen"] = _whole(cost.get("images_seen"))
        if "flops" in cost:
            line["training GFLOPs"] = round(cost["images_seen"] * cost["flops"] / 1e9)
        line["seconds"] = _whole(cost.get("seconds"))
        lines.append(line)
    columns = ["encoder", "learnt from", "parameters", "images seen", "training GFLOPs", "seconds"]
    return pd.DataFrame(lines, columns=columns, dtype=object)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def equal_flops_table(study: Study, splits: Splits, results: ProbeResults) -> pd.DataFrame:
    """Return the test scores of encoders that were trained with the denoiser's training FLOPs.

    They are the encoders with `equal_flops = true`. The table is empty if the denoiser is a
    pretrained model, since the FLOPs of its training are unknown.

    Returns:
        One row for each encoder; columns encoder, images seen, accuracy (%), macro-F1 (%), and
        diffusion minus it (macro-F1, points).
    """
    columns = [
        "encoder",
        "images seen",
        "accuracy (%)",
        "macro-F1 (%)",
        "diffusion minus it (macro-F1, points)",
    ]
    if study.profile.unet.pretrained:
        return pd.DataFrame(columns=columns)
    diffusion = results["diffusion"]
    configs = study.profile.encoders
    names = [name for name in results if name in configs and configs[name].equal_flops]
    retrained = compare_encoders(study, splits, diffusion.setting, budget="flops", names=names)
    lines = []
    for name, result in retrained.results.items():
        scores = evaluate(study, splits, result, "test")
        gain = evaluate(study, splits, diffusion, "test", minus=result)
        seen = int(result.encoder.cost["images_seen"])
        lines.append((name, seen, scores["accuracy"], scores["macro_f1"], gain["macro_f1"]))
    return pd.DataFrame(lines, columns=columns)


def fine_tuning_table(study: Study, splits: Splits, comparison: Comparison) -> pd.DataFrame:
    """Return the U-Net's down path trained with labels: from scratch, and from the denoiser.

    Returns:
        As `scores_table`; the last rows are the paired differences between the two. No rows if
        the profile has no such network.
    """
    heads = (END_TO_END, "linear")
    supervised_unets = {
        name: result
        for name, result in comparison.results.items()
        if END_TO_END in result.heads and study.profile.encoders[name].network == "unet"
    }
    table = scores_table(study, splits, Comparison(supervised_unets, {}), "test", heads)
    tuned = _first_with_start(study, supervised_unets, "denoiser")
    scratch = _first_with_start(study, supervised_unets, "random")
    if tuned is None or scratch is None:
        return table
    for head in heads:
        gain = evaluate(study, splits, tuned, "test", head, minus=scratch)
        line = {"encoder": "difference", "learnt from": "", "head": head, "cell": ""}
        line |= {"accuracy (%)": gain["accuracy"], "macro-F1 (%)": gain["macro_f1"]}
        table.loc[len(table)] = line
    return table


def _first_with_start(study: Study, results: ProbeResults, start: str) -> ProbeResult | None:
    for name, result in results.items():
        if study.profile.encoders[name].start == start:
            return result
    return None


# --- which taxa, which confusions?


def f1_by_taxon(
    splits: Splits, first: ProbeResult, other: ProbeResult, part: str = "test"
) -> pd.DataFrame:
    """Return the F1 of each taxon for two encoders, the smallest gain first.

    Returns:
        Columns taxon, images, a column for each encoder (in percent), and gain (points).
    """
    truth = splits.taxa(first.rows[part]).astype(str)
    table = pd.Series(truth).value_counts().rename_axis("taxon").rename("images")
    table = table.sort_index().reset_index()
    for result in (first, other):
        f1 = f1_score(
            truth, result.predicted_taxa(part), labels=table["taxon"], average=None, zero_division=0
        )
        table[result.name] = 100 * f1
    table["gain"] = table[first.name] - table[other.name]
    return table.sort_values("gain", kind="stable")


def commonest_confusions(
    splits: Splits, result: ProbeResult, number: int = 5, part: str = "test"
) -> pd.DataFrame:
    """Return the pairs of taxa that a probe confuses most often.

    Returns:
        Columns true, taken for, count, and rows of the images.
    """
    rows = result.rows[part]
    truth, predicted = splits.taxa(rows).astype(str), result.predicted_taxa(part)
    images = pd.DataFrame({"true": truth, "taken for": predicted, "row": rows})
    wrong = images[truth != predicted]
    pairs = wrong.groupby(["true", "taken for"])["row"].agg(count="size", rows=list)
    pairs = pairs.sort_values("count", ascending=False, kind="stable").head(number)
    return pairs.reset_index()
