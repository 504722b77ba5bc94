"""Probing an encoder: extract, fit, select on validation data, predict test data once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.class_weight import compute_sample_weight

from plankton_study.features.bank import FeatureBank, extract_features
from plankton_study.features.interface import HEAD, Cell, Encoder
from plankton_study.features.registry import make_encoder
from plankton_study.images.splits import Splits
from plankton_study.probes import metrics
from plankton_study.probes.intervals import MeanWithError, units_of
from plankton_study.probes.linear.lda import LdaGrid, LdaScorer, lda_grid, sharpness
from plankton_study.probes.linear.logistic import (
    LinearModel,
    logistic_path,
    path_as_arrays,
    path_from_arrays,
)
from plankton_study.probes.linear.scaling import ScaledFeatures, Scaler, fit_scaler
from plankton_study.probes.result import END_TO_END, LinearProbe, ProbeResult, head_probabilities
from plankton_study.probes.selection import (
    JOINED,
    LDA_ONLY,
    SEARCHES,
    SETTINGS,
    NearBest,
    candidate_cells,
    near_best,
    probed_parts,
    setting_classes,
)
from plankton_study.run.cache import computed, digest
from plankton_study.run.errors import StudyError
from plankton_study.run.progress import progress
from plankton_study.run.study import Study

BUDGETS = ("images", "flops")
#: modules whose code turns features and labels into probes
SHAPED_BY = (
    "probes.probe",
    "probes.linear.logistic",
    "probes.intervals",
    "probes.metrics",
    "probes.result",
    "probes.linear.lda",
    "probes.linear.scaling",
    "probes.selection",
    "features.bank",
    "features.interface",
    "images.division",
    "images.splits",
)
#: modules whose code turns features and labels into the regressions of one cell
PATH_SHAPED_BY = (
    "probes.linear.logistic",
    "probes.linear.scaling",
    "features.bank",
    "features.interface",
)


def probe_encoder(
    study: Study,
    splits: Splits,
    name: str,
    setting: str = "natural",
    search: str = "all",
    budget: str = "images",
) -> ProbeResult:
    """Extract an encoder's features, fit its probes, and return the selection and the predictions.

    The first call computes the result. Test and shifted images are predicted once, by the probe
    selected on validation images. In the balanced setting all of it, with the training of
    supervised encoders, is repeated for each random draw of the labelled images.

    Args:
        study, splits: the set.
        name: name of the encoder, see `make_encoder`.
        setting: "natural" (all classes, natural numbers of labels) or "balanced" (equal numbers).
        search: see `candidate_cells`.
        budget: see `make_encoder`.

    Raises:
        StudyError: an argument has an unknown value, or fewer than two taxa have enough images.
    """
    _check_choice("setting", setting, SETTINGS)
    _check_choice("search", search, SEARCHES)
    _check_choice("budget", budget, BUDGETS)
    _check_classes(splits, setting)
    draws = [
        _probe_draw(study, draw, name, setting, search, budget)
        for draw in splits.each_draw(setting)
    ]
    return replace(draws[0], repeats=tuple(draws[1:]))


def _probe_draw(
    study: Study, splits: Splits, name: str, setting: str, search: str, budget: str
) -> ProbeResult:
    """Return the result for one draw of the labelled images."""
    encoder, bank = read_features(study, splits, name, setting, budget)
    cells = candidate_cells(encoder, search, study.profile.probes.candidates)
    inputs = {
        "bank": bank.folder.name,
        "cells": [str(cell) for cell in cells],
        "search": search,
        "setting": setting,
        "probes": study.profile.probes.model_dump(exclude={"candidates", "tail"}),
        "splits": splits.digest,
        "classes": [splits.classes, splits.balanced_classes],
        "group_by": splits.collection.entry.group_by,
    }

    def compute() -> dict[str, Any]:
        return _Probing(study, splits, bank, setting).run(cells, search)

    stored = computed(study, "probe", inputs, SHAPED_BY, compute)
    return _open_result(stored, name, encoder, setting, budget)


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise StudyError(f"{argument} = {value!r} is not known, only {', '.join(choices)}")


def _check_classes(splits: Splits, setting: str) -> None:
    if setting == "balanced":
        splits.require_balanced()
    if len(setting_classes(splits, setting)) < 2:
        raise StudyError(
            f"fewer than two taxa have enough images for the {setting} setting: "
            f"lower sets.{splits.collection.name}.split.min_images"
        )


def read_features(
    study: Study,
    splits: Splits,
    name: str,
    setting: str = "natural",
    budget: str = "images",
) -> tuple[Encoder, FeatureBank]:
    """Return an encoder and the features of all rows that its probes use.

    Relabelled splits share the encoder and the features of the original ones.
    """
    original = splits.original
    encoder = make_encoder(study, original, name, setting, budget)
    return encoder, extract_features(study, encoder, original, original.evaluated)


def best_lda_score(
    study: Study, splits: Splits, encoder: Encoder, setting: str = "natural"
) -> MeanWithError:
    """Return the best validation score of LDA on an encoder's cells, with its standard error.

    The score is the profile's metric. It needs no probe result, so it is a fast score for encoders
    that are only ranked.
    """
    parts = probed_parts(splits, setting)
    config = study.profile.probes
    rows = {part: parts[part] for part in ("train", "validation")}
    taxa = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
    bank = extract_features(study, encoder, splits, np.union1d(*rows.values()))
    cells = candidate_cells(encoder, "all")
    grid = lda_grid(bank, cells, rows, taxa, config)
    units = units_of(splits, rows["validation"])
    certainty = near_best(taxa["validation"], grid.predicted, units, config.draws, config.metric)
    return MeanWithError(float(grid.table[config.metric].max()), certainty.standard_error)


@dataclass(frozen=True)
class _Finalist:
    """A linear classifier that was fitted on one of the best cells."""

    cell: Cell
    scaler: Scaler
    method: str  # "LDA" or "logistic"
    model: LinearModel
    prior: np.ndarray  # (K,) shares of the classes that the model's probabilities hold
    validation: dict[str, float]


class _Probing:
    """Fits the probes of one encoder in one setting."""

    def __init__(self, study: Study, splits: Splits, bank: FeatureBank, setting: str) -> None:
        self.study = study
        self.splits = splits
        self.bank = bank
        self.config = study.profile.probes
        self.rows = probed_parts(splits, setting, self.config.shifted_images)
        self.taxa = {part: splits.taxa(rows).astype(str) for part, rows in self.rows.items()}
        self.classes, self.codes = np.unique(self.taxa["train"], return_inverse=True)

    def run(self, cells: list[Cell], search: str) -> dict[str, Any]:
        """Return the values of a result to be stored; see `_open_result`."""
        grid = self._lda_grid(cells)
        finalists = self._fit_finalists(grid, cells, with_logistic=search not in (JOINED, LDA_ONLY))
        best = max(finalists, key=lambda finalist: finalist.validation[self.config.metric])
        tested = {part: rows for part, rows in self.rows.items() if part != "train"}
        heads = self._heads(best, tested, with_all_heads=search == "all")
        result = {
            **self._about_selection(grid, cells),
            "finalists": _finalists_table(finalists),
            "validation": {
                head: self._validation_scores(parts["validation"]) for head, parts in heads.items()
            },
            "selected": best.cell,
            "method": best.method,
            "strength": best.model.strength,
            "weights": best.model.weights,
            "bias": best.model.bias,
            "mean": best.scaler.mean,
            "scale": best.scaler.scale,
            "classes": self.classes,
            "prior": best.prior,
        }
        for part, rows in tested.items():
            result[f"rows/{part}"] = rows
        for head, parts in heads.items():
            for part, probabilities in parts.items():
                result[f"{head}/{part}"] = probabilities
        return result

    def _lda_grid(self, cells: list[Cell]) -> LdaGrid:
        home = {part: self.rows[part] for part in ("train", "validation")}
        return lda_grid(self.bank, cells, home, self.taxa, self.config)

    def _best_positions(self, grid: LdaGrid) -> list[int]:
        ranked = grid.table[self.config.metric].sort_values(ascending=False, kind="stable")
        return ranked.index[: self.config.finalists].tolist()

    def _about_selection(self, grid: LdaGrid, cells: list[Cell]) -> dict[str, Any]:
        """Return the grid joined with the layers, and the cells that are near the best."""
        wide = self._near_best(grid.predicted)
        narrow = self._near_best(grid.predicted_at_equal_width)
        table = grid.table.assign(near_best_equal_width=narrow.is_near)
        by_share = np.argsort(-wide.share, kind="stable")
        near = by_share[wide.is_near[by_share]]
        return {
            "grid": table.join(self.bank.layers, on="layer"),
            "equal_width": grid.width,
            "standard_error": wide.standard_error,
            "near_best": [[str(cells[position]), wide.share[position]] for position in near],
        }

    def _near_best(self, predicted: np.ndarray) -> NearBest:
        units = units_of(self.splits, self.rows["validation"])
        truth = self.taxa["validation"]
        return near_best(truth, predicted, units, self.config.draws, self.config.metric)

    def _fit_finalists(
        self, grid: LdaGrid, cells: list[Cell], with_logistic: bool
    ) -> list[_Finalist]:
        """Fit linear classifiers on the best cells.

        These are logistic regression with every strength, unless the search is without it, and LDA
        with the cell's best penalty.
        """
        finalists = []
        shares = np.bincount(self.codes) / len(self.codes)
        positions = self._best_positions(grid)
        for position in progress(f"final probes of {len(positions)} cells", positions):
            cell, penalty = cells[position], float(grid.table["penalty"][position])
            scaler = fit_scaler(self.bank, cell, self.rows["train"])
            train = self._scaled(cell, scaler, "train")
            validation = self._scaled(cell, scaler, "validation")
            path = self._path_of_cell(cell, train) if with_logistic else []
            models = [("logistic", model, shares) for model in path]
            models.append(("LDA", *self._calibrated(grid.scorers[position], validation, penalty)))
            for method, model, prior in models:
                scores = self._validation_scores(model.probabilities(validation))
                finalists.append(_Finalist(cell, scaler, method, model, prior, scores))
        return finalists

    def _calibrated(
        self, scorer: LdaScorer, validation: ScaledFeatures, penalty: float
    ) -> tuple[LinearModel, np.ndarray]:
        """Return LDA with probabilities, and the shares (K,) of the classes that these hold.

        All logits are scaled by one factor, which makes the validation images' classes most likely
        (temperature scaling, Guo et al. 2017). So the predicted classes stay those by which cell
        and penalty were selected, but the shares of the classes are scaled as well.

        Args:
            scorer: of the cell, by `lda_grid`.
            validation: features of the cell.
            penalty: that the scorer has.
        """
        is_known = np.isin(self.taxa["validation"], self.classes)
        codes = np.searchsorted(self.classes, self.taxa["validation"][is_known])
        factor = np.float32(sharpness(scorer.logits(validation)[is_known], codes))
        weights, bias = factor * scorer.weights, factor * scorer.bias
        model = LinearModel(penalty, weights, bias, iterations=0, converged=True)
        return model, softmax(factor * scorer.log_shares.astype(np.float64))

    def _scaled(self, cell: Cell, scaler: Scaler, part: str) -> ScaledFeatures:
        return ScaledFeatures(self.bank, cell, self.rows[part], scaler)

    def _validation_scores(self, probabilities: np.ndarray) -> dict[str, float]:
        predicted = self.classes[probabilities.argmax(axis=1)]
        scores = metrics.scores(self.taxa["validation"], predicted)
        return {"accuracy": scores["accuracy"][0], "macro_f1": scores["macro_f1"][0]}

    def _path_of_cell(self, cell: Cell, train: ScaledFeatures) -> list[LinearModel]:
        """Return a cell's logistic regressions; stored, since several searches share cells."""
        strengths = sorted(self.config.logistic)
        inputs = {
            "bank": self.bank.folder.name,
            "cell": str(cell),
            "train": digest(self.rows["train"], self.codes),
            "strengths": strengths,
        }

        compute = partial(path_as_arrays, train, self.codes, strengths)
        return path_from_arrays(computed(self.study, "logistic", inputs, PATH_SHAPED_BY, compute))

    # --- heads

    def _heads(
        self, best: _Finalist, tested: dict[str, np.ndarray], with_all_heads: bool
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return head → part → class probabilities (n, K) float32."""
        features = {part: self._scaled(best.cell, best.scaler, part) for part in tested}
        heads = {"linear": _on_each(features, best.model.probabilities)}
        if with_all_heads:
            train = self._scaled(best.cell, best.scaler, "train")
            validation = features["validation"]
            weighted = self._fit_weighted(train, validation)
            heads["weighted"] = _on_each(features, weighted.probabilities)
            neighbours = self._fit_neighbours(train, validation)

            def share_of_neighbours(values: ScaledFeatures) -> np.ndarray:
                return np.float32(neighbours.predict_proba(values.whole()))

            heads["k-NN"] = _on_each(features, share_of_neighbours)
        has_own_head = HEAD in self.bank.cells and self.splits.base is None
        if has_own_head:  # relabelled splits have no head for their classes
            heads[END_TO_END] = _on_each(tested, partial(head_probabilities, self.bank))
        return heads

    def _fit_weighted(self, train: ScaledFeatures, validation: ScaledFeatures) -> LinearModel:
        """Fit with balanced class weights, which serve rare taxa, and select C."""
        sample_weight = compute_sample_weight("balanced", self.codes)
        path = logistic_path(train, self.codes, sorted(self.config.logistic), sample_weight)

        def score(model: LinearModel) -> float:
            return self._validation_scores(model.probabilities(validation))[self.config.metric]

        return max(path, key=score)

    def _fit_neighbours(
        self, train: ScaledFeatures, validation: ScaledFeatures
    ) -> KNeighborsClassifier:
        """Fit k-NN with cosine distance, and select k."""
        train_features, validation_features = train.whole(), validation.whole()
        models = [
            KNeighborsClassifier(k, metric="cosine").fit(train_features, self.codes)
            for k in self.config.neighbours
            if k <= len(self.codes)
        ]

        def score(model: KNeighborsClassifier) -> float:
            probabilities = model.predict_proba(validation_features)
            return self._validation_scores(probabilities)[self.config.metric]

        return max(models, key=score)


def _on_each(parts: dict[str, Any], function: Callable[[Any], np.ndarray]) -> dict[str, Any]:
    """Return part → value of a function."""
    return {part: function(values) for part, values in parts.items()}


def _finalists_table(finalists: list[_Finalist]) -> pd.DataFrame:
    """Return a row for each fit."""
    lines = [
        {
            "layer": finalist.cell.layer,
            "timestep": finalist.cell.timestep,
            "method": finalist.method,
            "strength": finalist.model.strength,
            "iterations": finalist.model.iterations,
            "converged": finalist.model.converged,
            **finalist.validation,
        }
        for finalist in finalists
    ]
    return pd.DataFrame(lines).astype({"timestep": "Int64"})


def _open_result(
    stored: dict[str, Any], name: str, encoder: Encoder, setting: str, budget: str
) -> ProbeResult:
    """Build a result from the values that `_Probing.run` returned."""
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for key, value in stored.items():
        head, slash, part = key.partition("/")
        if slash:
            arrays.setdefault(head, {})[part] = value
    rows = arrays.pop("rows")
    linear = LinearProbe(
        cell=Cell(*stored["selected"]),
        classes=stored["classes"],
        scaler=Scaler(stored["mean"], stored["scale"]),
        weights=stored["weights"],
        bias=stored["bias"],
        method=stored["method"],
        strength=stored["strength"],
    )
    return ProbeResult(
        name=name,
        encoder=encoder,
        setting=setting,
        budget=budget,
        linear=linear,
        grid=stored["grid"],
        finalists=stored["finalists"],
        validation=stored["validation"],
        equal_width=stored["equal_width"],
        standard_error=stored["standard_error"],
        near_best=dict(stored["near_best"]),
        rows=rows,
        heads=arrays,
        prior=stored["prior"],
    )
