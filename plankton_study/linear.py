"""The two linear probes: ridge, which ranks every cell, and multinomial logistic regression, which decides."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from sklearn.preprocessing import StandardScaler

from plankton_study import metrics
from plankton_study.features import Cell, FeatureBank
from plankton_study.progress import progress
from plankton_study.schema import Probes

BLOCK = 65_536  # rows of features that are in memory at a time


def in_blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Return rows in parts of nearly equal size, at most `BLOCK` each."""
    return np.array_split(rows, -(-len(rows) // BLOCK) or 1)


class Blocks:
    """Features of some rows, standardised, as blocks that fit into memory: several blocks are read anew each time."""

    def __init__(self, bank: FeatureBank, cell: Cell, rows: np.ndarray, scaler: StandardScaler) -> None:
        self.scaler, self.read = scaler, lambda part: scaler.transform(bank.take(cell, part))
        self.parts = in_blocks(rows)
        self.only = [self.read(rows)] if len(self.parts) == 1 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.only or map(self.read, self.parts))

    def whole(self) -> np.ndarray:
        """Return all at once, (n, C) float32."""
        return np.concatenate(list(self))


def standardised(bank: FeatureBank, cell: Cell, train: np.ndarray, *others: np.ndarray) -> list[Blocks]:
    """Return a cell's features of several parts, (n, C) float32 each, scaled by the statistics of the training rows."""
    scaler = StandardScaler()
    for part in in_blocks(train):
        scaler.partial_fit(bank.take(cell, part))
    return [Blocks(bank, cell, rows, scaler) for rows in (train, *others)]


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
    offset = (np.bincount(codes) / len(codes)).astype(np.float32)
    asked = [part for part in rows if part != "train"]
    table, right, right_narrow = [], [], []
    for cell in progress(f"ridge probes of {len(cells)} cells", cells):
        x, *others = standardised(bank, cell, rows["train"], *(rows[part] for part in asked))
        covariance, towards = 0.0, 0.0
        for block, own in zip(x, in_blocks(codes), strict=True):
            covariance = covariance + (block.T @ block).astype(np.float64) / len(codes)
            towards = towards + block.T @ (np.eye(len(classes), dtype=np.float32)[own] - offset) / len(codes)
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1].astype(np.float32)
        towards, blocks = vectors.T @ towards, dict(zip(asked, others, strict=True))

        def predict(penalty: float, width: int | None = None, part: str = "validation") -> np.ndarray:
            scale = (1 / (values + penalty)).astype(np.float32)[:width]  # noqa: B023 - called in this round only
            weights = vectors[:, :width] * scale @ towards[:width]  # noqa: B023
            return classes[np.concatenate([(z @ weights + offset).argmax(axis=1) for z in blocks[part]])]  # noqa: B023

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

    def probabilities(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """Return (n, K) float32 class probabilities of blocks of features, (n, C) together."""
        return np.concatenate([softmax(x @ self.weights + self.bias, axis=1) for x in blocks])


def logistic_path(
    blocks: Iterable[np.ndarray],
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
        blocks: (n, C) float32 training features together, standardised; iterated once an iteration.
        codes: (n,) int64 classes, each of 0 … K-1 present.
        strengths: values of C, best from weak to strong.
        sample_weight: (n,) float, None for equal weights.
        tolerance: of the largest entry of the gradient; `most` iterations at most. With thousands of images a weak
            penalty moves the gradient by less (scikit-learn's default, 1e-4, is little stricter): such fits are held
            by stopping early rather than by their C, and the largest may equal the one before.
    """
    w = np.ones(len(codes)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
    share, own = torch.from_numpy((w / w.sum()).astype(np.float32)), torch.from_numpy(codes)

    def each() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        at = 0
        for x in map(torch.from_numpy, blocks):
            yield x, own[at : at + len(x)], share[at : at + len(x), None]
            at += len(x)

    centre = sum(x.T @ part for x, _, part in each())  # with it the bias is independent of the weights
    covariance = sum(((x - centre.T).T @ ((x - centre.T) * part)).double() for x, _, part in each())
    values, vectors = np.linalg.eigh(covariance.numpy())
    vectors = torch.from_numpy(vectors.astype(np.float32))
    curvature = torch.from_numpy(np.append(values.clip(min=0), 1.0).astype(np.float32))[:, None] / 2
    solution = torch.zeros(len(vectors) + 1, int(own.max()) + 1)
    solution[-1] = torch.bincount(own, share).log()

    def unturned(turned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights = vectors @ turned[:-1]
        return weights, turned[-1] - (centre.T @ weights)[0]

    def gradient(turned: torch.Tensor) -> torch.Tensor:
        weights, bias = unturned(turned)
        total, mass = torch.zeros_like(weights), torch.zeros_like(bias)
        for x, codes_here, part in each():
            error = torch.addmm(bias, x, weights).softmax(dim=1)
            error[torch.arange(len(x)), codes_here] -= 1
            error *= part
            total, mass = total + x.T @ error, mass + error.sum(dim=0)
        return torch.cat([vectors.T @ (total - centre * mass), mass[None]])

    for strength in strengths:
        penalty = torch.full((len(solution), 1), 1 / (strength * w.sum()), dtype=torch.float32)
        penalty[-1] = 0
        ahead, momentum, iterations = solution.clone(), 1.0, 0
        for iterations in range(1, most + 1):  # noqa: B007 - reported
            downhill = gradient(ahead) + penalty * ahead
            if downhill.abs().max() < tolerance:
                break
            moved = ahead - downhill / (curvature + penalty + 1e-6) - solution
            if (downhill * moved).sum() > 0:  # the momentum points uphill: forget it
                momentum = 1.0
            faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            solution = solution + moved
            ahead = solution + (momentum - 1) / faster * moved
            momentum = faster
        yield Logistic(strength, *(part.numpy() for part in unturned(ahead)), iterations)
        solution = ahead
