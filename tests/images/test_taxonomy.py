"""The same splits under other names, and the table of classes that sets share."""

import numpy as np
import pandas as pd
import pytest

from plankton_study.images.splits import Splits, make_splits
from plankton_study.images.taxonomy import relabelled, shared_classes
from plankton_study.run.errors import StudyError
from plankton_study.run.files import PACKAGE


@pytest.fixture
def splits(shared) -> Splits:
    return make_splits(shared, "shapes")


def test_relabelled_splits_have_the_new_names(splits):
    coarse = relabelled(splits, {"disc": "round", "bar": "straight", "cross": "straight"})
    assert coarse.classes == ("round", "straight") and coarse.digest != splits.digest
    assert set(coarse.taxa(coarse["test"])) == {"round", "straight"}
    assert len(coarse["novel"]) == 0
    assert coarse.base is splits
    assert np.array_equal(coarse["test"], splits["test"])


def test_images_without_a_name_leave_the_labelled_parts_only(splits):
    without_bars = relabelled(splits, {"disc": "round", "cross": "crossed"})
    assert np.array_equal(without_bars["pool"], splits["pool"])
    assert set(without_bars.taxa(without_bars["train"])) == {"round", "crossed"}
    expected = splits.restrict("train", ("disc", "cross"))
    assert np.array_equal(without_bars["train"], expected)


def test_shared_classes_are_read_from_the_profiles_table(make_study, tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text(
        "# by me\nset,taxon,coarse,resolved\nshapes,disc,round,yes\nelse,disc,round,no\n"
    )
    study = make_study({'title = "test"': f'title = "test"\ncoarse = "{table}"'})
    tables = shared_classes(study)
    assert list(tables) == ["shapes"]
    assert tables["shapes"].loc["disc", "coarse"] == "round"
    assert tables["shapes"].loc["disc", "resolved"] == "yes"


def test_names_of_taxa_in_the_table_may_look_like_missing_values_or_comments(make_study, tmp_path):
    table = tmp_path / "mine.csv"
    names = ["NA", "None", "#1 unknown", "007"]
    lines = [f"shapes,{name},round,yes" for name in names]
    table.write_text("\n".join(["# by me", "set,taxon,coarse,resolved", *lines]))
    study = make_study({'title = "test"': f'title = "test"\ncoarse = "{table}"'})
    assert shared_classes(study)["shapes"].index.tolist() == names


@pytest.mark.parametrize("content", ["set,taxon\nshapes,disc\n", "", None])
def test_a_table_of_shared_classes_that_cannot_be_read_is_one_error(make_study, tmp_path, content):
    table = tmp_path / "mine.csv"
    if content is not None:
        table.write_text(content)
    study = make_study({'title = "test"': f'title = "test"\ncoarse = "{table}"'})
    with pytest.raises(StudyError, match=r"mine\.csv needs the columns set, taxon, coarse, resol"):
        shared_classes(study)


def test_the_packages_table_names_taxa_of_the_real_sets():
    table = pd.read_csv(PACKAGE / "images" / "coarse_classes.csv", comment="#")
    assert set(table["set"]) == {"planktonset1", "pwssc"}
    assert not table.duplicated(["set", "taxon"]).any()
    sets_of_class = table.groupby("coarse")["set"].nunique()
    assert sets_of_class.eq(2).all(), "a coarse class that only one set has"
    assert table.loc[table["resolved"] == "no", "taxon"].tolist() == ["Copepod"]
