"""Another instrument and another sea: probes trained on one set predict the images of another."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from plankton_study.images.collection import load_collection
from plankton_study.images.splits import Splits
from plankton_study.images.taxonomy import relabelled, shared_classes
from plankton_study.probes import metrics
from plankton_study.probes.intervals import Estimate, Units
from plankton_study.probes.probe import probe_encoder
from plankton_study.probes.result import ProbeResult, evaluate
from plankton_study.questions.compare import ProbeResults, compare_encoders
from plankton_study.questions.shift.shifted_parts import (
    decompose_loss,
    predict_elsewhere,
    predictions,
    rename_classes,
)
from plankton_study.run.errors import StudyError
from plankton_study.run.study import Study

FOLDS = 5
REPEATS = 5
#: regularisation of the cross-validated probes; fixed, since a small set cannot select it
TRANSFER_STRENGTH = 0.1
COARSE, FINE = "coarse", "fine"


class Crossing(NamedTuple):
    """A pair of sets that share coarse classes: probes of `home` predict the images of `away`.

    Attributes:
        home, away: names of the sets.
        home_splits, away_splits: their splits, relabelled with the coarse classes.
        unresolved: taxa of `away` that may include images of another coarse class.
        taxa: the coarse classes with enough images (`probes.shifted_images`) among the test
            images of `home` and in `away`, over which both are scored.
    """

    home: str
    away: str
    home_splits: Splits
    away_splits: Splits
    unresolved: tuple[str, ...]
    taxa: tuple[str, ...]

    @property
    def title(self) -> str:
        """Return both names with an arrow."""
        return f"{self.home} → {self.away}"

    @property
    def rows(self) -> np.ndarray:
        """The rows of `away` whose coarse class is scored, in its evaluated parts."""
        rows = self.away_splits.evaluated
        return rows[np.isin(self.away_splits.taxa(rows), self.taxa)]

    def at_home(self, result: ProbeResult) -> ProbeResult:
        """Return a result for the test images of `home` whose coarse class is scored."""
        truth = self.home_splits.taxa(result.rows["test"])
        return result.keep_images("test", np.isin(truth, self.taxa))


def crossings(study: Study, sets: dict[str, Splits]) -> list[Crossing]:
    """Return all ordered pairs of sets that share at least two coarse classes.

    It says which taxa of the table of coarse classes a set does not have.
    """
    tables = shared_classes(study)
    for name, table in tables.items():
        missing = sorted(set(table.index) - set(sets[name].collection.records["taxon"]))
        if missing:
            print(
                f"{name} has no taxa {', '.join(missing)}, which the table of coarse classes names"
            )
    coarse = {
        name: relabelled(sets[name], table["coarse"].to_dict()) for name, table in tables.items()
    }
    pairs = []
    for home in tables:
        for away, table in tables.items():
            if away != home:
                unresolved = tuple(table.index[table["resolved"] == "no"])
                shared = _scored_taxa(study, coarse[home], coarse[away])
                if len(shared) > 1:
                    pairs.append(
                        Crossing(home, away, coarse[home], coarse[away], unresolved, shared)
                    )
    return pairs


def _scored_taxa(study: Study, home: Splits, away: Splits) -> tuple[str, ...]:
    """Return the classes with enough images on both sides."""
    least = study.profile.probes.shifted_images
    frequent = []
    for splits, rows in ((home, home["test"]), (away, away.evaluated)):
        counts = pd.Series(splits.taxa(rows)).value_counts()
        frequent.append(set(counts.index[counts >= least]))
    return tuple(sorted(set.intersection(*frequent) & set(home.classes)))


def coarse_results(study: Study, crossing: Crossing) -> dict[str, tuple[ProbeResult, ProbeResult]]:
    """Return encoder → the result of its coarse-class probe at home, and of the same probe away."""
    results = {}
    base = crossing.home_splits.original
    for name in compare_encoders(study, base, "natural").results:
        home = probe_encoder(study, crossing.home_splits, name)
        results[name] = home, predict_across(study, crossing, home, crossing.home_splits)
    return results


def predict_across(
    study: Study, crossing: Crossing, result: ProbeResult, splits: Splits
) -> ProbeResult:
    """Predict the images of `away` with a probe of `home`; they are the result's only part.

    Args:
        study: the study of both sets.
        crossing: the pair of sets.
        result: the result of a probe at home.
        splits: the splits on which it was fitted.
    """
    parts = {crossing.away: crossing.rows}
    return predict_elsewhere(study, splits, result, crossing.away_splits, parts)[0]


def across_table(study: Study, pairs: list[Crossing]) -> pd.DataFrame:
    """Return the scores of one set's probes on another set, over coarse classes.

    The probes predict either coarse classes, or fine classes whose probabilities are summed.
    Only images of classes with enough images on both sides count, at home and away.

    Returns:
        One row for each pair, encoder and kind of classes; columns from, to, encoder, classes,
        accuracy and macro-F1 away, macro-F1 without images of unresolved taxa, and for coarse
        classes macro-F1 at home and the accuracy lost by mix and by appearance.
    """
    lines = []
    for crossing in pairs:
        for name, (home, away) in coarse_results(study, crossing).items():
            line = _away_scores(study, crossing, name, COARSE, away)
            lines.append(line | _home_and_loss(study, crossing, home, away))
            fine = fine_result(study, crossing, name)
            lines.append(_away_scores(study, crossing, name, FINE, fine))
    return pd.DataFrame(lines)


def fine_result(study: Study, crossing: Crossing, name: str) -> ProbeResult:
    """Return a probe of home's fine classes on `away`, its probabilities summed by coarse class."""
    fine_splits = crossing.home_splits.original
    result = probe_encoder(study, fine_splits, name)
    names = shared_classes(study)[crossing.home]["coarse"].to_dict()
    return rename_classes(predict_across(study, crossing, result, fine_splits), names)


def _away_scores(
    study: Study, crossing: Crossing, name: str, classes: str, result: ProbeResult
) -> dict[str, Any]:
    scores = evaluate(study, crossing.away_splits, result, crossing.away)
    return {
        "from": crossing.home,
        "to": crossing.away,
        "encoder": name,
        "classes": classes,
        "accuracy, away (%)": scores["accuracy"],
        "macro-F1, away (%)": scores["macro_f1"],
        "without unresolved (%)": _without_unresolved(study, crossing, result),
    }


def _without_unresolved(study: Study, crossing: Crossing, result: ProbeResult) -> Estimate | None:
    part = crossing.away
    rows = result.rows[part]
    original = crossing.away_splits.original.taxa(rows)
    is_clear = ~np.isin(original, crossing.unresolved)
    if not is_clear.any():
        return None
    resolved = result.keep_images(part, is_clear)
    return evaluate(study, crossing.away_splits, resolved, part)["macro_f1"]


def _home_and_loss(
    study: Study, crossing: Crossing, home: ProbeResult, away: ProbeResult
) -> dict[str, Any]:
    home = crossing.at_home(home)
    at_home = predictions(crossing.home_splits, home, "test")
    at_away = predictions(crossing.away_splits, away, crossing.away)
    loss = decompose_loss(at_home, at_away, study.profile.probes.draws)
    scores = evaluate(study, crossing.home_splits, home, "test")
    return {
        "macro-F1, home (%)": scores["macro_f1"],
        "lost by mix (points)": loss["mix"],
        "by appearance (points)": loss["appearance"],
    }


def across_estimates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the macro-F1 of `across_table` in the form that `plot_estimates` draws."""
    places = {
        (COARSE, "macro-F1, home (%)"): "at home, coarse",
        (COARSE, "macro-F1, away (%)"): "away, coarse",
        (FINE, "macro-F1, away (%)"): "away, fine",
    }
    lines = []
    for row in table.to_dict("records"):
        for (classes, column), place in places.items():
            if row["classes"] == classes:
                panel = f"{row['from']} → {row['to']}"
                lines.append((panel, row["encoder"], place, row[column]))
    return pd.DataFrame(lines, columns=["panel", "encoder", "kind", "estimate"])


# --- a small set that nothing was trained on


class TransferSets(NamedTuple):
    """The small sets of the profile: those that can be evaluated, and why others cannot."""

    splits: dict[str, Splits]
    absent: dict[str, str]


def transfer_sets(study: Study) -> TransferSets:
    """Return the sets of [transfers], with the taxa that have at least one image per fold."""
    splits, absent = {}, {}
    for name in study.profile.transfers:
        try:
            collection = load_collection(study, name)
        except StudyError as error:
            absent[name] = str(error)
            continue
        counts = collection.records["taxon"].value_counts().drop("", errors="ignore")
        frequent = counts.index[counts >= FOLDS]
        if len(frequent) < 2:
            absent[name] = f"fewer than two of its taxa have {FOLDS} images"
            continue
        rows = np.flatnonzero(collection.records["taxon"].isin(frequent))
        splits[name] = Splits(collection, {"all": rows}, classes=(), balanced_classes=())
    return TransferSets(splits, absent)


def transfer_table(
    study: Study, home: Splits, results: ProbeResults, sets: TransferSets
) -> pd.DataFrame:
    """Return cross-validated scores of one set's encoders on small sets of other instruments.

    Args:
        study, home, results: the encoders, and the cells that were selected at home.
        sets: from `transfer_sets`.

    Returns:
        Columns set, images, taxa, encoder, cell, accuracy (%) and macro-F1 (%).
    """
    columns = ["set", "images", "taxa", "encoder", "cell", "accuracy (%)", "macro-F1 (%)"]
    lines: list[dict[str, Any]] = [{"set": name, "encoder": "not run"} for name in sets.absent]
    for name, other in sets.splits.items():
        rows = other["all"]
        taxa = other.taxa(rows).astype(str)
        for encoder, result in results.items():
            result_on_other, banks = predict_elsewhere(study, home, result, other, {"all": rows})
            features = result_on_other.features(banks["all"], rows).whole()
            predicted = np.concatenate(list(_cross_validated(features, taxa)))
            units = Units.of(rows, np.unique(taxa, return_inverse=True)[1])
            scores = metrics.estimates(
                truth=np.tile(taxa, REPEATS),
                predicted=predicted,
                units=Units(*(np.tile(codes, REPEATS) for codes in units)),
                draws=study.profile.probes.draws,
            )
            lines.append(
                {
                    "set": name,
                    "images": len(taxa),
                    "taxa": len(set(taxa)),
                    "encoder": encoder,
                    "cell": str(result.selected),
                    "accuracy (%)": scores["accuracy"],
                    "macro-F1 (%)": scores["macro_f1"],
                }
            )
    return pd.DataFrame(lines, columns=columns, dtype=object)


def _cross_validated(features: np.ndarray, taxa: np.ndarray) -> Iterator[np.ndarray]:
    """Yield for each repeat the taxa (n,) that were predicted for held-out images."""
    folds = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=0)
    predicted = np.empty(len(taxa), taxa.dtype)
    for number, (train, test) in enumerate(folds.split(features, taxa), start=1):
        regression = LogisticRegression(C=TRANSFER_STRENGTH, max_iter=2000)
        model = make_pipeline(StandardScaler(), regression).fit(features[train], taxa[train])
        predicted[test] = model.predict(features[test])
        if number % FOLDS == 0:
            yield predicted.copy()
