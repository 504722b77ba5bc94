"""Which images to label next: those whose labels would teach the probe most."""

import numpy as np
from sklearn.cluster import KMeans

from plankton_study.questions.naming.names import NAMED, Names

#: images to label next
NUMBER = 20
#: how many times as many uncertain images are clustered (beta of Zhdanov 2019)
CANDIDATES = 10


def margins(probabilities: np.ndarray) -> np.ndarray:
    """Return the difference between the two largest probabilities of each image, (n,)."""
    ordered = np.sort(probabilities, axis=1)
    return ordered[:, -1] - ordered[:, -2]


def diverse_and_uncertain(
    features: np.ndarray, uncertainty: np.ndarray, number: int, seed: int = 0
) -> np.ndarray:
    """Return the positions of images that are uncertain and unlike each other (Zhdanov 2019).

    The images are clustered by k-means, weighted by their uncertainty; of each cluster the image
    nearest to the centre is taken. Uncertain images alone would often be alike.

    Args:
        features: (n, C) standardised.
        uncertainty: (n,) positive.
        number: number of images; fewer if there are fewer.
        seed: of k-means.

    Returns:
        Positions, those of the largest clusters (by the sum of uncertainties) first.
    """
    number = min(number, len(features))
    if number == 0:
        return np.zeros(0, np.int64)
    clusters = KMeans(number, n_init=4, random_state=seed)
    membership = clusters.fit_predict(features, sample_weight=uncertainty)
    distance = np.linalg.norm(features - clusters.cluster_centers_[membership], axis=1)
    sizes = np.bincount(membership, weights=uncertainty, minlength=number)
    chosen = []
    for cluster in np.argsort(-sizes, kind="stable"):
        members = np.flatnonzero(membership == cluster)
        if len(members):
            chosen.append(members[distance[members].argmin()])
    return np.array(chosen)


def ranks_to_label(names: Names, number: int = NUMBER) -> np.ndarray:
    """Return the rank, from 1, of each named image that should be labelled next; 0 for the others.

    Args:
        names: the images.
        number: how many images to choose.

    Returns:
        (n,) int64.
    """
    margin = margins(names.of_classes(NAMED))
    candidates = np.argsort(margin, kind="stable")[: CANDIDATES * number]
    candidates.sort()  # the bank is read in the order of the collection
    features = names.features(candidates)
    chosen = diverse_and_uncertain(features, 1 - margin[candidates], number)
    ranks = np.zeros(len(margin), np.int64)
    ranks[candidates[chosen]] = np.arange(1, len(chosen) + 1)
    return ranks
