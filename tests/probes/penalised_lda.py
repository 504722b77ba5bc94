"""scikit-learn's linear discriminant analysis with a ridge penalty, to compare with."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis


class PenalisedCovariance(BaseEstimator):
    """The covariance of the samples plus a multiple of the identity."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def fit(self, samples: np.ndarray) -> "PenalisedCovariance":
        covariance = np.cov(samples.T, bias=True)
        self.covariance_ = covariance + self.penalty * np.eye(samples.shape[1])
        return self


def penalised_lda(penalty: float) -> LinearDiscriminantAnalysis:
    """Return the classifier, not yet fitted."""
    return LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=PenalisedCovariance(penalty)
    )
