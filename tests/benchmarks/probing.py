"""The grid of probes against scikit-learn's logistic regression, cell by cell, on the same standardised features."""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from timing import row

from plankton_study import probes, study
from plankton_study.features import Cell, FeatureBank
from plankton_study.linear import logistic_path, ridge_grid, standardised

LAYERS, LEVELS, CHANNELS, CLASSES, IMAGES = 10, 10, 64, 100, {"train": 2000, "validation": 1000}
STRENGTHS = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]


def make_bank(folder: Path, seed: int = 0) -> tuple[FeatureBank, dict, dict]:
    """Write features whose class means lie further apart in the middle of the grid; noise is correlated."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(sum(IMAGES.values())) % CLASSES)
    cells = [Cell(f"layer{layer}", level) for layer in range(LAYERS) for level in range(LEVELS)]
    means = rng.normal(size=(CLASSES, CHANNELS))
    for cell in cells:
        signal = 0.5 * np.exp(
            -(((int(cell.layer[5:]) - 6) / 3) ** 2) - ((cell.timestep - 2) / 4) ** 2
        )
        noise = rng.normal(size=(len(codes), CHANNELS)) @ (
            np.eye(CHANNELS) + 0.2 * rng.normal(size=(CHANNELS,) * 2)
        )
        np.save(
            folder / f"{cell}.npy",
            (signal * means[codes] @ rng.normal(size=(CHANNELS,) * 2) / 3 + noise).astype("f"),
        )
    rows = {
        "train": np.arange(IMAGES["train"]),
        "validation": np.arange(IMAGES["train"], len(codes)),
    }
    taxa = {part: np.char.mod("%03d", codes[index]) for part, index in rows.items()}
    return FeatureBank(folder, np.arange(len(codes)), cells, pd.DataFrame()), rows, taxa


def measure() -> list[dict]:
    """Return the rows of this section."""
    config = study.load("demo").profile.probes.model_copy(update={"logistic": STRENGTHS})
    with tempfile.TemporaryDirectory() as folder:
        bank, rows, taxa = make_bank(Path(folder))
        classes, codes = np.unique(taxa["train"], return_inverse=True)

        started = time.perf_counter()
        grid, *_ = ridge_grid(bank, bank.cells, rows, taxa, config)
        best, fitted = -1.0, None
        for cell in (
            bank.cells[i]
            for i in grid["accuracy"].sort_values(ascending=False).index[: config.finalists]
        ):
            x, v = standardised(bank, cell, rows["train"], rows["validation"])
            for model in logistic_path(x, codes, STRENGTHS):
                accuracy = np.mean(
                    classes[model.probabilities(v).argmax(axis=1)] == taxa["validation"]
                )
                best, fitted = max((best, fitted), (accuracy, str(cell)))
        ours = time.perf_counter() - started

        right, theirs, seconds = {}, {}, {"ours": [], "theirs": []}
        for cell in bank.cells:
            x, v = (
                blocks.whole()
                for blocks in standardised(bank, cell, rows["train"], rows["validation"])
            )
            started = time.perf_counter()
            for strength in STRENGTHS:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model = LogisticRegression(C=strength, max_iter=1000).fit(x, codes)
                right[cell, strength] = classes[model.predict(v)] == taxa["validation"]
            seconds["theirs"].append(time.perf_counter() - started)
            theirs[cell] = max(right[cell, strength].mean() for strength in STRENGTHS)
            if len(seconds["ours"]) < 10:
                started = time.perf_counter()
                list(logistic_path([x], codes, STRENGTHS))
                seconds["ours"].append(time.perf_counter() - started)
    strongest = {cell: max((right[cell, c] for c in STRENGTHS), key=np.mean) for cell in bank.cells}
    _, near, _ = probes.selection_frequencies(
        np.array(list(strongest.values())), rows["validation"], 1000
    )
    among = {str(cell) for cell, inside in zip(bank.cells, near, strict=True) if inside}
    fits = f"{len(bank.cells)} cells, {len(STRENGTHS)} strengths, {IMAGES['train']} images, {CLASSES} classes"
    speed, gap = (
        np.array([sum(seconds["theirs"]) / ours]),
        np.array([100 * (best - max(theirs.values()))]),
    )
    head = np.array(seconds["theirs"][:10]) / np.array(seconds["ours"])
    inside = np.array([float(fitted in among)])
    return [
        row("probes", f"scikit-learn takes, for {fits}", speed, "at least 20", speed[0] >= 20),
        row(
            "probes",
            "our best validation accuracy minus theirs",
            gap,
            "at least -0.3",
            gap[0] >= -0.3,
            "points",
        ),
        row(
            "probes",
            f"our cell is among their {len(among)} within one error",
            inside,
            "1",
            bool(inside),
            "",
        ),
        row("probes", "scikit-learn takes for one path of strengths, fit against fit", head),
    ]
