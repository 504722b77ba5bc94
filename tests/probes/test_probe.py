"""What a probe promises, and the rule that only validation data selects."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.class_weight import compute_sample_weight

from plankton_study.features.interface import Cell
from plankton_study.features.registry import make_encoder
from plankton_study.images.splits import Splits, make_splits
from plankton_study.images.taxonomy import relabelled
from plankton_study.probes import probe as probe_module
from plankton_study.probes.linear import logistic as logistic_module
from plankton_study.probes.linear.logistic import logistic_path
from plankton_study.probes.linear.scaling import scaled_features
from plankton_study.probes.probe import probe_encoder, read_features
from plankton_study.probes.result import ProbeResult, evaluate
from plankton_study.probes.selection import candidate_cells, cells_of
from plankton_study.run.errors import StudyError

NAMES = {"disc": "round", "bar": "straight", "cross": "straight"}


@pytest.fixture
def splits(shared) -> Splits:
    return make_splits(shared, "shapes")


def heads_and_parts(result: ProbeResult) -> list[tuple[str, str]]:
    """Return all pairs of a head and a part of a result."""
    return [(head, part) for head, parts in result.heads.items() for part in parts]


# --- what is reported


def test_the_selected_cell_is_the_finalist_with_the_best_validation_score(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    best_places = result.grid["macro_f1"].nlargest(shared.profile.probes.finalists).index
    fitted = result.finalists.drop_duplicates(["layer", "timestep"])
    assert cells_of(fitted) == cells_of(result.grid.loc[best_places])
    chosen = result.finalists.loc[result.finalists["macro_f1"].idxmax()]
    assert str(result.selected) == f"{chosen['layer']}@t{chosen['timestep']}"
    assert result.linear.method == chosen["method"]
    assert result.linear.strength == chosen["strength"]
    methods = result.finalists.groupby(["layer", "timestep"])["method"].agg(list)
    expected = ["logistic"] * len(shared.profile.probes.logistic) + ["LDA"]
    assert methods.tolist() == [expected] * len(best_places)
    scores = {"accuracy": chosen["accuracy"], "macro_f1": chosen["macro_f1"]}
    assert result.validation["linear"] == scores
    assert set(result.validation) == set(result.heads)
    assert result.finalists["converged"].all()


def test_a_search_by_lda_has_all_cells_but_no_logistic_regression(shared, splits):
    thorough = probe_encoder(shared, splits, "diffusion")
    fast = probe_encoder(shared, splits, "diffusion", search="all by LDA")
    pd.testing.assert_frame_equal(fast.grid, thorough.grid)
    assert set(fast.finalists["method"]) == {"LDA"} and fast.linear.method == "LDA"
    best = fast.grid.loc[fast.grid["macro_f1"].idxmax()]
    assert str(fast.selected) == f"{best['layer']}@t{best['timestep']}"
    assert set(fast.heads) == {"linear"}


def test_a_profile_that_judges_by_accuracy_selects_by_accuracy(shared, splits):
    probes = shared.profile.probes.model_copy(update={"metric": "accuracy"})
    study = replace(shared, profile=shared.profile.model_copy(update={"probes": probes}))
    result = probe_encoder(study, splits, "diffusion")
    best_places = result.grid["accuracy"].nlargest(probes.finalists).index
    fitted = result.finalists.drop_duplicates(["layer", "timestep"])
    assert cells_of(fitted) == cells_of(result.grid.loc[best_places])
    assert result.validation["linear"]["accuracy"] == result.finalists["accuracy"].max()


def test_every_head_is_selected_by_the_metric_that_is_judged(shared, splits):
    """k and the strength of the weighted probe: no other choice scores better on validation."""
    result = probe_encoder(shared, splits, "diffusion")
    _, bank = read_features(shared, splits, "diffusion")
    codes = np.unique(splits.taxa(splits["train"]).astype(str), return_inverse=True)[1]
    validation_rows = result.rows["validation"]
    train, validation = scaled_features(bank, result.selected, splits["train"], validation_rows)
    truth = splits.taxa(validation_rows).astype(str)

    def macro_f1(chances):
        return f1_score(truth, result.classes[chances.argmax(axis=1)], average="macro")

    weight = compute_sample_weight("balanced", codes)
    path = logistic_path(train, codes, sorted(shared.profile.probes.logistic), weight)
    best = max(macro_f1(model.probabilities(validation)) for model in path)
    assert result.validation["weighted"]["macro_f1"] == pytest.approx(best)
    neighbours = [
        KNeighborsClassifier(k, metric="cosine").fit(train.whole(), codes)
        for k in shared.profile.probes.neighbours
    ]
    best = max(macro_f1(model.predict_proba(validation.whole())) for model in neighbours)
    assert result.validation["k-NN"]["macro_f1"] == pytest.approx(best)


def test_the_balanced_setting_is_repeated_for_each_draw_of_labels(shared, splits):
    """Supervised networks are trained again on each draw; label-free ones are only probed again."""
    draws = splits.each_draw("balanced")
    assert len(draws) == 2 and not np.array_equal(draws[0]["balanced"], draws[1]["balanced"])
    for name, is_trained_again in (("U-Net, labels", True), ("SimCLR", False)):
        result = probe_encoder(shared, splits, name, "balanced")
        first, second = result.of_each_draw
        weights = [draw.encoder.identity["weights"] for draw in (first, second)]
        assert (weights[0] != weights[1]) == is_trained_again
        assert not np.array_equal(first.linear.weights, second.linear.weights)
        estimate = evaluate(shared, splits, result, "test")["macro_f1"]
        each = [
            evaluate(shared, splits, replace(draw, repeats=()), "test")["macro_f1"].value
            for draw in (first, second)
        ]
        assert estimate.value == pytest.approx(np.mean(each))
    assert probe_encoder(shared, splits, "SimCLR").repeats == ()


def test_every_head_gives_probabilities_for_every_part(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    assert set(result.rows) == {"validation", "test", "later"} and "ring" not in result.classes
    assert set(result.heads) == {"linear", "weighted", "k-NN"}
    for head, part in heads_and_parts(result):
        chances = result.heads[head][part]
        assert chances.shape == (len(result.rows[part]), len(result.classes)), head
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-4)
        assert (result.classes[chances.argmax(axis=1)] == result.predicted_taxa(part, head)).all()
    taxa = splits.taxa(splits["train"]).astype(str)
    assert result.prior.tolist() == [np.mean(taxa == taxon) for taxon in result.classes]


def test_the_weighted_head_weights_the_classes_equally(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    _, bank = read_features(shared, splits, "diffusion")
    taxa = splits.taxa(splits["train"]).astype(str)
    codes = np.unique(taxa, return_inverse=True)[1]
    train, test = scaled_features(bank, result.selected, splits["train"], result.rows["test"])
    stored = result.heads["weighted"]["test"]

    def is_a_fit(sample_weight):
        path = logistic_path(train, codes, sorted(shared.profile.probes.logistic), sample_weight)
        return any(np.allclose(model.probabilities(test), stored, atol=1e-5) for model in path)

    assert is_a_fit(compute_sample_weight("balanced", codes))
    assert not is_a_fit(None)


def test_a_probe_is_evaluated_with_an_interval_and_its_grid_knows_the_layers(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    estimate = evaluate(shared, splits, result, "test")["accuracy"]
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.n == len(result.rows["test"])
    columns = {"layer", "timestep", "accuracy", "equal_width", "stage", "resolution", "channels"}
    assert set(result.grid) >= columns


@pytest.mark.parametrize("setting", ["natural", "balanced"])
def test_every_encoder_is_probed_on_the_same_images(shared, splits, setting):
    configs = shared.profile.encoders
    slow = ("U-Net, labels", "ResNet, labels", "fine-tuned")  # to train a second time
    names = [name for name in configs if setting == "natural" or name not in slow]
    assert len(names) == (10 if setting == "natural" else 7)
    results = {name: probe_encoder(shared, splits, name, setting) for name in names}
    first = results["diffusion"]
    assert set(first.rows) == {"validation", "test", "later"}
    for name, result in results.items():
        assert set(result.rows) == set(first.rows) and list(result.classes) == list(first.classes)
        assert all(np.array_equal(result.rows[part], first.rows[part]) for part in first.rows)
        assert result.prior.tolist() == first.prior.tolist()
        own_head = {"end to end"} if configs[name].kind == "labels" else set()
        assert set(result.heads) == {"linear", "weighted", "k-NN"} | own_head
        assert all(set(parts) == set(first.rows) for parts in result.heads.values())
        assert "head" not in result.grid["layer"].tolist()
    delta = evaluate(shared, splits, first, "test", minus=results["MAE"])
    diffusion, mae = (
        evaluate(shared, splits, results[name], "test")["accuracy"].value
        for name in ("diffusion", "MAE")
    )
    assert delta["accuracy"].value == pytest.approx(diffusion - mae)


def test_relabelled_splits_have_no_head_of_the_old_classes(shared, splits):
    coarse = relabelled(splits, NAMES)
    assert "end to end" in probe_encoder(shared, splits, "ResNet, labels").heads
    assert "end to end" not in probe_encoder(shared, coarse, "ResNet, labels").heads


def test_relabelled_splits_use_the_encoders_and_features_of_their_base(shared, splits):
    of_base = probe_encoder(shared, splits, "ResNet, labels")
    before = {folder.name for folder in (shared.cache / "bank").iterdir()}
    result = probe_encoder(shared, relabelled(splits, NAMES), "ResNet, labels")
    assert result.classes.tolist() == ["round", "straight"]
    assert result.encoder.folder == of_base.encoder.folder is not None
    assert {folder.name for folder in (shared.cache / "bank").iterdir()} == before


# --- settings, searches and what is refused


def test_the_balanced_setting_keeps_to_its_classes(shared, splits):
    result = probe_encoder(shared, splits, "diffusion", setting="balanced")
    assert set(result.classes) == set(splits.balanced_classes)


def test_a_setting_of_a_single_taxon_is_refused(shared, splits):
    poor = replace(splits, classes=splits.classes[:1])
    with pytest.raises(StudyError, match=r"fewer than two taxa .* lower sets.shapes.split.min_im"):
        probe_encoder(shared, poor, "pixels + PCA")
    poor = replace(splits, balanced_advice="two are needed: set this")
    with pytest.raises(StudyError, match="two are needed: set this"):
        probe_encoder(shared, poor, "pixels + PCA", "balanced")


@pytest.mark.parametrize("argument", ["setting", "search", "budget"])
def test_an_unknown_choice_is_refused_with_the_known_ones(shared, splits, argument):
    with pytest.raises(StudyError, match=f"{argument} = 'best' is not known, only "):
        probe_encoder(shared, splits, "pixels + PCA", **{argument: "best"})


def test_a_search_probes_no_other_cells(shared, splits):
    for name in ("diffusion", "SimCLR"):
        encoder = make_encoder(shared, splits, name)
        for search, number in (("equal", 3), ("predeclared", 1)):
            result = probe_encoder(shared, splits, name, search=search)
            candidates = candidate_cells(encoder, search, shared.profile.probes.candidates)
            assert cells_of(result.grid) == candidates
            assert len(candidates) == min(number, len(encoder.layers))
            assert result.selected in candidates
            assert "linear" in result.heads
    predeclared = probe_encoder(shared, splits, "diffusion", search="predeclared")
    assert predeclared.selected == Cell("up16.resnet1", 20)


def test_searches_share_the_regressions_of_the_cells_they_have_in_common(
    shared, splits, monkeypatch
):
    whole = probe_encoder(shared, splits, "diffusion")

    def refuse_to_fit(*args):
        raise AssertionError("a regression was fitted")

    for module in (probe_module, logistic_module):
        monkeypatch.setattr(module, "logistic_path", refuse_to_fit)

    def probe_only(cell):
        monkeypatch.setattr(probe_module, "candidate_cells", lambda *args: [cell])
        return probe_encoder(shared, splits, "diffusion", search="predeclared")

    again = probe_only(whole.selected)
    assert again.selected == whole.selected
    assert again.linear.strength == whole.linear.strength
    assert np.array_equal(again.heads["linear"]["test"], whole.heads["linear"]["test"])
    fitted = cells_of(whole.finalists)
    unfitted = next(cell for cell in cells_of(whole.grid) if cell not in fitted)
    with pytest.raises(AssertionError, match="a regression was fitted"):
        probe_only(unfitted)


@pytest.mark.parametrize("name", ["diffusion", "ViT, labels"])
def test_test_labels_cannot_change_the_selection(shared, splits, monkeypatch, name):
    """Labels of test and shifted images are shuffled.

    Training, grid, finalists and selected cell stay as they are.
    """
    honest = probe_encoder(shared, splits, name)
    identity = make_encoder(shared, splits, name).identity
    true_taxa = Splits.taxa
    rng = np.random.default_rng(0)
    held_out = np.concatenate([splits["test"], splits["later"]])

    def shuffled(self, rows):
        taxa = true_taxa(self, rows)
        is_held_out = np.isin(rows, held_out)
        taxa[is_held_out] = rng.permutation(taxa[is_held_out])
        return taxa

    monkeypatch.setattr(Splits, "taxa", shuffled)
    monkeypatch.setattr(Splits, "digest", property(lambda self: "shuffled"))
    again = probe_encoder(shared, splits, name)
    assert make_encoder(shared, splits, name).identity == identity
    assert again.selected == honest.selected
    assert again.linear.strength == honest.linear.strength
    pd.testing.assert_frame_equal(again.grid, honest.grid)
    pd.testing.assert_frame_equal(again.finalists, honest.finalists)
    for head in honest.heads:
        for part in ("validation", "test"):
            np.testing.assert_array_equal(
                again.heads[head][part], honest.heads[head][part], err_msg=head
            )


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_finalists_are_ranked_by_the_metric_that_is_judged(make_study, monkeypatch, metric):
    """Also where the other metric ranks the cells the other way round."""
    study = make_study({"draws = 100": f'draws = 100\nmetric = "{metric}"'})
    splits = make_splits(study, "shapes")
    lda_grid = probe_module.lda_grid

    def opposed(*arguments):
        grid = lda_grid(*arguments)
        rising = np.linspace(0, 1, len(grid.table))
        table = grid.table.assign(accuracy=rising, macro_f1=rising[::-1])
        return grid._replace(table=table)

    monkeypatch.setattr(probe_module, "lda_grid", opposed)
    result = probe_encoder(study, splits, "diffusion")
    finalists = cells_of(result.finalists.drop_duplicates(["layer", "timestep"]))
    cells = cells_of(result.grid)
    number = study.profile.probes.finalists
    expected = cells[-number:][::-1] if metric == "accuracy" else cells[:number]
    assert finalists == expected
