"""Away from home: a probe on images of another season, site or instrument, and what its loss is made of."""

from copy import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeClassifier, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from plankton_study import features, metrics, probes
from plankton_study.linear import Blocks, standardised
from plankton_study.metrics import Estimate
from plankton_study.probes import ProbeResult
from plankton_study.splits import Splits
from plankton_study.study import Study


class Answers(NamedTuple):
    """What a probe said of n images: the taxa, its answers (n,), and what resampling keeps together."""

    truth: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray


def answers(splits: Splits, result: ProbeResult, part: str) -> Answers:
    """Return what the linear probe of a result said of a part."""
    rows = result.rows[part]
    return Answers(splits.taxa(rows).astype(str), result.predicted(part), splits.groups(rows))


def elsewhere(
    study: Study, splits: Splits, result: ProbeResult, away: Splits, parts: dict[str, np.ndarray]
) -> tuple[ProbeResult, dict[str, np.ndarray]]:
    """Return a result whose parts are rows of other splits (or others of the same), as its linear probe sees them.

    Nothing is fitted or chosen: encoder, cell, scaling and regularisation are those of home.

    Returns:
        The result, for `probes.evaluate` with the splits `away`; and part → standardised features (n, C).
    """
    encoder, home = probes.read(study, splits, result.encoder, result.setting, result.budget)
    cell, train = result.selected, probes.parts_of(splits, result.setting)["train"]
    (x,) = standardised(home, cell, train)
    reader = copy(encoder)
    reader.cells = [cell]
    z = {}
    for part, rows in parts.items():
        known = away.collection is splits.collection and np.isin(rows, home.rows).all()
        found = home if known else features.extract(study, reader, away.base or away, rows)
        z[part] = Blocks(found, cell, rows, x.scaler).whole()
    codes = np.unique(splits.taxa(train).astype(str), return_inverse=True)[1]
    path = probes.regressions(study, home, cell, train, x, codes)
    model = next(model for model in path if model.strength == result.regularisation)
    return replace(result, rows=parts, probabilities={"linear": {p: model.probabilities([x]) for p, x in z.items()}}), z


def renamed(result: ProbeResult, names: dict[str, str]) -> ProbeResult:
    """Return a result whose classes have other names (taxon → name): probabilities of one name are added up.

    Classes without a name are left out, as if the probe knew that they cannot occur.
    """
    member = pd.get_dummies(pd.Series(result.classes).map(names), dtype=np.float32)
    prior = result.prior @ member.to_numpy()
    chances = {}
    for head, parts in result.probabilities.items():
        summed = {part: (each @ member.to_numpy()).clip(1e-12) for part, each in parts.items()}
        chances[head] = {part: each / each.sum(axis=1, keepdims=True) for part, each in summed.items()}
    classes = member.columns.to_numpy(dtype=str)
    return replace(result, classes=classes, prior=prior / prior.sum(), probabilities=chances)


def decompose(home: Answers, away: Answers, draws: int) -> dict[str, Estimate]:
    """Say how much of a loss of accuracy is a change of class mix, and how much a change of appearance.

    Home images are weighted until their taxa have the proportions of away: what accuracy loses by this is the mix, what
    it loses beyond is appearance (and whatever else differs, such as the practice of labelling). Taxa must be in both.

    Returns:
        "home", "away": accuracy; "mix", "appearance": points lost, which add up to home minus away; both sides are
        resampled apart.
    """
    taxa = np.intersect1d(home.truth, away.truth)
    sides = []
    for seed, side in enumerate((home, away)):
        weights = np.vstack([np.ones(len(side.truth)), metrics.resample(side.groups, draws, seed)])
        weights *= np.isin(side.truth, taxa)
        member = (side.truth[:, None] == taxa).astype(float)
        sides.append((weights, member, side.truth == side.predicted))
    (at_home, members, right), (weights, others, right_away) = sides
    share_home, share_away = at_home @ members, weights @ others
    with np.errstate(divide="ignore", invalid="ignore"):  # a taxon may be missing from a bootstrap draw
        ratio = np.where(share_home > 0, share_away / share_home, 0)
        mixed = at_home * (ratio @ members.T)
        weighted = (at_home, right), (mixed, right), (weights, right_away)
        before, between, after = (w @ hit / w.sum(axis=1) for w, hit in weighted)
    values = {"home": before, "away": after, "mix": before - between, "appearance": between - after}
    return {k: metrics.percentiles(v, len(away.truth), k in ("mix", "appearance")) for k, v in values.items()}


def readable(x: np.ndarray, z: np.ndarray, target: np.ndarray, truth: np.ndarray, taxa: np.ndarray) -> float:
    """Return the share of a nuisance's variance within taxa that ridge regression reads from features.

    From features and nuisance the means over the training images of the same taxon are taken off first.

    Args:
        x, z: features (n, C) of training and (m, C) of test images; `target` (n,), `truth` (m,) their size, day, ….
        taxa: (n + m,) their taxa, each of which has training images.

    Returns:
        R² on the test images, at most 1; at or below 0 nothing can be read.
    """
    values = np.column_stack([np.concatenate([x, z]), np.concatenate([target, truth])])
    known = taxa[: len(x)]
    within = values - pd.DataFrame(values[: len(x)]).groupby(known).mean().loc[taxa].to_numpy()
    train, test = within[: len(x)], within[len(x) :]
    told = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 6, 7))).fit(train[:, :-1], train[:, -1])
    return float(r2_score(test[:, -1], told.predict(test[:, :-1])))


def told_apart(x: np.ndarray, away: np.ndarray, taxa: np.ndarray, groups: np.ndarray, seed: int = 0) -> float:
    """Return how well ridge classification tells away from home images of equal class mix (AUROC; 0.5: not at all).

    `x` (n, C) are features, `away` (n,) bool says where, `taxa` (n,) which, `groups` (n,) what must stay in one fold.
    Of every taxon equally many images of both sides are drawn.
    """
    rng, chosen = np.random.default_rng(seed), []
    for taxon in np.unique(taxa):
        sides = [np.flatnonzero((taxa == taxon) & (away == side)) for side in (False, True)]
        chosen += [rng.permutation(side)[: min(map(len, sides))] for side in sides]
    rows = np.concatenate(chosen)
    if min(len(np.unique(groups[rows][away[rows] == side])) for side in (False, True)) < 2:
        return float("nan")  # too few to learn on some and ask the others
    folds = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), RidgeClassifier(100.0))
    score = cross_val_predict(model, x[rows], away[rows], groups=groups[rows], cv=folds, method="decision_function")
    return float(roc_auc_score(away[rows], score))
