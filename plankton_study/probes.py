"""Judging an encoder: the grid of linear probes, validation data that selects, test data that is predicted once."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.class_weight import compute_sample_weight

from plankton_study import encoders, features, metrics
from plankton_study.features import Cell, Encoder, FeatureBank
from plankton_study.linear import Blocks, Logistic, logistic_path, ridge_grid, standardised
from plankton_study.metrics import Estimate
from plankton_study.profile import StudyError
from plankton_study.progress import progress
from plankton_study.splits import Splits
from plankton_study.store import computed, digest
from plankton_study.study import Study

HEAD = Cell("head")  # a supervised encoder's own logits: no candidate, but the head "end to end"


@dataclass(frozen=True)
class ProbeResult:
    """What one encoder's probes give in one setting of one set.

    Attributes:
        encoder, setting: names.
        grid: a row a candidate cell, in the encoder's order: layer, timestep, accuracy and macro_f1 of the best ridge
            on validation data, its penalty, equal_width (accuracy after PCA to a common width), near_best_equal_width
            (one standard error or less below the best of these), and stage, resolution, channels, order of the layer.
        finalists: a row a fitted logistic regression: layer, timestep, C, validation accuracy and macro_f1.
        selected: the chosen cell; `regularisation` its C; `validation` accuracy and macro_f1 of its probe there.
        standard_error: of the best cell's validation accuracy under ridge.
        near_best: cell → share of bootstrap draws won, for the cells within one standard error of the best.
        rows: part → (n,) rows of the collection.
        probabilities: head → part → (n, K) float32, columns in the order of `classes`. Heads: "linear"; "end to
            end" for encoders that learnt from labels; and of a search over all cells "weighted" (classes weighted
            equally) and "k-NN".
        classes: (K,) taxa the probe knows; `prior` (K,) their shares of the training images.
        cost, training: of the encoder's training, and its folder if it was trained here; see `features.Encoder`.
        budget: see `probe`.
    """

    encoder: str
    setting: str
    grid: pd.DataFrame
    finalists: pd.DataFrame
    selected: Cell
    regularisation: float
    validation: dict[str, float]
    standard_error: float
    near_best: dict[str, float]
    rows: dict[str, np.ndarray]
    probabilities: dict[str, dict[str, np.ndarray]]
    classes: np.ndarray
    prior: np.ndarray
    cost: dict[str, float]
    training: Path | None
    budget: str

    def predicted(self, part: str, head: str = "linear", adjusted: bool = False) -> np.ndarray:
        """Return the taxa (n,) a head names; `adjusted` divides by the training prior (Menon et al. 2021)."""
        chances = self.probabilities[head][part]
        return self.classes[(chances / self.prior if adjusted else chances).argmax(axis=1)]


def probe(
    study: Study, splits: Splits, encoder: str, setting: str = "natural", search: str = "all", budget: str = "images"
) -> ProbeResult:
    """Extract an encoder's features, fit the grid and return what was selected and predicted.

    Args:
        encoder: a key of the profile's `encoders`, or of `encoders.ENCODERS`.
        setting: "natural" (all classes, natural numbers of labels) or "balanced" (equal numbers).
        search: "all" cells, "equal" (`probes.candidates` of them, evenly spaced), or only the "predeclared" one.
        budget: see `encoders.make`.

    Returns:
        The stored result; made on the first call. Test and shifted images are predicted once, by the selected probe.
    """
    known = {"setting": ("natural", "balanced"), "budget": ("images", "flops")}
    known["search"] = ("all", "equal", "predeclared")
    for key, value in (("setting", setting), ("search", search), ("budget", budget)):
        if value not in known[key]:
            raise StudyError(f"{key} = {value!r} is not known, only {', '.join(known[key])}")
    if len(splits.classes if setting == "natural" else splits.balanced_classes) < 2:
        where = f"sets.{splits.collection.name}.split" + ".balanced" * (setting == "balanced")
        raise StudyError(f"fewer than two taxa have enough images for the {setting} setting: lower {where}.min_images")
    made, bank = read(study, splits, encoder, setting, budget)
    cells = candidates(made, search, study.profile.probes.candidates)
    what = {"bank": bank.folder.name, "cells": [str(cell) for cell in cells], "search": search, "setting": setting}
    what |= {"probes": study.profile.probes.model_dump(exclude={"candidates", "tail"}), "splits": splits.digest}
    what |= {"classes": [splits.classes, splits.balanced_classes], "group_by": splits.collection.entry.group_by}
    compute = partial(_probe, study, splits, bank, cells, setting, search == "all")
    found = computed(study, "probe", what, ["probes", "linear", "metrics", "splits"], compute)
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for key in [key for key in found if "/" in key]:
        head, _, part = key.partition("/")
        arrays.setdefault(head, {})[part] = found.pop(key)
    found |= {"selected": Cell(*found["selected"]), "near_best": dict(found["near_best"]), "budget": budget}
    found |= {"rows": arrays.pop("rows"), "probabilities": arrays, "cost": made.cost, "training": made.folder}
    return ProbeResult(encoder, setting, **found)


def read(
    study: Study, splits: Splits, encoder: str, setting: str = "natural", budget: str = "images"
) -> tuple[Encoder, FeatureBank]:
    """Return an encoder and the features of all rows that its probes use; of relabelled splits those of their base."""
    base = splits.base or splits
    made = encoders.make(study, base, encoder, setting, budget)
    return made, features.extract(study, made, base, base.evaluated)


def as_cells(grid: pd.DataFrame) -> list[Cell]:
    """Return the cells of a table's rows, of columns layer and timestep."""
    return [Cell(c.layer, None if pd.isna(c.timestep) else int(c.timestep)) for c in grid.itertuples()]


def candidates(encoder: Encoder, search: str, number: int) -> list[Cell]:
    """Return the cells of a search; those of "equal" share the predeclared timestep, and the last is among them."""
    cells = [cell for cell in encoder.cells if cell != HEAD]
    if search == "predeclared":
        return [encoder.predeclared]
    if search == "equal":
        cells = [cell for cell in cells if cell.timestep == encoder.predeclared.timestep]
        places = np.linspace(len(cells) - 1, 0, min(number, len(cells))).round().astype(int)
        return [cells[i] for i in sorted(places)]
    return cells


def parts_of(splits: Splits, setting: str, shifted_images: int = 1) -> dict[str, np.ndarray]:
    """Return the rows a setting trains, selects and tests on; shifted sets keep taxa with so many images there."""
    classes = splits.classes if setting == "natural" else splits.balanced_classes
    parts = {"train": splits["train" if setting == "natural" else "balanced"]}
    parts |= {part: splits.restrict(part, classes) for part in ("validation", "test")}
    for shift in splits.shifts:
        counts = pd.Series(splits.taxa(splits[shift])).value_counts()
        if often := tuple(t for t in classes if counts.get(t, 0) >= shifted_images):
            parts[shift] = splits.restrict(shift, often)
    return parts


def evaluate(
    study: Study,
    splits: Splits,
    result: ProbeResult,
    part: str,
    head: str = "linear",
    adjusted: bool = False,
    minus: ProbeResult | None = None,
    taxa: tuple[str, ...] | None = None,
) -> dict[str, Estimate]:
    """Return accuracy, macro_f1 and balanced_accuracy of a part with 95 % intervals over its groups.

    Args:
        head, adjusted: see `ProbeResult.predicted`.
        minus: another encoder's result; the estimates are then paired differences to it.
        taxa: judge these taxa only, see `metrics.scores`.
    """
    rows, predicted = result.rows[part], result.predicted(part, head, adjusted)
    truth, groups = splits.taxa(rows).astype(str), splits.groups(rows)
    if minus is not None and not np.array_equal(rows, minus.rows[part]):
        raise ValueError("paired differences need the same images")
    others = None if minus is None else minus.predicted(part, head, adjusted)
    return metrics.estimates(truth, predicted, groups, study.profile.probes.draws, others, taxa)


def rank(study: Study, splits: Splits, encoder: Encoder, setting: str = "natural") -> tuple[float, float]:
    """Return the best validation accuracy of ridge on an encoder's cells, and its standard error."""
    rows = {part: index for part, index in parts_of(splits, setting).items() if part in ("train", "validation")}
    bank = features.extract(study, encoder, splits, np.union1d(*rows.values()))
    taxa = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
    grid, right, _ = ridge_grid(bank, candidates(encoder, "all", 0), rows, taxa, study.profile.probes)
    error, _, _ = selection_frequencies(right, splits.groups(rows["validation"]), study.profile.probes.draws)
    return float(grid["accuracy"].max()), error


def selection_frequencies(right: np.ndarray, groups: np.ndarray, draws: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Say which cells the validation data cannot tell from the best.

    `right` is (cells, n) bool, right or not on each validation image; the bootstrap keeps `groups` (n,) together.

    Returns:
        Standard error of the best cell's accuracy; (cells,) bool, within one of the best; (cells,) share of draws won.
    """
    weights = metrics.resample(groups, draws, seed=1)
    drawn = weights @ right.T.astype(float) / weights.sum(axis=1, keepdims=True)
    accuracy = right.mean(axis=1)
    best = accuracy.argmax()
    error = float(drawn[:, best].std())
    return error, accuracy >= accuracy[best] - error, np.bincount(drawn.argmax(axis=1), minlength=len(right)) / draws


def _probe(
    study: Study, splits: Splits, bank: FeatureBank, cells: list[Cell], setting: str, full: bool
) -> dict[str, Any]:
    config = study.profile.probes
    rows = parts_of(splits, setting, config.shifted_images)
    taxa = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
    home = {part: rows[part] for part in ("train", "validation")}
    grid, right, narrow = ridge_grid(bank, cells, home, taxa, config)
    groups = splits.groups(rows["validation"])
    error, near, share = selection_frequencies(right, groups, config.draws)
    grid["near_best_equal_width"] = selection_frequencies(narrow, groups, config.draws)[1]
    ranked = grid["accuracy"].sort_values(ascending=False, kind="stable").index[: config.finalists]

    classes, codes = np.unique(taxa["train"], return_inverse=True)
    tried: list[tuple[dict[str, float], Cell, Logistic]] = []
    for cell in progress(f"logistic probes of {len(ranked)} cells", [cells[i] for i in ranked]):
        x, v = standardised(bank, cell, rows["train"], rows["validation"])
        for model in regressions(study, bank, cell, rows["train"], x, codes):
            score = metrics.scores(taxa["validation"], classes[model.probabilities(v).argmax(axis=1)])
            values = {key: score[key][0] for key in ("accuracy", "macro_f1")}
            tried.append((values, cell, model))
    validation, cell, linear = max(tried, key=lambda one: one[0][config.metric])
    x, *others = standardised(bank, cell, *rows.values())
    parts = dict(zip(list(rows)[1:], others, strict=True))
    predict = {"linear": linear.probabilities}
    if full:
        truth, v = taxa["validation"], parts["validation"]
        weighted = max(  # for rare taxa, so macro-F1 decides about its C
            logistic_path(x, codes, sorted(config.logistic), compute_sample_weight("balanced", codes)),
            key=lambda m: metrics.scores(truth, classes[m.probabilities(v).argmax(axis=1)])["macro_f1"][0],
        )
        known, asked = x.whole(), v.whole()
        neighbours = max(
            (KNeighborsClassifier(k, metric="cosine").fit(known, codes) for k in config.neighbours if k <= len(codes)),
            key=lambda m: np.mean(classes[m.predict_proba(asked).argmax(axis=1)] == truth),
        )
        predict |= {"weighted": weighted.probabilities, "k-NN": lambda z: neighbours.predict_proba(z.whole())}
    arrays = {f"rows/{part}": rows[part] for part in parts}
    arrays |= {f"{head}/{part}": np.float32(f(z)) for head, f in predict.items() for part, z in parts.items()}
    if HEAD in bank.cells and splits.base is None:  # relabelled splits have other classes than the head
        arrays |= {f"end to end/{part}": softmax(bank.take(HEAD, rows[part]), axis=1) for part in parts}
    fits = [(*cell, model.strength, *values.values()) for values, cell, model in tried]
    columns = ["layer", "timestep", "C", "accuracy", "macro_f1"]
    finalists = pd.DataFrame(fits, columns=columns).astype({"timestep": "Int64"})
    order = [i for i in np.argsort(-share, kind="stable") if near[i]]
    about = {"selected": cell, "regularisation": linear.strength, "validation": validation, "standard_error": error}
    about |= {"near_best": [[str(cells[i]), share[i]] for i in order], "prior": np.bincount(codes) / len(codes)}
    return {"grid": grid.join(bank.layers, on="layer"), "finalists": finalists, "classes": classes, **about, **arrays}


def regressions(
    study: Study, bank: FeatureBank, cell: Cell, rows: np.ndarray, x: Blocks, codes: np.ndarray
) -> list[Logistic]:
    """Return a cell's logistic regressions on `x`, its features of `rows`; stored, since other searches meet it too."""
    strengths = sorted(study.profile.probes.logistic)
    what = {"bank": bank.folder.name, "cell": str(cell), "train": digest(rows, codes), "strengths": strengths}

    def compute() -> dict[str, np.ndarray]:
        path = zip(*logistic_path(x, codes, strengths), strict=True)
        return dict(zip(Logistic._fields, map(np.array, path), strict=True))

    path = computed(study, "logistic", what, ["linear"], compute)
    return [Logistic(*one) for one in zip(*(path[field] for field in Logistic._fields), strict=True)]
