"""Multinomial logistic regression for a path of regularisation strengths."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from scipy.special import softmax
from threadpoolctl import threadpool_limits

#: a fit ends when an iteration lowers the objective by a smaller share of it. It then lies within
#: 0.1 % of the minimum (tested against scikit-learn), so that C regularises, not early stopping.
TOLERANCE = 1e-6
MAX_ITERATIONS = 1000
#: a status of SciPy's L-BFGS
LINE_SEARCH_FAILED = 2


class LogisticModel(NamedTuple):
    """A fitted model: the logits of standardised features x are x @ weights + bias."""

    strength: float  # scikit-learn's C
    weights: np.ndarray  # (C, K) float32
    bias: np.ndarray  # (K,) float32
    iterations: int
    converged: bool  # False if the fit ended at the limit of iterations, or could not go on

    def probabilities(self, features: Iterable[np.ndarray]) -> np.ndarray:
        """Return class probabilities (n, K) float32 for blocks of features, (n, C) in total."""
        return np.concatenate(
            [softmax(block @ self.weights + self.bias, axis=1) for block in features]
        )


def logistic_path(
    features: Iterable[np.ndarray],
    codes: np.ndarray,
    strengths: Iterable[float],
    sample_weight: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Iterator[LogisticModel]:
    """Fit multinomial logistic regression for each strength, starting from the previous solution.

    It minimises scikit-learn's objective, mean of w_i CE_i + |W|^2 / (2 C sum w). The Hessian of
    the softmax is at most half the covariance of the features (Boehning 1992), so one
    eigendecomposition preconditions every strength. SciPy's L-BFGS minimises the preconditioned
    objective.

    Args:
        features: blocks of standardised training features, (n, C) float32 in total; iterated
            over once in each iteration.
        codes: (n,) int64 classes, each of 0 … K-1 present.
        strengths: values of C, preferably from strong to weak regularisation.
        sample_weight: (n,) float; None: equal weights.
        tolerance: a fit ends when an iteration lowers the objective by a smaller share of it.
        max_iterations: limit for each strength.
    """
    problem = _Problem(features, codes, sample_weight)
    solution = problem.start()
    for strength in strengths:
        fit = problem.minimise(solution, strength, tolerance, max_iterations)
        solution = fit.solution
        weights, bias = problem.to_features(solution)
        yield LogisticModel(strength, weights.numpy(), bias.numpy(), fit.iterations, fit.converged)


def path_as_arrays(
    features: Iterable[np.ndarray], codes: np.ndarray, strengths: list[float]
) -> dict[str, np.ndarray]:
    """Return a path in a form that can be stored: field of `LogisticModel` → values of all fits."""
    path = list(logistic_path(features, codes, strengths))
    fields = LogisticModel._fields
    return {field: np.array([getattr(model, field) for model in path]) for field in fields}


def path_from_arrays(arrays: dict[str, np.ndarray]) -> list[LogisticModel]:
    """Return the path that `path_as_arrays` converted to arrays."""
    fits = zip(*(arrays[field] for field in LogisticModel._fields), strict=True)
    return [LogisticModel(*fit) for fit in fits]


class _Fit(NamedTuple):
    """The solution for one strength, see `_Problem`."""

    solution: torch.Tensor
    iterations: int
    converged: bool


class _Problem:
    """The training data of a path, in the basis of eigenvectors of the features' covariance.

    A solution is (C + 1, K): the weights along the eigenvectors, and in the last row the bias for
    centred features, which is independent of the weights.
    """

    def __init__(
        self,
        features: Iterable[np.ndarray],
        codes: np.ndarray,
        sample_weight: np.ndarray | None,
    ) -> None:
        if sample_weight is None:
            sample_weight = np.ones(len(codes))
        sample_weight = np.asarray(sample_weight, dtype=float)
        self.features = features
        self.codes = torch.from_numpy(codes)
        self.total_weight = sample_weight.sum()
        shares = (sample_weight / self.total_weight).astype(np.float32)
        self.shares = torch.from_numpy(shares)

        self.centre = sum(x.T @ share for x, _, share in self._blocks())  # (C, 1)
        covariance = sum(self._block_covariance(x, share) for x, _, share in self._blocks())
        values, vectors = np.linalg.eigh(covariance.numpy())
        self.vectors = torch.from_numpy(vectors.astype(np.float32))
        bounds = np.append(values.clip(min=0), 1.0).astype(np.float32)
        self.curvature = torch.from_numpy(bounds)[:, None] / 2

    def _blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield features (b, C), classes (b,) and shares of the total weight (b, 1)."""
        start = 0
        for block in self.features:
            x = torch.from_numpy(block)
            end = start + len(x)
            yield x, self.codes[start:end], self.shares[start:end, None]
            start = end

    def _block_covariance(self, x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        centred = x - self.centre.T
        return (centred.T @ (centred * share)).double()

    def start(self) -> torch.Tensor:
        """Return the solution without features: the logarithms of the class frequencies."""
        solution = torch.zeros(len(self.vectors) + 1, int(self.codes.max()) + 1)
        solution[-1] = torch.bincount(self.codes, self.shares).log()
        return solution

    def to_features(self, solution: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights (C, K) and bias (K,) in the original feature space."""
        weights = self.vectors @ solution[:-1]
        return weights, solution[-1] - (self.centre.T @ weights)[0]

    def loss_and_gradient(self, solution: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return the mean cross-entropy, without the penalty, and its gradient."""
        weights, bias = self.to_features(solution)
        loss = 0.0
        of_weights, of_bias = torch.zeros_like(weights), torch.zeros_like(bias)
        for x, codes, share in self._blocks():
            log_probabilities = torch.addmm(bias, x, weights).log_softmax(dim=1)
            of_true_class = torch.arange(len(x)), codes
            loss -= (log_probabilities[of_true_class] * share[:, 0]).sum(dtype=torch.float64).item()
            error = log_probabilities.exp_()
            error[of_true_class] -= 1
            error *= share
            of_weights = of_weights + x.T @ error
            of_bias = of_bias + error.sum(dim=0)
        along_vectors = self.vectors.T @ (of_weights - self.centre * of_bias)
        return loss, torch.cat([along_vectors, of_bias[None]])

    def minimise(
        self, start: torch.Tensor, strength: float, tolerance: float, max_iterations: int
    ) -> _Fit:
        """Return the solution for one strength, by L-BFGS from a start."""
        penalty = torch.full((len(start), 1), 1 / (strength * self.total_weight))
        penalty[-1] = 0  # the bias is not penalised
        scale = (self.curvature + penalty + 1e-6).rsqrt()  # makes all directions equally curved

        def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
            solution = torch.from_numpy(scaled.astype(np.float32)).reshape(start.shape) * scale
            loss, gradient = self.loss_and_gradient(solution)
            loss += (penalty * solution.square()).sum(dtype=torch.float64).item() / 2
            downhill = (gradient + penalty * solution) * scale
            return loss, downhill.double().numpy().ravel()

        last, is_flat = math.inf, False

        def stop_where_flat(intermediate_result: OptimizeResult) -> None:
            nonlocal last, is_flat
            gain, last = last - intermediate_result.fun, intermediate_result.fun
            is_flat = gain <= tolerance * last
            if is_flat:
                raise StopIteration

        point, before, iterations = (start / scale).double().numpy().ravel(), math.inf, 0
        while True:
            # after each small product, NumPy's idle threads would keep torch's threads waiting
            with threadpool_limits(1, user_api="blas"):
                found = minimize(
                    objective,
                    point,
                    jac=True,
                    method="L-BFGS-B",
                    callback=stop_where_flat,
                    # SciPy's own tolerance is relative only to objectives above 1
                    options={"ftol": 0.0, "gtol": 0.0, "maxiter": max_iterations},
                )
            iterations += int(found.nit)
            if is_flat or found.status != LINE_SEARCH_FAILED:
                break
            # rounding hides the descent: start afresh, until that gains nothing
            is_flat = before - found.fun <= tolerance * found.fun
            if is_flat:
                break
            point, before = found.x, found.fun
        solution = torch.from_numpy(found.x.astype(np.float32)).reshape(start.shape) * scale
        return _Fit(solution, iterations, bool(is_flat or found.success))
