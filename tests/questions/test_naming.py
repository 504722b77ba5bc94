"""Names for images without a label: chosen, calibrated, counted, and written to files."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import draw_shape
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_blobs
from sklearn.metrics import log_loss

from plankton_study.features.bank import JoinedBanks
from plankton_study.features.interface import Cell
from plankton_study.images.splits import make_splits
from plankton_study.probes import metrics
from plankton_study.probes.linear import folds
from plankton_study.probes.probe import read_features
from plankton_study.questions.naming import (
    abundances,
    choice,
    probe,
    reliability,
    teaching,
    unknown,
)
from plankton_study.questions.naming import names as naming
from plankton_study.questions.naming.choice import OTHER, held_out_folds, naming_candidates
from plankton_study.report import names as files
from plankton_study.run.schema import Probes

BASIC = ("diffusion", "random U-Net", "pixels + PCA")


@pytest.fixture(scope="module")
def unsorted(tmp_path_factory):
    """Class folders, a folder of unsorted images, and a taxon with too few images."""
    folder = tmp_path_factory.mktemp("unsorted") / "station"
    rng = np.random.default_rng(3)
    for number in range(150):
        taxon = ("disc", "bar", "cross")[number % 3]
        place = taxon if number < 90 else "unsorted"
        (folder / place).mkdir(parents=True, exist_ok=True)
        name = f"202106{1 + number % 20:02d}T120000_bay_{number:04d}_{taxon}.png"
        draw_shape(taxon, rng).save(folder / place / name)
    for number in range(4):
        for place in ("ring", "unsorted"):
            (folder / place).mkdir(exist_ok=True)
            name = f"202106{1 + 5 * number:02d}T130000_bay_{number:04d}_ring.png"
            draw_shape("ring", rng).save(folder / place / name)
    return folder


@pytest.fixture
def station(make_study, unsorted):
    """A study of these images."""
    changes = {
        "shifts = { later = { since = 2021-07-01 } }": "",
        "home = { until = 2021-06-30 }": "",
        'novel = ["ring"]': "",
        "min_images = 3": "min_images = 6",
        'group_by = "day" }': 'group_by = "day", unlabelled = ["unsorted"] }',
    }
    return make_study(changes, folder=unsorted)


@pytest.fixture
def named(station):
    """The names of the unsorted images."""
    splits = make_splits(station, "shapes")
    held = held_out_folds(splits)
    tried = naming_candidates(station, splits, held)
    best = choice.best_candidate(tried.candidates)
    images = naming.images_to_name(splits)
    return naming.name_images(station, splits, held, best, images)


def test_every_image_without_a_label_gets_a_name_and_no_other(named):
    table = naming.names_table(named, teaching.ranks_to_label(named))
    assert table["image"].str.startswith("unsorted/").all() and len(table) == 64
    assert set(table["taxon"]) <= {"disc", "bar", "cross"}
    assert table["probability"].between(0, 1).all()
    assert (table["probability"] >= table["second probability"]).all()
    total = table["probability"] + table["second probability"] + table["another taxon"]
    assert (total <= 1.001).all()
    assert "label" not in table
    assert sorted(table["label next"].dropna()) == list(range(1, 21))


def test_copies_of_labelled_images_have_a_name_already(make_study, unsorted, tmp_path):
    import shutil

    folder = tmp_path / "station"
    shutil.copytree(unsorted, folder)
    first = sorted((folder / "disc").iterdir())[0]
    shutil.copy(first, folder / "unsorted" / "again.png")
    changes = {'group_by = "day" }': 'group_by = "image", unlabelled = ["unsorted"] }'}
    changes |= {"shifts = { later = { since = 2021-07-01 } }": "", 'novel = ["ring"]': ""}
    changes |= {"home = { until = 2021-06-30 }": ""}
    splits = make_splits(make_study(changes, folder=folder), "shapes")
    images = naming.images_to_name(splits)
    ids = splits.collection.records["id"].to_numpy()[images.rows]
    assert images.copies == 1 and "unsorted/again.png" not in ids


def test_where_all_images_have_a_label_shifted_ones_are_named_as_a_rehearsal(shared):
    splits = make_splits(shared, "shapes")
    images = naming.images_to_name(splits)
    assert images.is_rehearsal and np.array_equal(images.rows, splits["later"])


# --- the choice


def test_labelled_images_are_held_out_once_by_whole_days(station):
    splits = make_splits(station, "shapes")
    held = held_out_folds(splits)
    known = np.union1d(splits["train"], splits["validation"])
    assert np.array_equal(np.sort(held.rows), known)
    for fold in held.folds:
        assert not set(splits.groups(fold.train)) & set(splits.groups(fold.held_out))
    assert not set(held.labelled_rows) & set(held.test)


def test_few_labels_of_each_taxon_are_enough_for_folds(make_study, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(60):
        taxon = ("disc", "bar")[number % 2]
        place = tmp_path / "few" / (taxon if number < 12 else "unsorted")
        place.mkdir(parents=True, exist_ok=True)
        draw_shape(taxon, rng).save(place / f"{number:02d}_{taxon}.png")
    changes = {
        "shifts = { later = { since = 2021-07-01 } }": "",
        "home = { until = 2021-06-30 }": "",
        'novel = ["ring"]': "",
        'group_by = "day" }': 'unlabelled = ["unsorted"] }',
    }
    study = make_study(changes, folder=tmp_path / "few")
    splits = make_splits(study, "shapes")
    held = held_out_folds(splits)
    best = choice.best_candidate(naming_candidates(study, splits, held).candidates)
    images = naming.images_to_name(splits)
    named = naming.name_images(study, splits, held, best, images)
    assert len(images.rows) == 48 and not named.allows_for_others
    taxa = splits.taxa(splits["train"])
    assert (taxa == "disc").sum() == (taxa == "bar").sum()


def test_many_validation_images_are_held_out_alone(station, monkeypatch):
    splits = make_splits(station, "shapes")
    monkeypatch.setattr(choice, "ENOUGH_VALIDATION", len(splits["validation"]))
    held = held_out_folds(splits)
    assert not held.is_crossed
    assert np.array_equal(held.rows, splits["validation"])
    assert np.array_equal(held.others, splits.others["validation"])


def test_encoders_that_saw_the_labels_are_left_out_where_these_are_held_out(station):
    splits = make_splits(station, "shapes")
    tried = naming_candidates(station, splits, held_out_folds(splits))
    names = {candidate.encoder for candidate in tried.candidates}
    assert set(BASIC) <= names and "SimCLR" in names
    assert {"ResNet, labels", "fine-tuned"} <= set(tried.absent)
    read_outs = {candidate.read_out for candidate in tried.candidates}
    assert read_outs == {"one cell", "all layers"}


def test_labels_of_test_images_choose_and_fit_nothing(station, named):
    splits = make_splits(station, "shapes")
    held = held_out_folds(splits)
    taxa = held.labels.taxa.copy()
    taxa[held.test] = "bar"
    blind = held._replace(labels=held.labels._replace(taxa=taxa))
    again = probe.fit_namer(station, blind, named.namer.candidate)
    np.testing.assert_array_equal(again.probe.weights, named.namer.probe.weights)
    np.testing.assert_array_equal(again.held_out, named.namer.held_out)


def test_the_table_of_candidates_has_the_best_first_and_those_not_run_last(station):
    splits = make_splits(station, "shapes")
    held = held_out_folds(splits)
    tried = naming_candidates(station, splits, held)
    table = probe.candidates_table(station, splits, held, tried)
    run = table[table["read-out"] != "not run"]
    assert run["held out (%)"].is_monotonic_decreasing
    assert list(table["encoder"][len(run) :]) == list(tried.absent)
    best = choice.best_candidate(tried.candidates)
    assert run["encoder"].iloc[0] == best.encoder


# --- probabilities


def scored(images, centres, rng):
    """Return planted images as the naming room scores them: probabilities, and one novelty."""
    distance = np.linalg.norm(images[:, None] - centres, axis=2)
    chances = np.exp(-(distance**2) / 2)
    return unknown.Scored(
        chances / chances.sum(axis=1, keepdims=True), {"distance": distance.min(axis=1)}
    )


def test_probabilities_allow_for_taxa_that_cannot_be_named():
    rng = np.random.default_rng(0)
    centres = 4 * np.eye(3)

    def draw(number):
        known, codes = make_blobs(number, centers=centres, random_state=rng.integers(1000))
        others, _ = make_blobs(number, centers=[[-3, -3, -3]], random_state=rng.integers(1000))
        return scored(known, centres, rng), codes, scored(others, centres, rng)

    known, _, others = draw(500)
    model = unknown.ClassesAtAll.fit(known, others)
    known, codes, others = draw(2000)
    joint = np.vstack([model.joint(known), model.joint(others)])
    np.testing.assert_allclose(joint.sum(axis=1), 1)
    is_right = np.append(known.probabilities.argmax(axis=1) == codes, np.zeros(2000, bool))
    expected = joint[:, :-1].max(axis=1)
    assert abs(expected.mean() - is_right.mean()) < 0.03
    naive = np.vstack([known.probabilities, others.probabilities]).max(axis=1)
    assert naive.mean() - is_right.mean() > 0.2


def test_without_other_taxa_all_images_are_of_the_classes():
    known = scored(np.eye(3), np.eye(3), None)
    none = scored(np.zeros((0, 3)), np.eye(3), None)
    joint = unknown.ClassesAtAll.fit(known, none).joint(known)
    np.testing.assert_allclose(joint[:, :-1], known.probabilities)
    assert (joint[:, -1] == 0).all()


def test_images_of_a_rare_taxon_count_in_testing_but_are_no_class(named):
    others = named.splits.others
    taxa = named.splits.taxa(np.concatenate(list(others.values())))
    assert set(taxa) == {"ring"} and "ring" not in named.classes
    assert (named.truth(naming.TEST) == OTHER).sum() == len(others["test"])
    assert named.columns[-1] == OTHER


def test_no_probability_is_more_certain_than_the_held_out_images_can_show(named):
    assert named.is_right(naming.HELD_OUT)[: len(named.held.rows)].all()  # the shapes are easy
    most = named.namer.held_out.max()
    assert 1 - 1 / len(named.held.rows) < most < 1


def test_a_class_that_a_fold_lacks_is_never_named_there_and_does_not_blur_the_others():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [40, 40, 10])
    features = np.float32(5 * np.eye(3, 8)[codes] + rng.normal(size=(90, 8)))
    labels = folds.Labelled(np.array(["a", "b", "c"]), np.array(["a", "b", "c"])[codes])
    first = np.arange(0, 80, 2)
    two = [
        folds.Fold(np.setdiff1d(np.arange(80), first), first),  # without c
        folds.Fold(np.append(first, np.arange(85, 90)), np.setdiff1d(np.arange(85), first)),
        folds.Fold(np.arange(80), np.arange(85, 90)),  # c is only held out
    ]

    class Bank:
        def take(self, cell, rows):
            return features[rows]

    config = Probes(penalties=(1e-5,))
    held_out = folds.score_held_out(Bank(), Cell("x"), two, labels, config)
    chances = held_out.probabilities
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    assert (chances[:40, 2] == 0).all() and (chances[-5:, 2] == 0).all()
    without = folds.score_held_out(Bank(), Cell("x"), two[:2], labels, config)
    assert held_out.calibration == pytest.approx(without.calibration, rel=0.05)
    assert held_out.score < without.score  # what cannot be named counts as wrong


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_calibration_makes_the_classes_most_likely(scale):
    """Also of logits that are far too certain, or far too uncertain."""
    codes, logits, shares = contaminated_logits()
    sharpness, doubt = folds.calibrate(scale * logits, shares, codes)
    assert sharpness == pytest.approx(1 / scale, rel=0.15)
    assert doubt == pytest.approx(0.3, abs=0.05)

    def loss(*calibration):
        own = folds.Calibration(*calibration)
        return log_loss(codes, own.probabilities(scale * logits, shares))

    best = loss(sharpness, doubt)
    assert best < min(loss(sharpness / 1.3, doubt), loss(1.3 * sharpness, doubt))
    assert best < min(loss(sharpness, doubt - 0.05), loss(sharpness, doubt + 0.05))


def contaminated_logits():
    """Return classes, true logits of 70 % of the images and chance ones of the others, and shares.

    Logits of Gaussian features, by Bayes' rule, are certain; those of 30 % are as certain, but of
    another image, whose class is drawn by the shares.
    """
    rng = np.random.default_rng(0)
    shares = np.array([0.85, 0.05, 0.05, 0.05])
    codes = rng.choice(4, 4_000, p=shares)
    is_chance = rng.random(4_000) < 0.3
    seen = np.where(is_chance, rng.choice(4, 4_000, p=shares), codes)
    features = 3 * np.eye(4)[seen] + rng.normal(size=(4_000, 4))
    logits = 3 * features + np.log(shares)
    return codes, np.float32(logits), np.tile(np.float32(shares), (4_000, 1))


def test_a_few_blunders_do_not_make_every_image_the_commonest_class():
    """By sharpness alone, the certain images would become uncertain for the sake of the others."""
    codes, logits, shares = contaminated_logits()
    names = folds.calibrate(logits, shares, codes).probabilities(logits, shares)
    rare = codes > 0
    assert (names.argmax(axis=1) == codes)[rare].mean() > 0.6
    assert names.max(axis=1).mean() == pytest.approx(
        (names.argmax(axis=1) == codes).mean(), abs=0.02
    )


def test_without_blunders_there_is_no_doubt():
    codes, _, shares = contaminated_logits()
    honest = np.float32(4 * np.eye(4)[codes] + np.random.default_rng(1).normal(size=(4_000, 4)))
    sharpness, doubt = folds.calibrate(honest, shares, codes)
    assert doubt < 0.01 and sharpness > 1


def test_the_score_of_a_candidate_is_that_of_its_calibrated_names(named):
    held, namer = named.held, named.namer
    taxa = held.labels.classes[namer.held_out.argmax(axis=1)]
    truth = held.labels.taxa[held.rows]
    assert metrics.scores(truth, taxa)["macro_f1"][0] == pytest.approx(namer.candidate.score)


# --- reliability


def test_a_few_right_names_are_no_certainty(station, named):
    rates = reliability._Rates(station, named)
    right = np.ones(len(named.rows(naming.TEST)), bool)
    of_three = rates.of(right, np.arange(len(right)) < 3)
    assert of_three.value == of_three.high == 1 and of_three.low < 0.5
    assert rates.of(right, ~right) is None


def test_tables_of_reliability_count_the_images_named(station, named):
    by_taxon = reliability.taxa_table(station, named)
    assert by_taxon["images named"].sum() == 64
    assert by_taxon["images named"].is_monotonic_decreasing
    by_probability = reliability.acceptance_table(station, named)
    assert by_probability["images named (%)"].iloc[0] == 100
    assert by_probability["images named (%)"].is_monotonic_decreasing
    by_origin = reliability.origins_table(named)
    assert by_origin["images"].sum() == 64


def test_origins_tell_days_with_labels_from_others(shared):
    splits = make_splits(shared, "shapes")
    records = splits.collection.records.copy()
    labelled = splits["train"]
    rows = np.concatenate([labelled[:1], splits["later"][:2]])
    records.loc[rows[2], "time"] = pd.NaT
    collection = replace(splits.collection, records=records)
    changed = replace(splits, collection=collection)
    assert list(reliability.origins(changed, rows, labelled)) == [
        reliability.SAME_GROUP,
        reliability.OUTSIDE,
        reliability.NO_TIME,
    ]
    records.loc[rows[1], "site"] = "sound"
    assert reliability.origins(changed, rows, labelled)[1] == reliability.OTHER_PLACE


# --- abundances


def test_a_mix_that_differs_from_the_labelled_one_is_found():
    rng = np.random.default_rng(0)
    centres = 1.5 * np.eye(3)

    def draw(shares, number):
        codes = rng.choice(3, number, p=shares)
        images = centres[codes] + rng.normal(size=(number, 3))
        return codes, scored(images, centres, rng).probabilities

    _, held_out = draw([1 / 3, 1 / 3, 1 / 3], 2000)
    codes, named = draw([0.8, 0.1, 0.1], 2000)
    mix = abundances.estimate_mix(held_out, named)
    assert mix.change == pytest.approx(0.8 - 1 / 3, abs=0.07)
    true = np.bincount(codes)
    by_mix, by_labels = mix.probabilities.sum(axis=0), named.sum(axis=0)
    assert np.abs(by_mix - true).max() < 0.3 * np.abs(by_labels - true).max()
    same = abundances.estimate_mix(held_out, draw([1 / 3, 1 / 3, 1 / 3], 2000)[1])
    assert same.change < 0.07


def test_intervals_of_counts_hold_the_true_number():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 6000)
    labels = np.array([rng.choice(4, p=own) for own in probabilities])
    samples = np.repeat(np.arange(60), 100).astype(str)
    held_out = slice(0, 3000)
    counts = abundances.expected_counts(samples[held_out], probabilities[held_out])
    true = abundances.count_taxa(samples[held_out], labels[held_out], counts.samples, np.arange(4))
    errors = abundances.learn_errors(counts, true)
    assert 1 <= errors.factor < 1.4
    new = slice(3000, 6000)
    counts = abundances.expected_counts(samples[new], probabilities[new])
    true = abundances.count_taxa(samples[new], labels[new], counts.samples, np.arange(4))
    low, high = abundances.count_intervals(counts, errors)
    assert 0.92 < np.mean((low <= true) & (true <= high)) <= 1


def test_errors_that_are_alike_within_a_sample_widen_the_intervals():
    counts = abundances.Counts(np.arange(2), np.full((2, 2), 50.0), np.full((2, 2), 5.0))
    alike = abundances.learn_errors(counts, np.array([[60.0, 40.0], [38.0, 62.0]]))
    assert alike.factor > 20
    assert abundances.learn_errors(counts, counts.expected).factor == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
def test_expected_counts_add_up_to_the_images(images, samples, seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), images)
    counts = abundances.expected_counts(rng.integers(0, samples, images), probabilities)
    assert counts.expected.sum() == pytest.approx(images)
    errors = abundances.Errors(1.0, np.full(3, 0.2))
    low, high = abundances.count_intervals(counts, errors)
    assert (low >= 0).all() and (low <= counts.expected).all() and (counts.expected <= high).all()


def test_abundances_of_a_sample_include_its_labelled_images(named):
    table = abundances.estimate_abundances(named).table
    labelled = named.splits.collection.records["taxon"].ne("")
    assert table["labelled"].sum() == len(labelled[labelled])
    assert (table["low"] >= table["labelled"]).all()
    assert (table["estimate"] <= table["high"] + 1e-9).all()
    assert table.groupby("sample")["share"].sum().max() <= 1 + 1e-9


# --- what to label next


def test_images_to_label_are_uncertain_and_of_every_kind():
    features, kinds = make_blobs(300, centers=20 * np.eye(6), random_state=0)
    uncertainty = np.full(300, 0.5)
    chosen = teaching.diverse_and_uncertain(features, uncertainty, 6)
    assert sorted(kinds[chosen]) == list(range(6))
    assert len(teaching.diverse_and_uncertain(features[:3], uncertainty[:3], 20)) == 3
    assert len(teaching.diverse_and_uncertain(features[:0], uncertainty[:0], 20)) == 0


def test_images_to_label_are_among_those_with_the_smallest_margins(named):
    ranks = teaching.ranks_to_label(named, number=3)
    margin = teaching.margins(named.of_classes(naming.NAMED))
    assert sorted(ranks[ranks > 0]) == [1, 2, 3]
    assert margin[ranks > 0].max() <= np.sort(margin)[29]


# --- files


def test_the_table_for_ecotaxa_is_what_its_import_reads(named, tmp_path):
    table = naming.names_table(named, teaching.ranks_to_label(named))
    counted = abundances.estimate_abundances(named)
    files.save_names(tmp_path, named, table, counted.table)
    raw = (tmp_path / "ecotaxa.tsv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")  # tells EcoTaxa that it is UTF-8
    rows = pd.read_csv(io.BytesIO(raw), sep="\t", encoding="utf-8-sig")
    assert set(rows.iloc[0]) == {"[t]", "[f]"}
    assert all(column.split("_")[0] in ("img", "object") for column in rows)
    assert (rows["object_annotation_status"].iloc[1:] == "predicted").all()
    is_likely = table["probability"] >= table["another taxon"]
    assert rows["object_id"].is_unique and len(rows) == 1 + is_likely.sum()
    assert not is_likely.all()  # a ring is left out
    assert rows["object_probability"].iloc[0] == "[f]"
    assert pd.to_numeric(rows["object_probability"].iloc[1:]).between(0, 1).all()


def test_long_names_leave_room_for_the_images():
    assert files.short_name("disc") == "disc"
    assert files.short_name("x" * 80) == "x" * 35 + "…"


def test_objects_of_an_export_keep_their_ids_and_are_named_once(named):
    table = naming.names_table(named, teaching.ranks_to_label(named)).head(3)
    table["object"] = ["net_1", "net_1", ""]
    table["sample"] = "tow"
    table["another taxon"] = 0.0
    rows = files.ecotaxa_table(table)
    without_ending = table["image"].iloc[2].removesuffix(".png")
    assert list(rows["object_id"].iloc[1:]) == ["net_1", without_ending]
    assert list(rows["sample_id"].iloc[1:]) == ["tow", "tow"]


def test_contact_sheets_show_every_name_and_are_the_same_on_every_run(named, monkeypatch):
    monkeypatch.setattr(files, "TAXA_PER_PAGE", 2)
    sheets = files.contact_sheet_pdf(named)
    assert sheets.startswith(b"%PDF") and b"/Count 2" in sheets  # three taxa on two pages
    assert sheets == files.contact_sheet_pdf(named)


# --- features of several banks


def test_joined_banks_are_read_like_one(shared):
    splits = make_splits(shared, "shapes")
    _, bank = read_features(shared, splits, "pixels + PCA")
    half = len(bank.rows) // 2

    class Part:
        rows = bank.rows[:half]
        take = bank.take
        width = bank.width

    class Rest(Part):
        rows = bank.rows[half:]

    joined = JoinedBanks((Part(), Rest()))
    cell, rows = bank.cells[0], bank.rows[[1, half + 1, 0, half]]
    np.testing.assert_array_equal(joined.take(cell, np.sort(rows)), bank.take(cell, np.sort(rows)))
    with pytest.raises(KeyError):
        joined.take(cell, np.array([len(splits.collection)]))
