"""The protocol of the splits: who may see what."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plankton_study.images import division
from plankton_study.images.catalogue import catalogue_entry
from plankton_study.images.collection import Collection
from plankton_study.images.splits import Splits, draw_labels, make_splits
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import Split


def make_collection(
    days: int, per_day: int, seed: int = 0, group_by: str = "day", taxa: int = 4
) -> Collection:
    """Return random images of some days of June and as many of July.

    Args:
        days: of each month; every day has one net.
        per_day: images of a day.
        seed: of pixels and taxa.
        group_by: of the catalogue's entry.
        taxa: how many; each is half as frequent as the one before.
    """
    rng = np.random.default_rng(seed)
    count = 2 * days * per_day
    weights = 0.5 ** np.arange(taxa)
    drawn = rng.choice(taxa, count, p=weights / weights.sum())
    day = np.arange(count) // per_day
    first_day = pd.to_datetime(np.where(day < days, "2021-06-01", "2021-07-01"))
    ids = [str(i) for i in range(count)]
    columns = {
        "id": ids,
        "taxon": [f"taxon{number}" for number in drawn],
        "time": first_day + pd.to_timedelta(day % days, "D"),
        "sample": [f"net{number}" for number in day],
        "site": "bay",
        "instrument": "camera",
        "object": "",
        "digest": ids,
    }
    images = rng.integers(0, 256, (count, 16, 16), dtype=np.uint8)
    entry = catalogue_entry("test", {"group_by": group_by})
    return Collection("test", images, pd.DataFrame(columns), f"digest{seed}", entry, ())


CONFIG = Split(
    home={"until": "2021-06-30"},
    shifts={"later": {"since": "2021-07-01"}},
    min_images=3,
    novel=("taxon3",),
    balanced={"min_images": 10, "train": 5},
)


def divide(collection: Collection, config: Split) -> Splits:
    """Return the splits of a collection, as `make_splits` does for a set of a profile."""
    return Splits(collection, *division.divide(collection, config))


def config_with(**changes: object) -> Split:
    """Return the test's configuration with changes, checked like a profile's."""
    return Split(**{**CONFIG.model_dump(), **changes})


@settings(max_examples=25, deadline=None)
@given(
    st.integers(8, 25),
    st.integers(3, 15),
    st.integers(0, 1000),
    st.sampled_from(["day", "sample", "image"]),
)
def test_nothing_leaks(days, per_day, seed, group_by):
    collection = make_collection(days, per_day, seed, group_by)
    try:
        splits = divide(collection, CONFIG)
    except StudyError:
        assume(False)  # too few images for a part: the error says so
    training = np.concatenate([splits[part] for part in ("pool", "train", "balanced")])
    held_out = np.concatenate([splits[part] for part in ("validation", "test", "later", "novel")])
    assert not np.intersect1d(training, held_out).size
    assert not np.intersect1d(splits["validation"], splits["test"]).size

    not_novel = [training, splits["test"], splits["validation"], splits["later"]]
    assert "taxon3" not in splits.taxa(np.concatenate(not_novel))
    assert set(splits.taxa(splits["novel"])) <= {"taxon3"}

    if group_by != "image":
        nets = collection.records["sample"].to_numpy()  # one net a day
        for first, second in (("pool", "test"), ("pool", "validation"), ("validation", "test")):
            assert not np.intersect1d(nets[splits[first]], nets[splits[second]]).size
    assert (collection.records["time"].iloc[splits["later"]] >= "2021-07-01").all()

    assert set(splits.taxa(splits["train"])) == set(splits.classes)
    assert set(splits.balanced_classes) <= set(splits.classes)
    for rows in splits.balanced_draws:
        counts = pd.Series(splits.taxa(rows)).value_counts()
        assert set(counts.index) == set(splits.balanced_classes) and counts.eq(5).all()
        assert not np.setdiff1d(rows, splits["pool"]).size
    assert np.array_equal(splits["balanced"], splits.balanced_draws[0])
    assert not set(splits.short_of_labels) & set(splits.balanced_classes)

    if group_by != "image":  # unknown taxa come from the days of the known ones
        assert set(splits.groups(splits["novel"])) <= set(splits.groups(splits["test"]))
    in_parts = np.unique(np.concatenate(list(splits.parts.values())))
    assert len(in_parts) + sum(splits.removed.values()) == len(collection)
    assert all((np.diff(rows) > 0).all() for rows in splits.parts.values())


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    collection = make_collection(20, 10)
    first, second = divide(collection, CONFIG), divide(collection, CONFIG)
    assert all(np.array_equal(first[part], second[part]) for part in first.parts)
    other = divide(collection, config_with(seed=1))
    assert not np.array_equal(first["test"], other["test"])


def test_a_file_under_two_taxa_leaves_and_a_copy_stays_once():
    collection = make_collection(20, 10)
    records = collection.records
    records.loc[[3, 5], "digest"] = "conflict"
    records.loc[[3, 5], "taxon"] = ["taxon0", "taxon1"]
    records.loc[[10, 11], "digest"] = "copy"
    records.loc[[10, 11], "taxon"] = "taxon0"
    splits = divide(collection, CONFIG)
    everything = np.concatenate(list(splits.parts.values()))
    assert not {3, 5, 11} & set(everything) and 10 in everything
    assert splits.removed["same file under two taxa"] == 2
    assert splits.removed["exact copies"] == 1


def test_novel_images_of_another_season_are_not_compared_with_those_of_home():
    """They would be easy to tell by their season, whatever their taxon."""
    collection = make_collection(20, 10)
    is_july = (collection.records["time"] >= "2021-07-01").to_numpy()
    is_novel = (collection.records["taxon"] == "taxon3").to_numpy()
    assert (is_novel & is_july).any()
    for group_by in ("day", "image"):
        splits = divide(make_collection(20, 10, group_by=group_by), CONFIG)
        assert len(splits["novel"]) and not is_july[splits["novel"]].any()


def test_what_was_left_out_adds_up_also_with_caps_and_overlapping_reasons():
    collection = make_collection(25, 15)
    records = collection.records
    records.loc[[3, 5, 400], "digest"] = "conflict"  # one of them is away
    records.loc[[3, 5], "taxon"] = ["taxon0", "taxon1"]
    records.loc[[10, 11, 420], "digest"] = "copy"
    records.loc[[10, 11, 420], "taxon"] = "taxon3"  # copies of a novel taxon
    config = config_with(test_images=10, validation_images=10)
    splits = divide(collection, config)
    in_parts = np.unique(np.concatenate(list(splits.parts.values())))
    assert len(in_parts) + sum(splits.removed.values()) == len(collection)
    assert splits.removed["same file under two taxa"] == 3
    assert splits.removed["beyond validation_images or test_images"] > 20


def test_a_taxon_with_too_few_training_images_is_left_out_of_the_balanced_setting_and_named():
    collection = make_collection(20, 10)
    splits = divide(collection, config_with(balanced={"min_images": 10, "train": 40}))
    counts = pd.Series(splits.taxa(splits["pool"])).value_counts()
    assert set(splits.balanced_classes) == {
        taxon for taxon in splits.classes if counts[taxon] >= 40
    }
    assert splits.short_of_labels and counts[list(splits.short_of_labels)].max() < 40


@pytest.mark.parametrize("part", ["validation", "test", "later", "novel"])
def test_a_near_copy_of_a_held_out_image_leaves_training(part):
    collection = make_collection(20, 10)
    before = divide(collection, CONFIG)
    near_copy, other = before["pool"][:2]
    noise = np.random.default_rng(1).integers(-3, 4, (16, 16))
    original = collection.images[before[part][0]].astype(int)
    collection.images[near_copy] = (original + noise).clip(0, 255)
    after = divide(collection, CONFIG)
    assert near_copy not in after["pool"] and other in after["pool"]
    assert after.removed["near duplicates of held-out images"] == 1


@pytest.mark.parametrize("part", ["test", "later"])
def test_a_near_copy_of_a_test_image_leaves_validation(part):
    collection = make_collection(20, 10)
    before = divide(collection, CONFIG)
    copy = before["validation"][0]
    collection.images[copy] = collection.images[before[part][0]]
    after = divide(collection, CONFIG)
    assert copy not in after["validation"]
    assert after.removed["near duplicates of test images in validation"] == 1


def test_caps_keep_every_taxon():
    splits = divide(make_collection(25, 15), config_with(train_images=20, test_images=10))
    assert len(splits["train"]) == 20 and len(splits["test"]) == 10
    assert set(splits.taxa(splits["train"])) == set(splits.classes)


def test_a_cap_below_the_number_of_taxa_is_refused():
    with pytest.raises(StudyError, match="2 images cannot hold 3 taxa"):
        divide(make_collection(25, 15), config_with(train_images=2))


def test_the_last_day_belongs_to_home_and_the_next_to_the_shift():
    collection = make_collection(30, 10)
    collection.records["time"] += pd.Timedelta(hours=13)
    splits = divide(collection, config_with(home={"until": "2021-06-30", "site": "bay"}))
    assert splits.removed["neither home nor shifted"] == 0


def test_images_of_unknown_time_belong_to_no_period():
    collection = make_collection(20, 10)
    collection.records.loc[:9, "time"] = pd.NaT
    splits = divide(collection, CONFIG)
    periods = [rows for part, rows in splits.parts.items() if part != "novel"]
    assert not set(range(10)) & set(np.concatenate(periods))
    assert splits.removed["neither home nor shifted"] >= 9


# --- groups that were asked for


@pytest.mark.parametrize(
    ("group_by", "column", "nothing", "needed"),
    [("day", "time", pd.NaT, "time"), ("sample", "sample", "", "sample")],
)
def test_groups_that_are_not_known_stop_the_study(group_by, column, nothing, needed):
    """Falling back to single images would put neighbours on both sides."""
    collection = make_collection(20, 10, group_by=group_by)
    assert divide(collection, Split(min_images=3)).clustered
    collection.records[column] = nothing
    message = rf"400 of 400 images have no known {needed}, the first is '0': .*group_by = \"image\""
    with pytest.raises(StudyError, match=message):
        divide(collection, Split(min_images=3))


def test_a_few_images_without_a_day_are_left_out_and_counted():
    collection = make_collection(20, 10)
    collection.records.loc[:9, "time"] = pd.NaT
    splits = divide(collection, Split(min_images=3))
    assert splits.removed["no day or sample known"] == 10
    assert not set(range(10)) & set(np.concatenate(list(splits.parts.values())))


def test_single_images_are_only_grouped_by_their_object():
    collection = make_collection(20, 10, group_by="image")
    assert not divide(collection, Split(min_images=3)).clustered
    objects = np.arange(len(collection)) // 2
    collection.records["object"] = [f"object{number}" for number in objects]
    splits = divide(collection, Split(min_images=3))
    assert splits.clustered
    held_out = np.concatenate([splits["test"], splits["validation"]])
    assert not set(objects[splits["pool"]]) & set(objects[held_out])


def test_too_few_groups_are_refused_in_one_sentence():
    collection = make_collection(20, 10, group_by="sample")
    collection.records["sample"] = "net0"
    collection.records.loc[100:, "sample"] = "net1"
    with pytest.raises(StudyError, match="2 samples at home, but at least 4 are needed"):
        divide(collection, Split(min_images=3))


def test_as_many_groups_as_images_are_refused():
    """A pattern that catches too much would make each image a sample of its own."""
    collection = make_collection(20, 10, group_by="sample")
    collection.records["sample"] = collection.records["id"]
    with pytest.raises(StudyError, match="400 samples for 400 images, such as '0'"):
        divide(collection, Split(min_images=3))


def test_known_samples_that_are_not_used_are_named():
    splits = divide(make_collection(20, 10, group_by="image"), CONFIG)
    assert any('entry.group_by = "sample" keeps them together' in note for note in splits.notes)


def test_an_unlabelled_copy_takes_no_label_away():
    collection = make_collection(20, 10)
    collection.records.loc[[0, 1], "digest"] = "same"
    collection.records.loc[0, "taxon"] = ""
    splits = divide(collection, CONFIG)
    assert splits.removed["same file under two taxa"] == 0 and not splits.two_taxa
    everywhere = np.concatenate(list(splits.parts.values()))
    assert 1 in everywhere and 0 not in everywhere


# --- what is said about the division


def test_files_under_two_taxa_are_counted_by_pair():
    collection = make_collection(20, 10)
    rows = [0, 1, 2, 3, 4, 5]
    collection.records.loc[rows, "digest"] = ["a", "a", "b", "b", "c", "c"]
    pairs = ["jelly", "larva", "larva", "jelly", "egg", "larva"]
    collection.records.loc[rows, "taxon"] = pairs
    splits = divide(collection, CONFIG)
    assert splits.two_taxa == {"jelly and larva": 2, "egg and larva": 1}
    assert splits.removed["same file under two taxa"] == 6


def test_the_largest_balanced_setting_that_works_is_named_and_works():
    collection = make_collection(20, 10)
    config = config_with(balanced={"min_images": 1000, "train": 900})
    splits = divide(collection, config)
    with pytest.raises(StudyError, match="fewer than two taxa of test have the 1000 images"):
        splits.require_balanced()
    found = re.search(r"min_images = (\d+), train = (\d+)", splits.balanced_advice)
    least, train = map(int, found.groups())
    works = divide(collection, config_with(balanced={"min_images": least, "train": train}))
    assert len(works.balanced_classes) == 2
    works.require_balanced()


def test_a_part_with_a_single_taxon_and_a_test_share_far_off_are_named():
    collection = make_collection(4, 25)
    collection.records.loc[100:, "taxon"] = "taxon0"
    splits = divide(collection, config_with(novel=(), min_images=3))
    share, single = splits.notes
    assert share.startswith(
        "the part 'validation' holds 25% of the labelled images at home, not 15%"
    )
    assert single.startswith("the part 'later' holds a single taxon")


def test_an_empty_part_is_named():
    config = config_with(shifts={"later": {"since": "2022-01-01"}})
    with pytest.raises(StudyError, match="'later'.*empty"):
        divide(make_collection(20, 10), config)


def test_novel_taxa_must_exist():
    with pytest.raises(StudyError, match=r"novel names taxa .*: kraken$"):
        divide(make_collection(20, 10), config_with(novel=("kraken",)))


@pytest.mark.parametrize("shares", [{"test": 0.5, "validation": 0.5}, {"test": 0.001}])
def test_a_division_that_leaves_a_part_empty_says_what_limits_it(shares):
    collection = make_collection(days=25, per_day=4, group_by="image")
    expected = r"sets\.test\.split: test and validation .*\(20 folds: as many"
    with pytest.raises(StudyError, match=expected):
        divide(collection, Split(**shares))


def test_drawn_labels_are_nested_and_capped(shared):
    splits = make_splits(shared, "shapes")
    one, two, five = (draw_labels(splits, count, 0) for count in (1, 2, 5))
    assert set(one) <= set(two) <= set(five) <= set(splits["train"])
    assert pd.Series(splits.taxa(one)).value_counts().eq(1).all()


def test_splits_are_stored(shared):
    first, second = make_splits(shared, "shapes"), make_splits(shared, "shapes")
    assert first.digest == second.digest and first.shifts == ("later",)
    parts = ["pool", "train", "balanced", "validation", "test", "later", "novel"]
    assert list(first.parts) == parts
    assert sum(map(len, first.parts.values())) > len(first.collection) / 2
    made = divide(first.collection, shared.profile.sets["shapes"].split)
    assert (second.two_taxa, second.notes) == (made.two_taxa, made.notes)
    assert (second.classes, second.balanced_classes) == (made.classes, made.balanced_classes)
    assert second.removed == made.removed
    assert all(np.array_equal(second[part], made[part]) for part in parts)


# --- unlabelled images, and labelled ones of no class


def with_unlabelled(collection: Collection, number: int, group_by: str) -> Collection:
    """Return a collection with as many unlabelled images added, on further days of June."""
    rng = np.random.default_rng(1)
    records = collection.records.iloc[:number].copy()
    records["id"] = records["digest"] = [f"unlabelled{i}" for i in range(number)]
    records["taxon"] = ""
    records["time"] = pd.Timestamp("2021-06-30")
    records["sample"] = "another net"
    images = rng.integers(0, 256, (number, 16, 16), dtype=np.uint8)
    return replace(
        collection,
        images=np.concatenate([collection.images, images]),
        records=pd.concat([collection.records, records], ignore_index=True),
    )


@settings(max_examples=20, deadline=None)
@given(
    st.integers(10, 25),
    st.integers(3, 12),
    st.integers(1, 60),
    st.integers(0, 1000),
    st.sampled_from(["day", "image"]),
)
def test_unlabelled_images_do_not_change_how_labelled_ones_are_divided(
    days, per_day, number, seed, group_by
):
    collection = make_collection(days, per_day, seed, group_by)
    number = min(number, len(collection))
    try:
        before = divide(collection, CONFIG)
    except StudyError:
        assume(False)
    after = divide(with_unlabelled(collection, number, group_by), CONFIG)
    for part in ("train", "validation", "test", "later", "novel"):
        assert np.array_equal(before[part], after[part]), part
    added = np.arange(len(collection), len(collection) + number)
    assert np.array_equal(after["pool"], np.append(before["pool"], added))


def test_an_unlabelled_image_of_a_held_out_day_is_not_trained_on():
    collection = make_collection(10, 20)
    records = collection.records
    rows = divide(collection, CONFIG)["test"][:1]
    records.loc[rows, "taxon"] = ""
    splits = divide(collection, CONFIG)
    day = records["time"].dt.date
    held_out_days = set(day[np.append(splits["test"], splits["validation"])])
    if day[rows[0]] in held_out_days:
        assert rows[0] not in splits["pool"]


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 25), st.integers(3, 12), st.integers(0, 1000))
def test_images_of_no_class_are_apart_and_on_the_side_of_their_day(days, per_day, seed):
    collection = make_collection(days, per_day, seed)
    try:
        splits = divide(collection, config_with(min_images=20))
    except StudyError:
        assume(False)
    day = collection.records["time"].dt.date.to_numpy()
    for part, rows in splits.others.items():
        assert not set(splits.taxa(rows)) & {"", *splits.classes}
        others = [own for name, own in splits.parts.items() if name not in ("pool", "novel")]
        assert not np.intersect1d(rows, np.concatenate(others)).size
        for other in {"train", "validation", "test"} - {part}:
            assert not set(day[rows]) & set(day[splits[other]])


def test_small_taxa_are_spread_over_the_parts_of_a_small_set():
    collection = make_collection(1, 2, group_by="image")
    names = np.repeat([f"taxon{number}" for number in range(10)], 10)
    records = collection.records.iloc[np.zeros(len(names) + 40, int)].reset_index(drop=True)
    records["taxon"] = [*names, *["taxon0"] * 40]  # the commonest makes twenty folds
    records["id"] = records["digest"] = [str(row) for row in range(len(records))]
    images = np.random.default_rng(0).integers(0, 256, (len(records), 16, 16), dtype=np.uint8)
    collection = replace(collection, images=images, records=records)
    splits = divide(collection, config_with(novel=(), shifts={}))
    for part, least in (("train", 4), ("test", 1), ("validation", 1)):
        counts = pd.Series(splits.taxa(splits[part])).value_counts()
        assert len(counts) == 10 and counts.min() >= least, part
