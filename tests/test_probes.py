"""Metrics against scikit-learn, what the probes promise, and the rule that only validation data selects."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from plankton_study import encoders, metrics, probes, splits
from plankton_study.features import Cell
from plankton_study.probes import HEAD
from plankton_study.profile import StudyError

TAXA = np.array(["a", "b", "c", "d"])


# --- metrics


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_scores_equal_scikit_learns(n, seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.choice(TAXA[:3], n), rng.choice(TAXA, n)
    found = metrics.scores(truth, guess)
    present = np.unique(truth)
    assert found["accuracy"][0] == pytest.approx(accuracy_score(truth, guess))
    assert found["macro_f1"][0] == pytest.approx(
        f1_score(truth, guess, labels=present, average="macro")
    )
    seen = [np.mean(guess[truth == t] == t) for t in present]
    assert found["balanced_accuracy"][0] == pytest.approx(np.mean(seen))
    if set(guess) <= set(present):
        assert np.mean(seen) == pytest.approx(balanced_accuracy_score(truth, guess))


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 40), st.integers(0, 1000))
def test_a_weight_counts_an_image_that_often(n, seed):
    rng = np.random.default_rng(seed)
    truth, guess, times = rng.choice(TAXA, n), rng.choice(TAXA, n), rng.integers(1, 4, n)
    weighted = metrics.scores(truth, guess, times[None].astype(float))
    repeated = metrics.scores(np.repeat(truth, times), np.repeat(guess, times))
    assert all(weighted[k][0] == pytest.approx(repeated[k][0]) for k in weighted)


def test_the_bootstrap_keeps_groups_together():
    groups = np.repeat(np.arange(5), 4)
    weights = metrics.resample(groups, 50)
    assert (weights.reshape(50, 5, 4) == weights.reshape(50, 5, 4)[:, :, :1]).all()
    assert (weights.reshape(50, 5, 4)[:, :, 0].sum(axis=1) == 5).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(100):
        truth = rng.choice(TAXA, 150)
        guess = np.where(rng.random(150) < 0.7, truth, "wrong")
        estimate = metrics.estimates(truth, guess, np.arange(150), 300)["accuracy"]
        inside += estimate.low <= 0.7 <= estimate.high
    assert 88 <= inside <= 100


def test_an_interval_is_the_middle_95_percent_of_the_draws():
    found = metrics.percentiles(np.append(0.5, np.arange(1001) / 1000), 9)
    assert found[:3] == pytest.approx((0.5, 0.025, 0.975))


def test_a_draw_without_a_taxon_averages_over_the_others():
    truth, guess = np.array(list("aab")), np.array(list("aba"))
    drawn, alone = (
        metrics.scores(truth, guess, np.array([[1.0, 1, 0]])),
        metrics.scores(truth[:2], guess[:2]),
    )
    assert all(drawn[key][0] == pytest.approx(alone[key][0]) for key in alone)


def test_clustered_intervals_are_wider_when_errors_come_in_days():
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(20), 20)
    truth = rng.choice(TAXA, 400)
    guess = np.where(rng.random(20)[days] < 0.6, truth, "wrong")
    single = metrics.estimates(truth, guess, np.arange(400), 500)["accuracy"]
    by_day = metrics.estimates(truth, guess, days, 500)["accuracy"]
    assert by_day.high - by_day.low > 2 * (single.high - single.low)


def test_paired_differences_are_narrower_than_unpaired_ones():
    rng = np.random.default_rng(0)
    truth = rng.choice(TAXA, 400)
    first = np.where(rng.random(400) < 0.6, truth, "wrong")
    second = np.where(rng.random(400) < 0.1, "wrong", first)
    delta = metrics.estimates(truth, first, np.arange(400), 500, minus=second)["accuracy"]
    alone = metrics.estimates(truth, first, np.arange(400), 500)["accuracy"]
    assert delta.low > 0 and delta.high - delta.low < alone.high - alone.low
    assert (
        delta.text() == f"+{100 * delta.value:.1f} [{100 * delta.low:.1f}, {100 * delta.high:.1f}]"
    )


def test_judging_some_taxa_keeps_the_mistakes_of_the_others():
    truth = np.array(["a", "a", "a", "b", "b", "c", "c", "c"])
    guess = np.array(["a", "a", "b", "b", "a", "a", "c", "c"])
    found = metrics.scores(truth, guess, taxa=("a", "b"))
    assert found["accuracy"][0] == pytest.approx(3 / 5)  # of the images that are a or b
    every = f1_score(truth, guess, labels=["a", "b", "c"], average=None)
    assert found["macro_f1"][0] == pytest.approx(every[:2].mean())  # the c taken for an a is in it
    assert found["balanced_accuracy"][0] == pytest.approx((2 / 3 + 1 / 2) / 2)
    every = metrics.scores(truth, guess, taxa=("a", "b", "c"))
    assert {k: v[0] for k, v in every.items()} == {
        k: v[0] for k, v in metrics.scores(truth, guess).items()
    }


def test_p_is_small_for_a_clear_difference_and_not_for_none():
    rng = np.random.default_rng(0)
    truth = rng.choice(TAXA, 300)
    good, bad = (np.where(rng.random(300) < share, truth, "wrong") for share in (0.8, 0.5))
    for one, two in ((good, bad), (bad, good)):
        delta = metrics.estimates(truth, one, np.arange(300), 400, minus=two)
        assert delta["accuracy"].p == pytest.approx(2 / 401) and delta["macro_f1"].p < 0.01
    assert metrics.estimates(truth, good, np.arange(300), 400, minus=good)["accuracy"].p == 1
    assert metrics.estimates(truth, good, np.arange(300), 400)["accuracy"].p is None


def test_p_is_about_uniform_between_equals():
    rng, found = np.random.default_rng(1), []
    for _ in range(150):
        truth = rng.choice(TAXA, 120)
        one, two = (np.where(rng.random(120) < 0.7, truth, "wrong") for _ in range(2))
        found.append(metrics.estimates(truth, one, np.arange(120), 200, minus=two)["accuracy"].p)
    assert np.mean(np.array(found) < 0.05) < 0.11 and 0.35 < np.mean(np.array(found) < 0.5) < 0.65


def test_holm_corrects_as_worked_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 is raised to the one before
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0]) and metrics.holm([]).size == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_never_lowers_and_keeps_the_order(p, random):
    found = metrics.holm(p)
    assert (found >= np.array(p)).all() and (found <= 1).all()
    assert min(found) == pytest.approx(min(1.0, len(p) * min(p)))  # Bonferroni's for the smallest
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    mixed = random.sample(range(len(p)), len(p))
    assert metrics.holm(np.array(p)[mixed]) == pytest.approx(found[mixed])


# --- cells


def test_equal_cells_share_the_selection():
    right = np.random.default_rng(0).random((2, 500)) < 0.6
    _, near, share = probes.selection_frequencies(np.vstack([right, right[0]]), np.arange(500), 200)
    assert near[0] == near[2] and share[2] == 0  # a tie goes to the first


def test_the_cell_that_holds_the_class_wins_every_draw():
    rng = np.random.default_rng(0)
    right = rng.random((3, 400)) < np.array([[0.3], [0.5], [0.9]])
    error, near, share = probes.selection_frequencies(right, np.arange(400), 200)
    assert near.tolist() == [False, False, True] and share.tolist() == [0, 0, 1]
    assert error == pytest.approx((0.9 * 0.1 / 400) ** 0.5, rel=0.2)


@dataclass
class Network:
    """As much of an encoder as the choice of candidates looks at."""

    cells: list[Cell]
    predeclared: Cell


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 40),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_search_looks_at_the_promised_cells(
    layers, timesteps, number, layer, timestep, supervised
):
    layer, timestep = layer % layers, timestep % timesteps
    cells = [Cell(f"layer{i}", t) for t in range(timesteps) for i in range(layers)]
    encoder = Network([*cells, *[HEAD] * supervised], Cell(f"layer{layer}", timestep))
    assert probes.candidates(encoder, "all", number) == cells
    assert probes.candidates(encoder, "predeclared", number) == [encoder.predeclared]
    equal = probes.candidates(encoder, "equal", number)
    assert len(equal) == len(set(equal)) == min(number, layers)
    assert {cell.timestep for cell in equal} == {timestep} and equal[
        -1
    ].layer == f"layer{layers - 1}"
    steps = np.diff([int(cell.layer[5:]) for cell in equal])
    assert (steps > 0).all() and (
        len(steps) == 0 or steps.max() - steps.min() <= 1
    )  # evenly spaced


# --- a whole probe


def test_adjusting_divides_by_the_training_prior(shared):
    some = probes.probe(shared, splits.make(shared, "shapes"), "pixels + PCA")
    chances = np.array([[0.5, 0.3, 0.2], [0.5, 0.45, 0.05], [0.9, 0.05, 0.05]], np.float32)
    prior, known = np.array([0.6, 0.3, 0.1]), TAXA[:3]
    result = replace(some, classes=known, prior=prior, probabilities={"linear": {"test": chances}})
    assert result.predicted("test").tolist() == ["a", "a", "a"]
    # in proportion to 0.83, 1, 2; to 0.83, 1.5, 0.5; and to 1.5, 0.17, 0.5
    assert result.predicted("test", adjusted=True).tolist() == ["c", "b", "a"]


def test_a_probe_on_real_files_gives_all_that_is_reported(shared):
    parts = splits.make(shared, "shapes")
    result = probes.probe(shared, parts, "diffusion")
    assert set(result.rows) == {"validation", "test", "later"} and "ring" not in result.classes
    best = result.grid.loc[result.grid["accuracy"].nlargest(shared.profile.probes.finalists).index]
    assert probes.as_cells(
        result.finalists.drop_duplicates(["layer", "timestep"])
    ) == probes.as_cells(best)
    chosen = result.finalists.loc[result.finalists["accuracy"].idxmax()]
    assert str(result.selected) == f"{chosen['layer']}@t{chosen['timestep']}"
    assert result.validation == {"accuracy": chosen["accuracy"], "macro_f1": chosen["macro_f1"]}
    assert set(result.probabilities) == {"linear", "weighted", "k-NN"}
    for head, part in (
        (head, part) for head, parts in result.probabilities.items() for part in parts
    ):
        chances = result.probabilities[head][part]
        assert chances.shape == (len(result.rows[part]), len(result.classes)), head
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-4)
        assert (result.classes[chances.argmax(axis=1)] == result.predicted(part, head)).all()
    taxa = parts.taxa(parts["train"]).astype(str)
    assert result.prior.tolist() == [np.mean(taxa == taxon) for taxon in result.classes]
    (_, bank), codes = (
        probes.read(shared, parts, "diffusion"),
        np.unique(taxa, return_inverse=True)[1],
    )
    x, z = probes.standardised(bank, result.selected, parts["train"], result.rows["test"])
    for weights, same in ((probes.compute_sample_weight("balanced", codes), True), (None, False)):
        fits = probes.logistic_path(x, codes, sorted(shared.profile.probes.logistic), weights)
        told = result.probabilities["weighted"]["test"]
        assert any(np.allclose(model.probabilities(z), told, atol=1e-5) for model in fits) == same
    estimate = probes.evaluate(shared, parts, result, "test")["accuracy"]
    assert estimate.low <= estimate.value <= estimate.high and estimate.n == len(
        result.rows["test"]
    )
    assert set(result.grid) >= {
        "layer",
        "timestep",
        "accuracy",
        "equal_width",
        "stage",
        "resolution",
        "channels",
    }


def test_a_result_judged_on_some_taxa_and_against_itself(shared):
    parts = splits.make(shared, "shapes")
    result = probes.probe(shared, parts, "pixels + PCA", setting="balanced")
    truth = parts.taxa(result.rows["test"]).astype(str)
    named = result.predicted("test")
    assert set(truth) == {"bar", "disc"}
    rare = probes.evaluate(shared, parts, result, "test", taxa=("bar",))
    kept = truth == "bar"
    assert rare["accuracy"].value == pytest.approx(np.mean(named[kept] == truth[kept]))
    assert rare["macro_f1"].value == pytest.approx(
        f1_score(truth, named, labels=["bar"], average="macro")
    )
    for delta in probes.evaluate(shared, parts, result, "test", minus=result).values():
        assert delta[:3] == (0, 0, 0) and delta.p == 1
    natural = probes.probe(shared, parts, "pixels + PCA")
    rows = {**natural.rows, "test": natural.rows["test"][::-1]}
    with pytest.raises(ValueError, match="same images"):
        probes.evaluate(shared, parts, result, "test", minus=replace(natural, rows=rows))


@pytest.mark.parametrize("setting", ["natural", "balanced"])
def test_every_encoder_is_probed_on_the_same_images(shared, setting):
    parts = splits.make(shared, "shapes")
    slow = ("U-Net, labels", "ResNet, labels", "fine-tuned")  # to train a second time
    names = [name for name in shared.profile.encoders if setting == "natural" or name not in slow]
    assert len(names) == (10 if setting == "natural" else 7)
    results = {name: probes.probe(shared, parts, name, setting) for name in names}
    first = results["diffusion"]
    assert set(first.rows) == {"validation", "test", "later"}
    for name, result in results.items():
        assert set(result.rows) == set(first.rows) and list(result.classes) == list(first.classes)
        assert all(np.array_equal(result.rows[part], first.rows[part]) for part in first.rows)
        assert result.prior.tolist() == first.prior.tolist()
        learnt = shared.profile.encoders[name].kind == "labels"
        assert set(result.probabilities) == {"linear", "weighted", "k-NN"} | (
            {"end to end"} if learnt else set()
        )
        assert all(set(one) == set(first.rows) for one in result.probabilities.values())
        assert "head" not in result.grid["layer"].tolist()
    delta = probes.evaluate(shared, parts, first, "test", minus=results["MAE"])
    values = [
        probes.evaluate(shared, parts, results[name], "test")["accuracy"].value
        for name in ("diffusion", "MAE")
    ]
    assert delta["accuracy"].value == pytest.approx(values[0] - values[1])


def test_a_setting_of_a_single_taxon_is_refused(shared):
    parts = splits.make(shared, "shapes")
    with pytest.raises(
        StudyError, match="fewer than two taxa .* lower sets.shapes.split.balanced.min_images"
    ):
        probes.probe(
            shared,
            replace(parts, balanced_classes=parts.balanced_classes[:1]),
            "pixels + PCA",
            "balanced",
        )


def test_a_search_probes_no_other_cells(shared):
    parts = splits.make(shared, "shapes")
    for name in ("diffusion", "SimCLR"):
        made = encoders.make(shared, parts, name)
        for search, number in (("equal", 3), ("predeclared", 1)):
            result = probes.probe(shared, parts, name, search=search)
            asked = probes.candidates(made, search, shared.profile.probes.candidates)
            timesteps = [None if pd.isna(t) else t for t in result.grid["timestep"]]
            assert [
                Cell(*pair) for pair in zip(result.grid["layer"], timesteps, strict=True)
            ] == asked
            assert len(asked) == min(number, len(made.layers)) and result.selected in asked
            assert "linear" in result.probabilities
    assert probes.probe(shared, parts, "diffusion", search="predeclared").selected == Cell(
        "up16.resnet1", 20
    )


@pytest.mark.parametrize("name", ["diffusion", "ViT, labels"])
def test_test_labels_cannot_change_the_selection(shared, monkeypatch, name):
    """Shuffled labels of test and shifted images leave training, grid, finalists and selected cell as they are."""
    parts = splits.make(shared, "shapes")
    honest = probes.probe(shared, parts, name)
    identity = encoders.make(shared, parts, name).identity
    real = splits.Splits.taxa
    rng = np.random.default_rng(0)
    held_out = np.concatenate([parts["test"], parts["later"]])

    def shuffled(self, rows):
        taxa = real(self, rows)
        mixed = np.isin(rows, held_out)
        taxa[mixed] = rng.permutation(taxa[mixed])
        return taxa

    monkeypatch.setattr(splits.Splits, "taxa", shuffled)
    monkeypatch.setattr(splits.Splits, "digest", property(lambda self: "shuffled"))
    again = probes.probe(shared, parts, name)
    assert encoders.make(shared, parts, name).identity == identity
    assert again.selected == honest.selected and again.regularisation == honest.regularisation
    pd.testing.assert_frame_equal(again.grid, honest.grid)
    pd.testing.assert_frame_equal(again.finalists, honest.finalists)
    for head, part in (
        (head, part) for head in honest.probabilities for part in ("validation", "test")
    ):
        np.testing.assert_array_equal(
            again.probabilities[head][part], honest.probabilities[head][part], err_msg=head
        )


def test_searches_share_the_regressions_of_the_cells_they_have_in_common(shared, monkeypatch):
    parts, fitted, real = splits.make(shared, "shapes"), [], probes.logistic_path

    def counted(x, codes, strengths, *weights):
        fitted.append(len(weights))
        return real(x, codes, strengths, *weights)

    whole = probes.probe(shared, parts, "pixels + PCA", setting="balanced")
    monkeypatch.setattr(probes, "logistic_path", counted)
    monkeypatch.setattr(probes, "candidates", lambda encoder, search, number: [whole.selected])
    again = probes.probe(shared, parts, "pixels + PCA", setting="balanced", search="predeclared")
    assert again.selected == whole.selected and again.regularisation == whole.regularisation
    assert np.array_equal(
        again.probabilities["linear"]["test"], whole.probabilities["linear"]["test"]
    )
    assert fitted == []  # nothing was fitted a second time


def test_the_balanced_setting_keeps_to_its_classes(shared):
    parts = splits.make(shared, "shapes")
    result = probes.probe(shared, parts, "diffusion", setting="balanced")
    assert set(result.classes) == set(parts.balanced_classes)
