"""The two linear probes: ridge, which ranks every cell, and multinomial logistic regression, which decides."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import StandardScaler

from plankton_study import metrics
from plankton_study.features import Cell, FeatureBank
from plankton_study.progress import progress
from plankton_study.schema import Probes


def standardised(bank: FeatureBank, cell: Cell, train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Return a cell's features of several parts, (n, C) float32 each, scaled by the statistics of the training rows."""
    scaler = StandardScaler().fit(bank.take(cell, train))
    return [scaler.transform(bank.take(cell, rows)) for rows in (train, *others)]


def ridge_grid(
    bank: FeatureBank, cells: list[Cell], rows: dict[str, np.ndarray], taxa: dict[str, np.ndarray], config: Probes
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Fit one-against-rest ridge for every cell and penalty from one eigendecomposition a cell.

    Features are standardised with training statistics, so their covariance S has mean eigenvalue 1 and a penalty is
    comparable between cells: W = (S + penalty I)^-1 X'Y / n. Leaving out all but the first `config.width`
    eigenvectors gives the same probe on that many principal components.

    Returns:
        One row a cell: layer, timestep, accuracy, macro_f1, penalty, equal_width, and the accuracy on each part of
        `rows` besides "train" and "validation"; and twice (cells, n validation) bool: right or not, with all features
        and at equal width.
    """
    classes, codes = np.unique(taxa["train"], return_inverse=True)
    targets = np.eye(len(classes), dtype=np.float32)[codes]
    offset, asked = targets.mean(axis=0), [part for part in rows if part != "train"]
    table, right, right_narrow = [], [], []
    for cell in progress(f"ridge probes of {len(cells)} cells", cells):
        x, *others = standardised(bank, cell, rows["train"], *(rows[part] for part in asked))
        values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64) / len(x))
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1].astype(np.float32)
        turned = {part: z @ vectors for part, z in zip(asked, others, strict=True)}
        towards = vectors.T @ (x.T @ (targets - offset)) / len(x)

        def predict(penalty: float, width: int | None = None, part: str = "validation") -> np.ndarray:
            scale = (1 / (values + penalty)).astype(np.float32)  # noqa: B023 - called in this round only
            best = ((turned[part] * scale)[:, :width] @ towards[:width] + offset).argmax(axis=1)  # noqa: B023
            return classes[best]

        wide = {penalty: predict(penalty) for penalty in config.ridge}
        penalty = max(wide, key=lambda p: np.mean(wide[p] == taxa["validation"]))
        narrow = max((predict(p, config.width) == taxa["validation"] for p in config.ridge), key=np.mean)
        score = metrics.scores(taxa["validation"], wide[penalty])
        row = {"layer": cell.layer, "timestep": cell.timestep, **{k: score[k][0] for k in ("accuracy", "macro_f1")}}
        row |= {"penalty": penalty, "equal_width": narrow.mean()}
        row |= {p: np.mean(predict(penalty, None, p) == taxa[p]) for p in asked if p != "validation"}
        table.append(row)
        right.append(wide[penalty] == taxa["validation"])
        right_narrow.append(narrow)
    return pd.DataFrame(table).astype({"timestep": "Int64"}), np.array(right), np.array(right_narrow)


class Logistic(NamedTuple):
    """A multinomial logistic regression: log odds of (n, C) standardised features are `x @ weights + bias`."""

    strength: float  # scikit-learn's C
    weights: np.ndarray  # (C, K) float32
    bias: np.ndarray  # (K,) float32
    iterations: int

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return (n, K) float32 class probabilities of features (n, C)."""
        return torch.from_numpy(x @ self.weights + self.bias).softmax(dim=1).numpy()


def logistic_path(
    x: np.ndarray,
    codes: np.ndarray,
    strengths: Iterable[float],
    sample_weight: np.ndarray | None = None,
    tolerance: float = 3e-4,
    most: int = 500,
) -> Iterator[Logistic]:
    """Fit multinomial logistic regression for each regularisation strength, each started from the one before.

    Minimises scikit-learn's objective, mean of w_i CE_i + |W|^2 / (2 C sum w). The Hessian of the softmax is at most
    half the covariance of the features (Boehning 1992), so one eigendecomposition preconditions every strength:
    accelerated gradient steps (Nesterov, with adaptive restart; O'Donoghue and Candes 2015) along the eigenvectors.

    Args:
        x: (n, C) float32 training features, standardised; `codes` (n,) int64 classes, each of 0 … K-1 present.
        strengths: values of C, best from weak to strong.
        sample_weight: (n,) float, None for equal weights.
        tolerance: of the largest entry of the gradient; `most` iterations at most.
    """
    w = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
    share = torch.from_numpy((w / w.sum()).astype(np.float32))[:, None]
    centre = (share.T @ torch.from_numpy(x)).numpy()  # with it the bias is independent of the weights
    z = torch.from_numpy(x - centre)
    values, vectors = np.linalg.eigh((z.T @ (z * share)).double().numpy())
    vectors = torch.from_numpy(vectors.astype(np.float32))
    z = torch.cat([z @ vectors, torch.ones(len(x), 1)], dim=1)
    curvature = torch.from_numpy(np.append(values.clip(min=0), 1.0).astype(np.float32))[:, None] / 2
    targets = torch.nn.functional.one_hot(torch.from_numpy(codes)).float()
    solution = torch.zeros(z.shape[1], targets.shape[1])
    solution[-1] = ((share * targets).sum(dim=0)).log()
    for strength in strengths:
        penalty = torch.full((z.shape[1], 1), 1 / (strength * w.sum()), dtype=torch.float32)
        penalty[-1] = 0
        ahead, momentum, iterations = solution.clone(), 1.0, 0
        for iterations in range(1, most + 1):  # noqa: B007 - reported
            gradient = z.T @ (((z @ ahead).softmax(dim=1) - targets) * share) + penalty * ahead
            if gradient.abs().max() < tolerance:
                break
            moved = ahead - gradient / (curvature + penalty + 1e-6) - solution
            if (gradient * moved).sum() > 0:  # the momentum points uphill: forget it
                momentum = 1.0
            faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            solution = solution + moved
            ahead = solution + (momentum - 1) / faster * moved
            momentum = faster
        weights = (vectors @ ahead[:-1]).numpy()
        yield Logistic(strength, weights, ahead[-1].numpy() - (centre @ weights)[0], iterations)
        solution = ahead
