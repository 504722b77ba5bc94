"""Shifted parts: images of another season or site, and the causes of a loss of accuracy."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from plankton_study.features.bank import FeatureBank, extract_features
from plankton_study.features.interface import HEAD, Cell
from plankton_study.images.splits import Splits
from plankton_study.probes import intervals
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.result import END_TO_END, ProbeResult, evaluate, merge_classes
from plankton_study.questions.compare import (
    Comparison,
    best_on_validation,
    compare_encoders,
)
from plankton_study.run.study import Study

#: key of a metric → its name in the tables of shifted parts
SHIFT_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
}
#: days with fewer images are left out as too noisy
MIN_IMAGES_PER_DAY = 10


class ShiftedPart(NamedTuple):
    """A shifted part of a set, with the encoders that were trained at its home.

    Attributes:
        set, part: names.
        splits: splits of the set.
        comparison: all encoders in the natural setting.
        taxa: the taxa with enough images (`probes.shifted_images`) at home and in the part, over
            which both are scored.
    """

    set: str
    part: str
    splits: Splits
    comparison: Comparison
    taxa: tuple[str, ...]

    @property
    def title(self) -> str:
        """Return the name of the part, as shown in figures."""
        return f"{self.set}: {self.part}"

    @property
    def rows(self) -> np.ndarray:
        """The rows of the part whose taxa are scored."""
        return self.comparison.results["diffusion"].rows[self.part]

    def at_home(self, result: ProbeResult) -> ProbeResult:
        """Return a result for the test images of home whose taxa are scored."""
        truth = self.splits.taxa(result.rows["test"])
        return result.keep_images("test", np.isin(truth, self.taxa))

    @property
    def group_count(self) -> int:
        """The number of groups for resampling: days, samples or images."""
        return len(np.unique(self.splits.groups(self.rows)))


def shifted_parts(study: Study, sets: dict[str, Splits]) -> list[ShiftedPart]:
    """Return the shifted parts of all sets that have scored taxa."""
    parts = []
    for name, splits in sets.items():
        if not splits.shifts:
            continue
        comparison = compare_encoders(study, splits, "natural")
        rows = comparison.results["diffusion"].rows
        for part in splits.shifts:
            if part in rows:
                taxa = np.unique(splits.taxa(rows[part]).astype(str))
                parts.append(ShiftedPart(name, part, splits, comparison, tuple(taxa)))
    return parts


def home_as_part(study: Study, name: str, splits: Splits) -> ShiftedPart:
    """Return the test images of home as a substitute, for a set without a shifted part."""
    comparison = compare_encoders(study, splits, "natural")
    rows = comparison.results["diffusion"].rows["test"]
    taxa = np.unique(splits.taxa(rows).astype(str))
    return ShiftedPart(name, "test", splits, comparison, tuple(taxa))


def join_tables(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of several parts; without any, return an empty table.

    The empty table has the columns that `plot_estimates` needs.
    """
    if not tables:
        return pd.DataFrame(columns=["panel", "encoder", "kind", "estimate"])
    return pd.concat(tables, ignore_index=True)


class Predictions(NamedTuple):
    """The predictions of a probe for n images: true and predicted taxa, and what is resampled."""

    truth: np.ndarray
    predicted: np.ndarray
    units: intervals.Units


def predictions(splits: Splits, result: ProbeResult, part: str) -> Predictions:
    """Return the predictions of a result's linear probe for the images of a part."""
    rows = result.rows[part]
    truth = splits.taxa(rows).astype(str)
    return Predictions(truth, result.predicted_taxa(part), intervals.units_of(splits, rows))


# --- scores at home and away


def home_and_away_table(study: Study, parts: list[ShiftedPart]) -> pd.DataFrame:
    """Return the scores of every encoder at home and on shifted parts, over the same taxa.

    Both are scored on images of these taxa only. A probe may predict any taxon of home.

    Returns:
        One row for each part and encoder; columns set, part, encoder, two for each metric, and
        accuracy if the probe may predict only taxa that occur in the part. Encoders that were
        not run come last.
    """
    lines = []
    for shifted in parts:
        for name, result in shifted.comparison.results.items():
            lines.append(_home_and_away(study, shifted, name, result))
    absent = dict.fromkeys(name for shifted in parts for name in shifted.comparison.absent)
    lines += [{"set": "", "part": "not run", "encoder": name} for name in absent]
    return pd.DataFrame(lines)


def _home_and_away(
    study: Study, shifted: ShiftedPart, name: str, result: ProbeResult
) -> dict[str, object]:
    splits, part = shifted.splits, shifted.part
    home = evaluate(study, splits, shifted.at_home(result), "test")
    away = evaluate(study, splits, result, part)
    restricted = evaluate(study, splits, restrict_to_taxa(result, shifted.taxa), part)
    line: dict[str, object] = {"set": shifted.set, "part": part, "encoder": name}
    for metric, label in SHIFT_METRICS.items():
        line[f"{label}, home (%)"] = home[metric]
        line[f"{label}, away (%)"] = away[metric]
    line["accuracy among its taxa (%)"] = restricted["accuracy"]
    return line


def restrict_to_taxa(result: ProbeResult, taxa: tuple[str, ...]) -> ProbeResult:
    """Return a result whose probe knows that only these taxa can occur."""
    return rename_classes(result, {taxon: taxon for taxon in taxa})


def rename_classes(result: ProbeResult, names: dict[str, str]) -> ProbeResult:
    """Return a result with renamed classes; probabilities of classes with one name are summed.

    Classes without a name are left out, as if the probe knew that they cannot occur.

    Args:
        result: the result of a probe.
        names: taxon → new name.
    """
    renamed = pd.Series(result.classes).map(names)
    membership = pd.get_dummies(renamed, dtype=np.float32)  # (K, new classes)
    merging = membership.to_numpy()
    heads = {}
    for head, parts in result.heads.items():
        heads[head] = {
            part: merge_classes(probabilities, merging) for part, probabilities in parts.items()
        }
    prior = result.prior @ merging
    earlier_merging = result.linear.merging
    linear = replace(
        result.linear,
        classes=membership.columns.to_numpy(dtype=str),
        merging=merging if earlier_merging is None else earlier_merging @ merging,
    )
    return replace(result, linear=linear, prior=prior / prior.sum(), heads=heads, repeats=())


def daily_accuracy(study: Study, parts: list[ShiftedPart]) -> pd.DataFrame:
    """Return accuracy by day, for diffusion and for the best supervised encoder.

    At home and away only images of the scored taxa count, and the probes may predict only these.
    Days with few images are left out.

    Returns:
        Columns panel, encoder, place ("home" or "away"), day, accuracy (%) and images.
    """
    tables = []
    for shifted in parts:
        results = shifted.comparison.results
        for name in ("diffusion", best_on_validation(study, results, "labels")):
            away = restrict_to_taxa(results[name], shifted.taxa)
            home = restrict_to_taxa(shifted.at_home(results[name]), shifted.taxa)
            for place, result, part in (("home", home, "test"), ("away", away, shifted.part)):
                days = _accuracy_by_day(shifted.splits, result, part)
                tables.append(days.assign(panel=shifted.title, encoder=name, place=place))
    columns = ["panel", "encoder", "place", "day", "accuracy (%)", "images"]
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]


def _accuracy_by_day(splits: Splits, result: ProbeResult, part: str) -> pd.DataFrame:
    of_part = predictions(splits, result, part)
    is_right = of_part.truth == of_part.predicted
    times = splits.collection.records["time"].iloc[result.rows[part]]
    images = pd.DataFrame({"right": is_right, "day": times.dt.normalize().to_numpy()})
    days = images.groupby("day")["right"].agg(["mean", "size"]).reset_index()
    days = days[days["size"] >= MIN_IMAGES_PER_DAY]
    days["accuracy (%)"] = 100 * days["mean"]
    return days.rename(columns={"size": "images"})


# --- causes of the loss


def loss_table(study: Study, parts: list[ShiftedPart]) -> pd.DataFrame:
    """Return the accuracy that each encoder loses away from home, by mix and by appearance.

    Returns:
        Columns set, part, encoder, accuracy at home (%), away (%), lost by mix (points) and by
        appearance (points).
    """
    lines = []
    for shifted in parts:
        for name, result in shifted.comparison.results.items():
            home = predictions(shifted.splits, result, "test")
            away = predictions(shifted.splits, result, shifted.part)
            loss = decompose_loss(home, away, study.profile.probes.draws)
            lines.append(
                {
                    "set": shifted.set,
                    "part": shifted.part,
                    "encoder": name,
                    "accuracy at home (%)": loss["home"],
                    "away (%)": loss["away"],
                    "lost by mix (points)": loss["mix"],
                    "by appearance (points)": loss["appearance"],
                }
            )
    return pd.DataFrame(lines)


def decompose_loss(home: Predictions, away: Predictions, draws: int) -> dict[str, Estimate]:
    """Decompose a loss of accuracy into a change of class mix and a change of appearance.

    Home images are weighted so that their taxa have the proportions of away. The accuracy lost by
    this weighting is due to the mix. The rest of the loss is due to appearance, and to anything
    else that differs, such as labelling practice. Only taxa that occur on both sides count. The
    two sides are resampled independently. If one side cannot be resampled (a single day), there
    are no intervals.

    Args:
        home, away: predictions of one probe.
        draws: number of bootstrap draws.

    Returns:
        "home" and "away", accuracies; "mix" and "appearance", the losses, which add up to home
        minus away.
    """
    taxa = np.intersect1d(home.truth, away.truth)
    home_weights, home_taxa = _bootstrap_side(home, taxa, draws, seed=0)
    away_weights, away_taxa = _bootstrap_side(away, taxa, draws, seed=1)
    both = min(len(home_weights), len(away_weights))
    home_weights, away_weights = home_weights[:both], away_weights[:both]
    home_counts, away_counts = home_weights @ home_taxa, away_weights @ away_taxa
    with np.errstate(divide="ignore", invalid="ignore"):  # a taxon may be missing from a draw
        ratio = np.where(home_counts > 0, away_counts / home_counts, 0)
        reweighted = home_weights * (ratio @ home_taxa.T)
        at_home = _weighted_accuracy(home_weights, home)
        with_mix = _weighted_accuracy(reweighted, home)
        at_away = _weighted_accuracy(away_weights, away)
    n = len(away.truth)
    return {
        "home": intervals.percentiles(at_home, n),
        "away": intervals.percentiles(at_away, n),
        "mix": intervals.percentiles(at_home - with_mix, n, is_difference=True),
        "appearance": intervals.percentiles(with_mix - at_away, n, is_difference=True),
    }


def _bootstrap_side(
    side: Predictions, taxa: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (1 + draws, n) of the images, and their taxa as (n, taxa) of 0 and 1."""
    weights = intervals.draw_weights(side.units, draws, seed)
    weights *= np.isin(side.truth, taxa)
    return weights, (side.truth[:, None] == taxa).astype(float)


def _weighted_accuracy(weights: np.ndarray, side: Predictions) -> np.ndarray:
    is_right = side.truth == side.predicted
    return weights @ is_right / weights.sum(axis=1)


# --- probes on other images


def predict_elsewhere(
    study: Study,
    splits: Splits,
    result: ProbeResult,
    away: Splits,
    parts: dict[str, np.ndarray],
) -> tuple[ProbeResult, dict[str, FeatureBank]]:
    """Predict images of other splits with a linear probe.

    Nothing is fitted or selected: encoder, cell, scaling and regularisation are those of home.

    Args:
        study: the study of both splits.
        splits: the splits on which the probe was fitted.
        result: the result of the probe.
        away: the splits whose images are predicted; they may be `splits` itself.
        parts: part → sorted rows of `away`.

    Returns:
        The result with these parts, for `evaluate` with the splits `away`; and part → the bank
        that holds its features.
    """
    home = splits.original
    home_bank = extract_features(study, result.encoder, home, home.evaluated)
    banks = {}
    for part, rows in parts.items():
        if away.collection is splits.collection and home_bank.holds(rows):
            banks[part] = home_bank
        else:
            banks[part] = extract_features(
                study, result.encoder, away.original, rows, cells=_cells_to_predict(result)
            )
    return result.on_parts(banks, parts), banks


def _cells_to_predict(result: ProbeResult) -> list[Cell]:
    """Return the cell of the linear probe and, if the result has one, the network's own head."""
    return [result.selected, HEAD] if END_TO_END in result.heads else [result.selected]
