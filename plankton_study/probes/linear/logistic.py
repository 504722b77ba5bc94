"""Multinomial logistic regression for a path of regularisation strengths."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from scipy.special import softmax
from threadpoolctl import threadpool_limits

#: a fit ends when two iterations in a row lower the objective by a smaller share of it (a single
#: small step may be followed by larger ones). It then lies within 0.1 % of the minimum, or 0.00001
#: (tested against scikit-learn), so that C regularises, not early stopping.
TOLERANCE = 1e-6
FLAT_ITERATIONS = 2
MAX_ITERATIONS = 1000
#: a status of SciPy's L-BFGS
LINE_SEARCH_FAILED = 2


class LinearModel(NamedTuple):
    """A fitted model: the logits of standardised features x are x @ weights + bias."""

    strength: float  # scikit-learn's C; of LDA, its penalty
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
) -> Iterator[LinearModel]:
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
        tolerance: a fit ends when two iterations in a row lower the objective by a smaller share.
        max_iterations: limit for each strength (after each fresh start, see `_descend`).
    """
    problem = _Problem(features, codes, sample_weight)
    solution = problem.start()
    for strength in strengths:
        fit = problem.minimise(solution, strength, tolerance, max_iterations)
        solution = fit.solution
        weights, bias = problem.to_features(solution)
        yield LinearModel(strength, weights.numpy(), bias.numpy(), fit.iterations, fit.converged)


def path_as_arrays(
    features: Iterable[np.ndarray], codes: np.ndarray, strengths: list[float]
) -> dict[str, np.ndarray]:
    """Return a path in a form that can be stored: field of `LinearModel` → values of all fits."""
    path = list(logistic_path(features, codes, strengths))
    fields = LinearModel._fields
    return {field: np.array([getattr(model, field) for model in path]) for field in fields}


def path_from_arrays(arrays: dict[str, np.ndarray]) -> list[LinearModel]:
    """Return the path that `path_as_arrays` converted to arrays."""
    fits = zip(*(arrays[field] for field in LinearModel._fields), strict=True)
    return [LinearModel(*fit) for fit in fits]


class _Fit(NamedTuple):
    """The solution for one strength, see `_Problem`."""

    solution: torch.Tensor
    iterations: int
    converged: bool


class _Problem:
    """The training data of a path, in the basis of eigenvectors of the features' covariance.

    A solution is (r + 1, K): the weights along the r eigenvectors, and in the last row the bias
    for centred features, which is independent of the weights. There are C eigenvectors; of a
    single block with fewer samples than features, as many as samples.
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
        self.codes = torch.from_numpy(codes)
        self.total_weight = sample_weight.sum()
        shares = (sample_weight / self.total_weight).astype(np.float32)
        self.shares = torch.from_numpy(shares)

        self.features = features
        self.centre = sum(x.T @ share for x, _, share in self._blocks())  # (C, 1)
        self.is_single_block = sum(1 for _ in islice(features, 2)) == 1
        variances, self.vectors = self._single_basis() if self.is_single_block else self._basis()
        if self.is_single_block:
            # kept as coordinates: no iteration has to go through the basis
            self.features = [self._coordinates().numpy()]
        bounds = torch.cat([variances, torch.ones(1)])
        self.curvature = bounds[:, None] / 2

    def _blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield features (b, C), classes (b,) and shares of the total weight (b, 1)."""
        start = 0
        for block in self.features:
            x = torch.from_numpy(block)
            end = start + len(x)
            yield x, self.codes[start:end], self.shares[start:end, None]
            start = end

    def _basis(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the variances (C,) along the eigenvectors, and the eigenvectors (C, C)."""
        covariance = sum(self._block_covariance(x, share) for x, _, share in self._blocks())
        variances, vectors = np.linalg.eigh(covariance.numpy())
        return _as_float32(variances.clip(min=0)), _as_float32(vectors)

    def _block_covariance(self, x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        centred = x - self.centre.T
        return (centred.T @ (centred * share)).double()

    def _single_basis(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the variances (r,) along the eigenvectors, and the eigenvectors (C, r)."""
        ((x, _, share),) = self._blocks()
        samples, width = x.shape
        if samples >= width:
            return self._basis()
        weighted = (x - self.centre.T) * share.sqrt()
        _, roots, vectors = np.linalg.svd(weighted.double().numpy(), full_matrices=False)
        return _as_float32(roots**2), _as_float32(vectors.T)

    def _coordinates(self) -> torch.Tensor:
        """Return the centred features of a single block along the eigenvectors, (n, r)."""
        ((x, _, _),) = self._blocks()
        return (x - self.centre.T) @ self.vectors

    def start(self) -> torch.Tensor:
        """Return the solution without features: the logarithms of the class frequencies."""
        solution = torch.zeros(self.vectors.shape[1] + 1, int(self.codes.max()) + 1)
        solution[-1] = torch.bincount(self.codes, self.shares).log()
        return solution

    def to_features(self, solution: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights (C, K) and bias (K,) in the original feature space."""
        weights = self.vectors @ solution[:-1]
        return weights, solution[-1] - (self.centre.T @ weights)[0]

    def loss_and_gradient(self, solution: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return the mean cross-entropy, without the penalty, and its gradient."""
        weights, bias = self._of_blocks(solution)
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
        return loss, self._along_vectors(of_weights, of_bias)

    def _of_blocks(self, solution: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights and the bias for what the blocks hold, features or coordinates."""
        if self.is_single_block:
            return solution[:-1], solution[-1]
        return self.to_features(solution)

    def _along_vectors(self, of_weights: torch.Tensor, of_bias: torch.Tensor) -> torch.Tensor:
        """Return the gradient of a solution from that of the weights and bias of the blocks."""
        if not self.is_single_block:
            of_weights = self.vectors.T @ (of_weights - self.centre * of_bias)
        return torch.cat([of_weights, of_bias[None]])

    def minimise(
        self, start: torch.Tensor, strength: float, tolerance: float, max_iterations: int
    ) -> _Fit:
        """Return the solution for one strength, by L-BFGS from a start."""
        penalty = torch.full((len(start), 1), 1 / (strength * self.total_weight))
        penalty[-1] = 0  # the bias is not penalised
        scale = (self.curvature + penalty + 1e-6).rsqrt()  # makes all directions equally curved

        def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
            solution = _as_float32(scaled).reshape(start.shape) * scale
            loss, gradient = self.loss_and_gradient(solution)
            loss += (penalty * solution.square()).sum(dtype=torch.float64).item() / 2
            downhill = (gradient + penalty * solution) * scale
            return loss, downhill.double().numpy().ravel()

        scaled_start = (start / scale).double().numpy().ravel()
        found = _descend(objective, scaled_start, tolerance, max_iterations)
        solution = _as_float32(found.point).reshape(start.shape) * scale
        return _Fit(solution, found.iterations, found.converged)


#: a point → the loss there and its gradient
_Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


class _Descent(NamedTuple):
    """Where a descent ended."""

    point: np.ndarray  # float64
    loss: float
    iterations: int
    converged: bool
    may_go_on: bool  # rounding hid the descent, which a fresh start may find again


def _descend(
    objective: _Objective, start: np.ndarray, tolerance: float, max_iterations: int
) -> _Descent:
    """Minimise by L-BFGS; start afresh where rounding hides the descent, until that gains nothing.

    Args:
        objective: the loss and its gradient.
        start: the first point, float64.
        tolerance: it has converged when the loss falls twice in a row by a smaller share of it.
        max_iterations: the limit after each start.
    """
    found = _descend_once(objective, start, tolerance, max_iterations)
    while found.may_go_on:
        after = _descend_once(objective, found.point, tolerance, max_iterations)
        gains_nothing = found.loss - after.loss <= tolerance * after.loss
        found = after._replace(
            iterations=found.iterations + after.iterations,
            converged=after.converged or gains_nothing,
            may_go_on=after.may_go_on and not gains_nothing,
        )
    return found


def _descend_once(
    objective: _Objective, start: np.ndarray, tolerance: float, max_iterations: int
) -> _Descent:
    last, flat_iterations = math.inf, 0

    def stop_where_flat(intermediate_result: OptimizeResult) -> None:
        nonlocal last, flat_iterations
        gain, last = last - intermediate_result.fun, intermediate_result.fun
        flat_iterations = flat_iterations + 1 if gain <= tolerance * last else 0
        if flat_iterations == FLAT_ITERATIONS:
            raise StopIteration

    # after each small product, NumPy's idle threads would keep torch's threads waiting
    with threadpool_limits(1, user_api="blas"):
        found = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            callback=stop_where_flat,
            # SciPy's own tolerance is relative only to objectives above 1
            options={"ftol": 0.0, "gtol": 0.0, "maxiter": max_iterations},
        )
    is_flat = flat_iterations == FLAT_ITERATIONS
    return _Descent(
        found.x,
        float(found.fun),
        int(found.nit),
        converged=bool(is_flat or found.success),
        may_go_on=not is_flat and found.status == LINE_SEARCH_FAILED,
    )


def _as_float32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
