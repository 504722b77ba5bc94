"""Away from home: what a loss is made of, what else features tell, and probes on images of elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study import probes, shift, splits
from plankton_study.linear import ridge_grid
from plankton_study.profile import StudyError
from plankton_study.shift import Answers


def side(counts: dict[str, int], wrong: dict[str, int]) -> Answers:
    """Answers for `counts` images of each taxon, of which `wrong` are taken for something else."""
    truth = np.repeat(list(counts), list(counts.values()))
    right = np.concatenate([np.arange(n) >= wrong.get(taxon, 0) for taxon, n in counts.items()])
    return Answers(truth, np.where(right, truth, "other"), np.arange(len(truth)))


def test_a_change_of_mix_alone_is_called_mix():
    home = side({"easy": 160, "hard": 40}, {"hard": 20})
    away = side({"easy": 40, "hard": 160}, {"hard": 80})
    found = shift.decompose(home, away, 300)
    assert found["home"].value == pytest.approx(0.9) and found["away"].value == pytest.approx(0.6)
    assert found["mix"].value == pytest.approx(0.3) and found["appearance"].value == pytest.approx(
        0
    )
    assert found["mix"].low > 0.15 and found["appearance"].low < 0 < found["appearance"].high


def test_a_change_of_looks_alone_is_called_appearance():
    found = shift.decompose(
        side({"a": 60, "b": 60}, {"a": 6}), side({"a": 40, "b": 40}, {"a": 24}), 300
    )
    assert found["mix"].value == pytest.approx(0)
    assert found["appearance"].value == pytest.approx(0.25) and found["appearance"].low > 0


def test_a_taxon_that_only_one_side_has_does_not_count():
    home, away = (
        side({"a": 50, "b": 50, "gone": 80}, {"gone": 80}),
        side({"a": 30, "b": 30, "new": 9}, {"new": 9}),
    )
    found = shift.decompose(home, away, 50)
    assert all(
        found[key].value == pytest.approx(value)
        for key, value in (("home", 1), ("away", 1), ("mix", 0))
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=5,
    )
)
def test_mix_and_appearance_add_up(taxa):
    home = side(
        {f"t{i}": n for i, (n, _, _, _) in enumerate(taxa)},
        {f"t{i}": int(w * n) for i, (n, _, w, _) in enumerate(taxa)},
    )
    away = side(
        {f"t{i}": n for i, (_, n, _, _) in enumerate(taxa)},
        {f"t{i}": int(w * n) for i, (_, n, _, w) in enumerate(taxa)},
    )
    found = shift.decompose(home, away, 20)
    assert found["mix"].value + found["appearance"].value == pytest.approx(
        found["home"].value - found["away"].value
    )


# --- nuisances


def test_a_planted_nuisance_is_found_and_the_taxon_is_not_taken_for_one():
    rng = np.random.default_rng(0)
    taxa = rng.choice(["big", "small"], 600)
    size = np.where(taxa == "big", 5.0, 1.0) + rng.normal(0, 0.5, 600)
    noise, told = rng.normal(size=(600, 8)), (taxa == "big")[:, None] + rng.normal(0, 0.1, (600, 3))
    split = (slice(0, 400), slice(400, 600))

    def read(x):
        return shift.readable(x[split[0]], x[split[1]], size[split[0]], size[split[1]], taxa)

    assert read(np.column_stack([noise, size])) > 0.9
    assert read(noise) < 0.05
    assert read(np.column_stack([noise, told])) < 0.05, (
        "size told by the taxon alone is no nuisance"
    )


def test_another_camera_is_told_apart_and_another_mix_is_not():
    rng = np.random.default_rng(1)
    away = np.repeat([False, True], 300)
    taxa = np.where(rng.random(600) < np.where(away, 0.8, 0.2), "a", "b")
    days = np.repeat(np.arange(60), 10)
    x = np.column_stack([(taxa == "a") + rng.normal(0, 0.3, 600), rng.normal(size=(600, 4))])
    assert shift.told_apart(x, away, taxa, days) == pytest.approx(0.5, abs=0.12)
    x[:, 2] += 2 * away
    assert shift.told_apart(x, away, taxa, days) > 0.9


# --- probes on images of elsewhere


def test_elsewhere_says_of_known_images_what_the_probe_said(shared):
    parts = splits.make(shared, "shapes")
    for encoder in ("diffusion", "pixels + PCA", "ResNet, labels"):
        result = probes.probe(shared, parts, encoder)
        rows = result.rows["test"]
        for away in (
            parts,
            replace(parts, collection=replace(parts.collection)),
        ):  # its own bank, and one more
            found, z = shift.elsewhere(shared, parts, result, away, {"there": rows})
            assert list(found.rows) == ["there"] and len(z["there"]) == len(rows)
            expected = result.probabilities["linear"]["test"]
            np.testing.assert_allclose(found.probabilities["linear"]["there"], expected, atol=1e-4)
            assert probes.evaluate(shared, away, found, "there") == probes.evaluate(
                shared, parts, result, "test"
            )


def test_ridge_probes_of_home_are_those_of_the_grid(shared):
    parts = splits.make(shared, "shapes")
    result, (encoder, bank) = (
        probes.probe(shared, parts, "diffusion"),
        probes.read(shared, parts, "diffusion"),
    )
    train, validation = probes.parts_of(parts, "natural")["train"], result.rows["validation"]
    rows = {
        "train": train,
        "validation": validation,
        "same": validation,
        "later": result.rows["later"],
    }
    taxa = {part: parts.taxa(index).astype(str) for part, index in rows.items()}
    grid, right, narrow = ridge_grid(bank, encoder.cells, rows, taxa, shared.profile.probes)
    groups, draws = parts.groups(validation), shared.profile.probes.draws
    equal = probes.selection_frequencies(narrow, groups, draws)[1]
    assert result.grid["near_best_equal_width"].tolist() == equal.tolist()
    error, near, share = probes.selection_frequencies(right, groups, draws)
    assert result.standard_error == pytest.approx(error)
    assert result.near_best == {
        str(c): w for c, w, n in zip(encoder.cells, share, near, strict=True) if n
    }
    for column in ("accuracy", "macro_f1", "penalty", "equal_width"):
        np.testing.assert_array_equal(grid[column], result.grid[column])
    np.testing.assert_allclose(grid["same"], grid["accuracy"])
    np.testing.assert_allclose(right.mean(axis=1), grid["accuracy"])
    assert grid["later"].between(0, 1).all()


def test_probabilities_of_one_name_are_added_up(shared):
    parts = splits.make(shared, "shapes")
    result = probes.probe(shared, parts, "diffusion")
    found = shift.renamed(result, {"disc": "round", "bar": "straight", "cross": "straight"})
    before, after = (r.probabilities["linear"]["test"] for r in (result, found))
    assert found.classes.tolist() == ["round", "straight"] and found.prior.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        after[:, 0], before[:, result.classes.tolist().index("disc")], atol=1e-6
    )
    only = shift.renamed(result, {"disc": "disc", "bar": "bar"}).probabilities["linear"]["test"]
    np.testing.assert_allclose(only.sum(axis=1), 1, atol=1e-6)


# --- the same splits under other names


NAMES = {"disc": "round", "bar": "straight", "cross": "straight"}


def test_relabelled_splits_have_no_head_of_the_old_classes(shared):
    parts = splits.make(shared, "shapes")
    assert "end to end" in probes.probe(shared, parts, "ResNet, labels").probabilities
    assert (
        "end to end"
        not in probes.probe(shared, splits.relabelled(parts, NAMES), "ResNet, labels").probabilities
    )


def test_relabelled_splits_use_the_encoders_and_features_they_come_from(shared):
    parts = splits.make(shared, "shapes")
    coarse = splits.relabelled(parts, NAMES)
    assert coarse.classes == ("round", "straight") and coarse.digest != parts.digest
    assert set(coarse.taxa(coarse["test"])) == {"round", "straight"} and len(coarse["novel"]) == 0
    before = {folder.name for folder in (shared.cache / "bank").iterdir()}
    result = probes.probe(shared, coarse, "ResNet, labels")
    assert result.classes.tolist() == ["round", "straight"]
    assert result.training == probes.probe(shared, parts, "ResNet, labels").training
    assert {folder.name for folder in (shared.cache / "bank").iterdir()} == before | {
        probes.read(shared, parts, "ResNet, labels")[1].folder.name
    }


def test_images_without_a_name_leave_the_labelled_parts_only(shared):
    parts = splits.make(shared, "shapes")
    some = splits.relabelled(parts, {"disc": "round", "cross": "crossed"})
    assert np.array_equal(some["pool"], parts["pool"])
    assert set(some.taxa(some["train"])) == {"round", "crossed"}
    assert np.array_equal(some["train"], parts.restrict("train", ("disc", "cross")))


def test_shared_classes_are_read_from_the_profiles_table(make_study, tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text(
        "# by me\nset,taxon,coarse,resolved\nshapes,disc,round,yes\nelse,disc,round,no\n"
    )
    study = make_study(replace={'title = "test"': f'title = "test"\ncoarse = "{table}"'})
    (found,) = splits.shared_classes(study).items()
    assert found[0] == "shapes" and found[1].loc["disc", "coarse"] == "round"
    table.write_text("set,taxon\nshapes,disc\n")
    with pytest.raises(
        StudyError, match=r"mine\.csv needs the columns set, taxon, coarse, resolved"
    ):
        splits.shared_classes(study)


def test_the_packages_table_names_taxa_of_the_real_sets():
    import pandas as pd

    from plankton_study.profile import PACKAGE

    table = pd.read_csv(PACKAGE / "coarse_classes.csv", comment="#")
    assert (
        set(table["set"]) == {"planktonset1", "pwssc"}
        and not table.duplicated(["set", "taxon"]).any()
    )
    assert table.groupby("coarse")["set"].nunique().eq(2).all(), (
        "a coarse class that only one set has"
    )
    assert table.loc[table["resolved"] == "no", "taxon"].tolist() == ["Copepod"]
