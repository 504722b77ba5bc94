"""The grid of linear probes: ridge ranks every cell, logistic regression decides among the best, validation selects."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from plankton_study import encoders, features, metrics
from plankton_study.features import Cell, FeatureBank
from plankton_study.metrics import Estimate
from plankton_study.profile import Features, Probes, StudyError
from plankton_study.progress import progress
from plankton_study.splits import Splits
from plankton_study.store import keep, write_json
from plankton_study.study import Study


@dataclass(frozen=True)
class ProbeResult:
    """What one encoder's probes give in one setting of one set.

    Attributes:
        encoder, setting: names.
        grid: a row a cell, in the encoder's order: layer, timestep, accuracy and macro_f1 of the best ridge on
            validation data, its penalty, equal_width (accuracy after PCA to a common width), near_best_equal_width (one
            standard error or less below the best of these), and stage, resolution, channels, order of the layer.
        finalists: a row a fitted logistic regression: cell, C, validation accuracy and macro_f1.
        selected: the chosen cell; `regularisation` its C.
        standard_error: of the best cell's validation accuracy under ridge.
        near_best: cell → share of bootstrap draws won, for the cells within one standard error of the best.
        predicted: part → (rows (n,), taxa (n,)) of the logistic regression; the same in `neighbours` for k-NN.
        probabilities: part → (n, K) float32, columns in the order of `classes`.
        classes: (K,) taxa the probe knows.
    """

    encoder: str
    setting: str
    grid: pd.DataFrame
    finalists: pd.DataFrame
    selected: Cell
    regularisation: float
    standard_error: float
    near_best: dict[str, float]
    predicted: dict[str, tuple[np.ndarray, np.ndarray]]
    neighbours: dict[str, tuple[np.ndarray, np.ndarray]]
    probabilities: dict[str, np.ndarray]
    classes: np.ndarray


def probe(study: Study, splits: Splits, encoder: str = "diffusion", setting: str = "natural") -> ProbeResult:
    """Extract an encoder's features, fit the whole grid and return what was selected and predicted.

    Args:
        encoder: a key of `encoders.ENCODERS`.
        setting: "natural" (all classes, natural numbers of labels) or "balanced" (equal numbers).

    Returns:
        The stored result; made on the first call. Test and shifted images are predicted once, by the selected probe.
    """
    if not (splits.classes if setting == "natural" else splits.balanced_classes):
        raise StudyError(f"no taxon of {splits.collection.name} has enough images for the {setting} setting")
    if encoder not in encoders.ENCODERS:
        raise StudyError(f"there is no encoder {encoder!r}, only {', '.join(encoders.ENCODERS)}")
    bank = features.extract(study, encoders.ENCODERS[encoder](study, splits), splits, splits.evaluated)
    what = {
        "bank": bank.folder.name,
        "splits": splits.digest,
        "setting": setting,
        "probes": study.profile.probes.model_dump(),
        "classes": [splits.classes, splits.balanced_classes],
        "group_by": splits.collection.entry.group_by,
    }
    folder = keep(
        study,
        "probe",
        what,
        ["probes", "metrics", "splits"],
        lambda to: _probe(to, study, splits, bank, encoder, setting),
    )
    return _read(folder, encoder, setting)


def parts_of(splits: Splits, setting: str) -> dict[str, np.ndarray]:
    """Return the rows a setting trains, selects and tests on; shifted sets keep taxa with at least 10 images there."""
    classes = splits.classes if setting == "natural" else splits.balanced_classes
    parts = {"train": splits["train" if setting == "natural" else "balanced"]}
    parts |= {part: splits.restrict(part, classes) for part in ("validation", "test")}
    for shift in splits.shifts:
        counts = pd.Series(splits.taxa(splits[shift])).value_counts()
        often = tuple(t for t in classes if counts.get(t, 0) >= 10)
        if often:
            parts[shift] = splits.restrict(shift, often)
    return parts


def evaluate(
    study: Study,
    splits: Splits,
    result: ProbeResult,
    part: str,
    neighbours: bool = False,
    minus: ProbeResult | None = None,
) -> dict[str, Estimate]:
    """Return accuracy, macro_f1 and balanced_accuracy of a part with 95 % intervals over its groups.

    With `neighbours` they are those of k-NN; with `minus` the paired differences to another encoder's probe.
    """
    kind = "neighbours" if neighbours else "predicted"
    rows, predicted = getattr(result, kind)[part]
    others = None
    if minus is not None:
        other_rows, others = getattr(minus, kind)[part]
        assert np.array_equal(rows, other_rows), "paired differences need the same images"
    truth, groups = splits.taxa(rows).astype(str), splits.groups(rows)
    return metrics.estimates(truth, predicted, groups, study.profile.probes.draws, others)


def rank(study: Study, splits: Splits, settings: Features) -> tuple[float, float]:
    """Return the best validation accuracy of ridge on the denoiser read with other settings, and its standard error."""
    rows = {part: splits[part] for part in ("train", "validation")}
    encoder = encoders.trained_unet(study, splits, settings)
    bank = features.extract(study, encoder, splits, np.union1d(*rows.values()))
    taxa = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
    grid, right, _ = ridge_grid(bank, rows, taxa, study.profile.probes)
    error, _, _ = selection_frequencies(right, splits.groups(rows["validation"]), study.profile.probes.draws)
    return float(grid["accuracy"].max()), error


def ridge_grid(
    bank: FeatureBank, rows: dict[str, np.ndarray], taxa: dict[str, np.ndarray], config: Probes
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Fit one-against-rest ridge for every cell and penalty from one eigendecomposition a cell.

    Features are standardised with training statistics, so their covariance S has mean eigenvalue 1 and a penalty is
    comparable between cells: W = (S + penalty I)^-1 X'Y / n. Leaving out all but the first `config.width`
    eigenvectors gives the same probe on that many principal components.

    Returns:
        One row a cell (`ProbeResult.grid` without the layers' columns), and twice (cells, n validation) bool:
        right or not, with all features and at equal width.
    """
    classes, codes = np.unique(taxa["train"], return_inverse=True)
    targets = np.eye(len(classes), dtype=np.float32)[codes]
    offset = targets.mean(axis=0)
    table, right, right_narrow = [], [], []
    with progress(f"ridge probes of {len(bank.cells)} cells", len(bank.cells)) as bar:
        for cell in bank.cells:
            scaler = StandardScaler().fit(bank.take(cell, rows["train"]))
            x, v = (scaler.transform(bank.take(cell, rows[p])) for p in ("train", "validation"))
            values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64) / len(x))
            values, vectors = values[::-1].clip(min=0), vectors[:, ::-1].astype(np.float32)
            turned, towards = v @ vectors, vectors.T @ (x.T @ (targets - offset)) / len(x)

            def predict(penalty: float, width: int | None = None) -> np.ndarray:
                scale = (1 / (values + penalty)).astype(np.float32)  # noqa: B023 - called in this round only
                best = ((turned * scale)[:, :width] @ towards[:width] + offset).argmax(axis=1)  # noqa: B023
                return classes[best]

            wide = {penalty: predict(penalty) for penalty in config.ridge}
            penalty = max(wide, key=lambda p: np.mean(wide[p] == taxa["validation"]))
            narrow = max((predict(p, config.width) == taxa["validation"] for p in config.ridge), key=np.mean)
            score = metrics.scores(taxa["validation"], wide[penalty])
            table.append(
                (cell.layer, cell.timestep, score["accuracy"][0], score["macro_f1"][0], penalty, narrow.mean())
            )
            right.append(wide[penalty] == taxa["validation"])
            right_narrow.append(narrow)
            bar.update()
    columns = ["layer", "timestep", "accuracy", "macro_f1", "penalty", "equal_width"]
    return pd.DataFrame(table, columns=columns).astype({"timestep": "Int64"}), np.array(right), np.array(right_narrow)


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


def logistic(x: np.ndarray, taxa: np.ndarray, strength: float) -> LogisticRegression:
    """Fit multinomial logistic regression on standardised features (n, C); `strength` is scikit-learn's C."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)  # stopping early is one more regularisation
        return LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(x, taxa)


def _probe(folder: Path, study: Study, splits: Splits, bank: FeatureBank, name: str, setting: str) -> None:
    config = study.profile.probes
    rows = parts_of(splits, setting)
    taxa = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
    grid, right, narrow = ridge_grid(bank, rows, taxa, config)
    groups = splits.groups(rows["validation"])
    error, near, share = selection_frequencies(right, groups, config.draws)
    grid["near_best_equal_width"] = selection_frequencies(narrow, groups, config.draws)[1]
    ranked = grid["accuracy"].sort_values(ascending=False, kind="stable").index[: config.finalists]

    fitted, best = [], None
    with progress(f"logistic probes of {name} on {splits.collection.name}", len(ranked) * len(config.logistic)) as bar:
        for cell in (bank.cells[i] for i in ranked):
            scaler = StandardScaler().fit(bank.take(cell, rows["train"]))
            x, v = (scaler.transform(bank.take(cell, rows[p])) for p in ("train", "validation"))
            for strength in config.logistic:
                model = logistic(x, taxa["train"], strength)
                score = {key: value[0] for key, value in metrics.scores(taxa["validation"], model.predict(v)).items()}
                fitted.append((cell.layer, cell.timestep, strength, score["accuracy"], score["macro_f1"]))
                if best is None or score[config.metric] > best[0]:
                    best = (score[config.metric], cell, strength, scaler, model)
                bar.update()
    _, cell, strength, scaler, model = best
    x = scaler.transform(bank.take(cell, rows["train"]))
    arrays: dict[str, np.ndarray] = {"classes": model.classes_}
    inputs = {part: scaler.transform(bank.take(cell, rows[part])) for part in rows if part != "train"}
    neighbours = _neighbours(x, taxa["train"], inputs["validation"], taxa["validation"], config)
    for part, features_of in inputs.items():
        chances = model.predict_proba(features_of)
        arrays |= {f"rows.{part}": rows[part], f"probabilities.{part}": chances.astype(np.float32)}
        arrays[f"predicted.{part}"] = model.classes_[chances.argmax(axis=1)]
        arrays[f"neighbours.{part}"] = neighbours.predict(features_of)
    np.savez(folder / "predictions.npz", **arrays)
    grid.join(bank.layers, on="layer").to_parquet(folder / "grid.parquet")
    columns = ["layer", "timestep", "C", "accuracy", "macro_f1"]
    pd.DataFrame(fitted, columns=columns).astype({"timestep": "Int64"}).to_parquet(folder / "finalists.parquet")
    order = [i for i in np.argsort(-share, kind="stable") if near[i]]
    about = {"layer": cell.layer, "timestep": cell.timestep, "C": strength, "standard_error": error}
    about["neighbours"] = neighbours.n_neighbors
    write_json(folder / "selection.json", {**about, "near_best": [[str(bank.cells[i]), share[i]] for i in order]})


def _neighbours(
    x: np.ndarray, taxa: np.ndarray, validation: np.ndarray, truth: np.ndarray, config: Probes
) -> KNeighborsClassifier:
    """Fit cosine k-NN with the k that is best on validation data."""
    models = [KNeighborsClassifier(k, metric="cosine").fit(x, taxa) for k in config.neighbours if k <= len(x)]
    return max(models, key=lambda model: np.mean(model.predict(validation) == truth))


def _read(folder: Path, encoder: str, setting: str) -> ProbeResult:
    about = json.loads((folder / "selection.json").read_text())
    with np.load(folder / "predictions.npz") as stored:
        arrays = dict(stored)
    parts = [key.removeprefix("rows.") for key in arrays if key.startswith("rows.")]
    return ProbeResult(
        encoder,
        setting,
        pd.read_parquet(folder / "grid.parquet"),
        pd.read_parquet(folder / "finalists.parquet"),
        Cell(about["layer"], about["timestep"]),
        about["C"],
        about["standard_error"],
        dict(about["near_best"]),
        {part: (arrays[f"rows.{part}"], arrays[f"predicted.{part}"]) for part in parts},
        {part: (arrays[f"rows.{part}"], arrays[f"neighbours.{part}"]) for part in parts},
        {part: arrays[f"probabilities.{part}"] for part in parts},
        arrays["classes"],
    )
