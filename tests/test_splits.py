"""The protocol of the splits: who may see what."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plankton_study import data, sources, splits
from plankton_study.profile import StudyError
from plankton_study.schema import Split


def collection(
    days: int, per_day: int, seed: int = 0, group_by: str = "day", taxa: int = 4
) -> data.Collection:
    """Random images: `taxa` taxa of falling abundance, some days of June and as many of July."""
    rng = np.random.default_rng(seed)
    n = 2 * days * per_day
    weights = 0.5 ** np.arange(taxa)
    records = pd.DataFrame({"id": [f"{i}" for i in range(n)]})
    records["taxon"] = [f"taxon{t}" for t in rng.choice(taxa, n, p=weights / weights.sum())]
    day = np.arange(n) // per_day
    records["time"] = pd.to_datetime(
        np.where(day < days, "2021-06-01", "2021-07-01")
    ) + pd.to_timedelta(day % days, "D")
    records["sample"], records["site"], records["instrument"] = (
        [f"net{d}" for d in day],
        "bay",
        "camera",
    )
    records["digest"] = records["id"]
    images = rng.integers(0, 256, (n, 16, 16), dtype=np.uint8)
    return data.Collection(
        "test", images, records, f"digest{seed}", sources.entry("test", {"group_by": group_by}), ()
    )


CONFIG = Split(
    home={"until": "2021-06-30"}, shifts={"later": {"since": "2021-07-01"}}, min_images=3, novel=("taxon3",),
    balanced={"min_images": 10, "train": 5},
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    st.integers(8, 25),
    st.integers(3, 15),
    st.integers(0, 1000),
    st.sampled_from(["day", "sample", "image"]),
)
def test_nothing_leaks(days, per_day, seed, group_by):
    images = collection(days, per_day, seed, group_by)
    try:
        parts, classes, balanced, _ = splits.split(images, CONFIG)
    except StudyError:
        assume(False)  # too few images for a part: said, not guessed
    taxa, groups = (
        images.records["taxon"].to_numpy(),
        images.records["sample"].to_numpy(),
    )  # one net a day
    training = np.concatenate([parts[p] for p in ("pool", "train", "balanced")])
    held_out = np.concatenate([parts[p] for p in ("validation", "test", "later", "novel")])
    assert not np.intersect1d(training, held_out).size
    assert not np.intersect1d(parts["validation"], parts["test"]).size
    assert (
        "taxon3"
        not in taxa[np.concatenate([training, parts["test"], parts["validation"], parts["later"]])]
    )
    assert set(taxa[parts["novel"]]) <= {"taxon3"}
    if group_by != "image":
        for one, two in (("pool", "test"), ("pool", "validation"), ("validation", "test")):
            assert not np.intersect1d(groups[parts[one]], groups[parts[two]]).size
    assert (images.records["time"].iloc[parts["later"]] >= "2021-07-01").all()
    assert set(taxa[parts["train"]]) == set(classes) and set(balanced) <= set(classes)
    counts = pd.Series(taxa[parts["balanced"]]).value_counts()
    assert counts.empty or counts.max() <= 5
    assert all((np.diff(rows) > 0).all() for rows in parts.values())


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    images = collection(20, 10)
    one, two = splits.split(images, CONFIG)[0], splits.split(images, CONFIG)[0]
    assert all(np.array_equal(one[k], two[k]) for k in one)
    other = splits.split(images, CONFIG.model_copy(update={"seed": 1}))[0]
    assert not np.array_equal(one["test"], other["test"])


def test_a_file_under_two_taxa_leaves_and_a_copy_stays_once():
    images = collection(20, 10)
    images.records.loc[[3, 5], "digest"] = "conflict"
    images.records.loc[[3, 5], "taxon"] = ["taxon0", "taxon1"]
    images.records.loc[[10, 11], "digest"] = "copy"
    images.records.loc[[10, 11], "taxon"] = "taxon0"
    parts, _, _, removed = splits.split(images, CONFIG)
    everything = np.concatenate(list(parts.values()))
    assert not {3, 5, 11} & set(everything) and 10 in everything
    assert removed["same file under two taxa"] == 2 and removed["exact copies"] == 1


@pytest.mark.parametrize("part", ["validation", "test", "later", "novel"])
def test_a_near_copy_of_a_held_out_image_leaves_training(part):
    images = collection(20, 10)
    parts, *_ = splits.split(images, CONFIG)
    held_out, train = parts[part][0], parts["pool"][:2]
    noise = np.random.default_rng(1).integers(-3, 4, (16, 16))
    images.images[train[0]] = (images.images[held_out].astype(int) + noise).clip(0, 255)
    again, _, _, removed = splits.split(images, CONFIG)
    assert train[0] not in again["pool"] and train[1] in again["pool"]
    assert removed["near duplicates of held-out images"] == 1


@pytest.mark.parametrize("part", ["test", "later"])
def test_a_near_copy_of_a_test_image_leaves_validation(part):
    images = collection(20, 10)
    parts, *_ = splits.split(images, CONFIG)
    images.images[parts["validation"][0]] = images.images[parts[part][0]]
    again, _, _, removed = splits.split(images, CONFIG)
    assert parts["validation"][0] not in again["validation"]
    assert removed["near duplicates of test images in validation"] == 1


@pytest.mark.parametrize("size", [16, 36, 112])
def test_near_duplicates_are_found_at_any_size(size):
    images = np.random.default_rng(0).integers(0, 256, (4, size, size), dtype=np.uint8)
    images[3] = images[1]
    assert splits.near_duplicates(images, np.array([0, 1, 2]), np.array([3]), 0.99).tolist() == [1]


def test_caps_keep_every_taxon():
    images = collection(25, 15)
    parts, classes, *_ = splits.split(
        images, CONFIG.model_copy(update={"train_images": 20, "test_images": 10})
    )
    assert len(parts["train"]) == 20 and len(parts["test"]) == 10
    assert set(images.records["taxon"].iloc[parts["train"]]) == set(classes)


def test_near_duplicates_of_nothing_and_among_nothing():
    images, none = np.zeros((2, 16, 16), np.uint8), np.array([], int)
    assert splits.near_duplicates(images, none, np.array([0]), 0.99).size == 0
    assert splits.near_duplicates(images, np.array([0]), none, 0.99).size == 0


def test_the_last_day_belongs_to_home_and_the_next_to_the_shift():
    images = collection(30, 10)
    images.records["time"] += pd.Timedelta(hours=13)
    config = CONFIG.model_copy(update={"home": CONFIG.home.model_copy(update={"site": "bay"})})
    assert splits.split(images, config)[3]["neither home nor shifted"] == 0


def test_images_of_unknown_time_belong_to_no_period():
    images = collection(20, 10)
    images.records.loc[:9, "time"] = pd.NaT
    parts, *_, removed = splits.split(images, CONFIG)
    assert not set(range(10)) & set(np.concatenate([v for k, v in parts.items() if k != "novel"]))
    assert removed["neither home nor shifted"] >= 9


def test_a_cap_below_the_number_of_taxa_is_refused():
    with pytest.raises(StudyError, match="2 images cannot hold 3 taxa"):
        splits.split(collection(25, 15), CONFIG.model_copy(update={"train_images": 2}))


def test_images_are_not_called_grouped_where_no_day_is_known():
    images = collection(20, 10)
    made = splits.Splits(images, *splits.split(images, CONFIG))
    assert made.clustered
    images.records["time"] = pd.NaT
    assert not splits.Splits(images, *splits.split(images, Split(min_images=3))).clustered


def test_images_of_unknown_day_are_groups_of_their_own():
    images = collection(5, 4)
    images.records["time"] = pd.NaT
    assert len(set(splits.group_codes(images))) == len(images)


def test_an_empty_part_is_named():
    images = collection(20, 10)
    with pytest.raises(StudyError, match="'later'.*empty"):
        splits.split(images, CONFIG.model_copy(update={"shifts": {"later": {"since": "2022-01-01"}}}).model_validate(
            {**CONFIG.model_dump(), "shifts": {"later": {"since": "2022-01-01"}}}
        ))  # fmt: skip


def test_novel_taxa_must_exist():
    with pytest.raises(StudyError, match="kraken"):
        splits.split(collection(20, 10), CONFIG.model_copy(update={"novel": ("kraken",)}))


def test_label_fractions_are_nested_and_capped(shared):
    parts = splits.make(shared, "shapes")
    draws = [splits.label_fraction(parts, n, 0) for n in (1, 2, 5)]
    assert set(draws[0]) <= set(draws[1]) <= set(draws[2]) <= set(parts["train"])
    assert pd.Series(parts.taxa(draws[0])).value_counts().eq(1).all()


def test_splits_are_stored(shared):
    one, two = splits.make(shared, "shapes"), splits.make(shared, "shapes")
    assert one.digest == two.digest and one.shifts == ("later",)
    assert list(one.parts) == ["pool", "train", "balanced", "validation", "test", "later", "novel"]
    assert sum(map(len, one.parts.values())) > len(one.collection) / 2


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0.6, 0.9, 0.99, 1.0]),
)
def test_near_duplicates_are_those_of_the_comparison_of_all_pairs(seed, first, second, limit):
    """Images around a few motifs, so that correlations lie on both sides of the limit."""
    rng = np.random.default_rng(seed)
    motifs = rng.integers(0, 256, (4, 16, 16))[rng.integers(4, size=first + second)]
    noise = rng.normal(0, 1, motifs.shape) * rng.choice([1, 10, 40], (len(motifs), 1, 1))
    images = (motifs + noise).clip(0, 255).astype(np.uint8)
    rows, others = np.arange(first), np.arange(first, first + second)
    correlation = np.corrcoef(images.reshape(len(images), -1))[:first, first:]
    expected = rows[(correlation > limit + 1e-6).any(axis=1)]
    found = splits.near_duplicates(images, rows, others, limit)
    assert set(expected) <= set(found) <= set(rows[(correlation > limit - 1e-6).any(axis=1)])


def test_a_division_that_leaves_a_part_empty_says_what_limits_it():
    images = collection(days=25, per_day=4, group_by="image")
    for shares in ({"test": 0.5, "validation": 0.5}, {"test": 0.001}):
        with pytest.raises(
            StudyError,
            match=rf"sets\.{images.name}\.split: test and validation .*\(20 folds: as many",
        ):
            splits.split(images, Split(**shares))
