"""Near duplicates: the quick search finds what the comparison of all pairs finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study.images.duplicates import near_duplicates


@pytest.mark.parametrize("size", [16, 36, 112])
def test_near_duplicates_are_found_at_any_size(size):
    images = np.random.default_rng(0).integers(0, 256, (4, size, size), dtype=np.uint8)
    images[3] = images[1]
    near = near_duplicates(images, np.array([0, 1, 2]), np.array([3]), 0.99)
    assert near.tolist() == [1]


def test_nothing_has_no_near_duplicates_and_is_none():
    images = np.zeros((2, 16, 16), np.uint8)
    nothing, row = np.array([], int), np.array([0])
    assert near_duplicates(images, nothing, row, 0.99).size == 0
    assert near_duplicates(images, row, nothing, 0.99).size == 0


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0.6, 0.9, 0.99, 1.0]),
)
def test_near_duplicates_are_those_of_the_comparison_of_all_pairs(seed, first, second, limit):
    """Images around a few motifs have correlations on both sides of the limit."""
    rng = np.random.default_rng(seed)
    motifs = rng.integers(0, 256, (4, 16, 16))[rng.integers(4, size=first + second)]
    noise = rng.normal(0, 1, motifs.shape) * rng.choice([1, 10, 40], (len(motifs), 1, 1))
    images = (motifs + noise).clip(0, 255).astype(np.uint8)
    rows, others = np.arange(first), np.arange(first, first + second)
    correlation = np.corrcoef(images.reshape(len(images), -1))[:first, first:]
    near = set(near_duplicates(images, rows, others, limit))
    certainly_near = set(rows[(correlation > limit + 1e-6).any(axis=1)])
    possibly_near = set(rows[(correlation > limit - 1e-6).any(axis=1)])
    assert certainly_near <= near <= possibly_near
