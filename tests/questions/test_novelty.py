"""Unknown taxa: a planted class is noticed, and an image's score is its own."""

import numpy as np
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from plankton_study.images.splits import make_splits
from plankton_study.questions.monitoring.novelty import NoveltyScorer, denoising_error


def test_a_planted_novel_class_scores_above_known_ones():
    rng = np.random.default_rng(1)
    centres = 6 * np.eye(3)

    def draw_known(number):
        codes = rng.choice(3, number)
        return centres[codes] + rng.normal(size=(number, 3)), codes

    train, codes = draw_known(300)
    known, _ = draw_known(200)
    novel = rng.normal(size=(200, 3)) + 2  # between the classes
    images = np.vstack([known, novel])
    chances = softmax(-((images[:, None] - centres) ** 2).sum(axis=2) / 2, axis=1)
    scores = NoveltyScorer(train, codes).scores(images, chances)
    assert set(scores) == {"maximum softmax", "k-NN distance", "Mahalanobis"}
    for name, score in scores.items():
        assert roc_auc_score(np.repeat([0, 1], 200), score) > 0.8, name


def test_the_denoisers_error_does_not_depend_on_the_company_of_an_image(shared):
    splits = make_splits(shared, "shapes")
    rows = splits["test"]
    errors = denoising_error(shared, splits, rows)
    assert errors.shape == (len(rows),) and (errors > 0).all()
    backwards = denoising_error(shared, splits, rows[::-1])
    np.testing.assert_allclose(backwards[::-1], errors, rtol=1e-4)
    of_two = denoising_error(shared, splits, rows[3:5])
    np.testing.assert_allclose(of_two, errors[3:5], rtol=1e-4)
