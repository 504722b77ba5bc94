"""Readers: folders, tables and Hub data sets become records and image files."""

import io
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from conftest import draw_shape, write_shapes
from PIL import Image

from plankton_study.images.catalogue import catalogue_entry
from plankton_study.images.collection import load_collection
from plankton_study.images.decoding import prepare_image
from plankton_study.images.reading.folder import read_folder
from plankton_study.images.reading.hub import read_hub
from plankton_study.images.reading.table import read_table
from plankton_study.run.errors import StudyError


def encode(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def save_shape(path: Path, taxon: str, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_shape(taxon, np.random.default_rng(seed)).save(path)


# --- folders


def test_times_outside_the_deployment_are_unknown(tmp_path):
    for name in ("SPC-PWSSC-1460042915-1.png", "SPC-PWSSC-0-1.png", "SPC-PWSSC-2744042915-1.png"):
        save_shape(tmp_path / "Beroe" / name, "disc")
    records, _ = read_folder(tmp_path, catalogue_entry("pwssc"))
    known = records["time"].dropna()
    assert known.tolist() == [pd.Timestamp("2016-04-07 15:28:35")]


def test_folders_are_read_one_after_the_other_and_sorted(tmp_path):
    names = ["a b/1.png", "a/2.png", "a/deep/1.png", "a/10.png", "a-b/1.png", "A/1.png"]
    for name in names:
        save_shape(tmp_path / name, "disc")
    for hidden in (".thumbs/1.png", "a/.@__thumb/2.png", "@eaDir/3.png"):
        save_shape(tmp_path / hidden, "bar")
    records, files = read_folder(tmp_path, catalogue_entry("my_set"))
    in_order = sorted(tmp_path / name for name in names)
    assert list(records["id"]) == [str(path.relative_to(tmp_path)) for path in in_order]
    assert files.read(2) == (tmp_path / records["id"][2]).read_bytes()


def test_the_fingerprint_follows_the_files(tmp_path):
    def fingerprint() -> str:
        return read_folder(tmp_path, catalogue_entry("my_set"))[1].fingerprint

    save_shape(tmp_path / "a/2.png", "disc")
    before = fingerprint()
    assert fingerprint() == before
    save_shape(tmp_path / "a/2.png", "bar", seed=1)
    assert fingerprint() != before


# --- tables

COLUMNS = [
    "object_id",
    "img_file_name",
    "object_annotation_category",
    "object_date",
    "object_time",
    "sample_id",
]
TABLE_IMAGES = 12
ECOTAXA = {
    "columns": {"date": "object_date", "time": "object_time", "sample": "sample_id"},
    "reader": "table",
}


@pytest.fixture
def ecotaxa(tmp_path) -> Path:
    """A folder with a small export as EcoTaxa writes it.

    It is tab-separated, its second row holds types, and dates and times are digits.
    """
    rows = [COLUMNS, ["[t]"] * len(COLUMNS)]
    for i in range(TABLE_IMAGES):
        save_shape(tmp_path / f"{i}.png", "disc" if i % 2 else "bar", seed=i)
        taxon = "Disc<round" if i % 2 else "Bar"
        rows.append([f"o{i}", f"{i}.png", taxon, "20210601", f"{i}0507", f"net{i // 6}"])
    write_rows(tmp_path, rows)
    return tmp_path


def write_rows(folder: Path, rows: list[list[str]], line_end: str = "\n") -> None:
    text = line_end.join("\t".join(row) for row in rows)
    (folder / "ecotaxa_export.tsv").write_bytes(text.encode())


def read_rows(folder: Path) -> list[list[str]]:
    lines = (folder / "ecotaxa_export.tsv").read_text().splitlines()
    return [line.split("\t") for line in lines]


def test_an_ecotaxa_export_is_read(ecotaxa):
    records, files = read_table(ecotaxa, catalogue_entry("my_set", ECOTAXA))
    assert len(records) == TABLE_IMAGES
    assert set(records["taxon"]) == {"Disc<round", "Bar"}
    assert records["time"][3] == pd.Timestamp("2021-06-01 03:05:07")
    assert set(records["sample"]) == {"net0", "net1"}
    assert prepare_image(files.read(3), 16, "dark_on_light").pixels.shape == (16, 16)


def test_an_image_that_no_expert_has_validated_is_not_labelled(ecotaxa, capsys):
    status = ["validated"] * 8 + ["predicted", "dubious", "predicted", "validated"]
    column = ["object_annotation_status", "[t]", *status]
    rows = [[*row, cell] for row, cell in zip(read_rows(ecotaxa), column, strict=True)]
    write_rows(ecotaxa, rows, line_end="\r\n")
    records, _ = read_table(ecotaxa, catalogue_entry("my_set", ECOTAXA))
    assert (records["taxon"] == "").tolist() == [False] * 8 + [True] * 3 + [False]
    assert "3 images that no expert has validated" in capsys.readouterr().out


@pytest.fixture
def ecotaxa_of_mixed_dates(ecotaxa) -> Path:
    """The same export with dates of four formats."""
    dates = ["2021-06-01", "20210602", "03/06/2021", "2021-06-04"]
    rows = read_rows(ecotaxa)
    for number, row in enumerate(rows[2:]):
        row[3] = dates[number % 4]
        if number % 4 == 3:
            row[4] = "10:05"
    write_rows(ecotaxa, rows)
    return ecotaxa


def test_a_date_is_read_as_iso_8601_or_not_at_all(ecotaxa_of_mixed_dates, capsys):
    """Days and months never change places."""
    changes = {**ECOTAXA, "columns": {"date": "object_date", "time": "object_time"}}
    records, _ = read_table(ecotaxa_of_mixed_dates, catalogue_entry("my_set", changes))
    times = records["time"]
    assert times[0] == pd.Timestamp("2021-06-01 00:05:07")
    assert times[1] == pd.Timestamp("2021-06-02 01:05:07")
    assert times[3] == pd.Timestamp("2021-06-04 10:05")
    assert times[2:12:4].isna().all() and times.isna().sum() == 3
    expected = "3 of 12 times cannot be read, the first is '03/06/2021T020507'"
    assert expected in capsys.readouterr().out


def test_an_entry_may_name_the_format_of_its_dates(ecotaxa_of_mixed_dates):
    changes = {"reader": "table", "columns": {"time": "object_date"}, "time_format": "%d/%m/%Y"}
    records, _ = read_table(ecotaxa_of_mixed_dates, catalogue_entry("my_set", changes))
    assert records["time"][2] == pd.Timestamp("2021-06-03") and records["time"].notna().all()


def test_a_missing_column_is_named(ecotaxa):
    entry = catalogue_entry("my_set", {**ECOTAXA, "columns": {"sample": "depth"}})
    with pytest.raises(StudyError, match=r"no column 'depth'.*object_id"):
        read_table(ecotaxa, entry)


def test_one_image_with_two_taxa_is_refused(ecotaxa):
    again = ["o12", "3.png", "Bar", "20210601", "100507", "net0"]
    write_rows(ecotaxa, [*read_rows(ecotaxa), again])
    with pytest.raises(StudyError, match=r"more than once.*'3\.png' \('Disc<round' and 'Bar'\)"):
        read_table(ecotaxa, catalogue_entry("my_set", ECOTAXA))


def test_a_row_without_an_image_is_left_out_and_named(ecotaxa, capsys):
    without_image = ["o12", "", "Bar", "20210601", "100507", "net0"]
    write_rows(ecotaxa, [*read_rows(ecotaxa), without_image])
    records, _ = read_table(ecotaxa, catalogue_entry("my_set", ECOTAXA))
    assert len(records) == TABLE_IMAGES
    assert "1 row without an image left out, the first is line 15" in capsys.readouterr().out


ENTRY_OF_SHAPES = (
    r"""entry = { name_pattern = '^(?P<time>\d{8}T\d{6})_(?P<site>[a-z]+)_', group_by = "day" }"""
)


def test_a_missing_image_of_a_table_is_named(ecotaxa, make_study):
    (ecotaxa / "3.png").unlink()
    entry_of_table = "entry = { reader = 'table', group_by = 'sample' }\nimages_seen = 32"
    study = make_study({ENTRY_OF_SHAPES: entry_of_table}, folder=ecotaxa)
    with pytest.raises(StudyError, match=r"1 of 12 images.*3\.png"):
        load_collection(study, "shapes")


# --- Hub data sets

LABEL_KINDS = {
    "names": datasets.ClassLabel(names=["bar", "disc"]),
    "strings": datasets.Value("string"),
}


def write_parquet(file: Path, images: list[dict], labels: list, label_kind: str) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": LABEL_KINDS[label_kind]})
    file.parent.mkdir()
    table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    table.to_parquet(file)


@pytest.mark.parametrize("label_kind", LABEL_KINDS)
def test_parquet_of_the_hubs_schema_is_read(tmp_path, label_kind):
    rng = np.random.default_rng(0)
    taxa = ["bar", "disc"] * 5
    images = []
    for i, taxon in enumerate(taxa):
        name = f"IFCB1_2009_216_0{i}5913_0415{i}.png"
        images.append({"bytes": encode(draw_shape(taxon, rng)), "path": name})
    labels = [0, 1] * 5 if label_kind == "names" else taxa
    write_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet", images, labels, label_kind)
    records, files = read_hub(tmp_path / "hub", catalogue_entry("whoi"))
    assert records["taxon"].tolist() == taxa
    assert records["time"][2] == pd.Timestamp("2009-08-04 02:59:13")
    assert files.read(1) == images[1]["bytes"]


@pytest.mark.parametrize(
    ("label_kind", "labels"), [("names", [0, None, -1]), ("strings", ["bar", None, None])]
)
def test_an_image_without_a_label_on_the_hub_is_not_labelled(tmp_path, label_kind, labels):
    """For an unlabelled part the Hub has null, or -1 where labels are classes."""
    image = {"bytes": encode(Image.new("L", (16, 16))), "path": None}
    write_parquet(tmp_path / "hub" / "train.parquet", [image] * 3, labels, label_kind)
    records, _ = read_hub(tmp_path / "hub", catalogue_entry("my_set"))
    assert records["taxon"].tolist() == ["bar", "", ""]


def test_class_folders_serve_as_well_as_parquet(tmp_path):
    write_shapes(tmp_path / "hub", 12)
    entry = catalogue_entry("whoi", {"name_pattern": None})
    records, files = read_hub(tmp_path / "hub", entry)
    from_folder, _ = read_folder(tmp_path / "hub", catalogue_entry("my_set"))
    assert records["taxon"].tolist() == from_folder["taxon"].tolist()
    assert files.read(5) == (tmp_path / "hub" / from_folder["id"][5]).read_bytes()


def test_a_damaged_parquet_file_is_one_sentence(tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StudyError, match="could not be loaded") as error:
        read_hub(tmp_path / "hub", catalogue_entry("whoi"))
    assert "\n" not in str(error.value)


def test_a_parquet_file_may_name_times_and_samples(tmp_path):
    image = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(image, "PNG")
    table = pd.DataFrame(
        {
            "image": [{"bytes": image.getvalue(), "path": None}] * 2,
            "label": ["disc", "bar"],
            "when": [pd.Timestamp("2021-06-01 12:00"), None],
            "tow": ["a", None],
        }
    )
    table.to_parquet(tmp_path / "set.parquet")
    columns = {"time": "when", "sample": "tow"}
    entry = catalogue_entry("my_set", {"reader": "hub", "columns": columns})
    records, _ = read_hub(tmp_path / "set.parquet", entry)
    assert list(records["sample"]) == ["a", ""]
    assert records["time"].iloc[0] == pd.Timestamp("2021-06-01 12:00")
    assert pd.isna(records["time"].iloc[1])
