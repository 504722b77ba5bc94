"""Tables as spreadsheets, EcoTaxa and people write them, each with real small image files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import draw_shape

from plankton_study.images.catalogue import catalogue_entry
from plankton_study.images.reading.table import read_table
from plankton_study.images.reading.times import clock_text
from plankton_study.run.errors import StudyError

TAXA = ("disc", "bar")
NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of six images, 0.png to 5.png, and one below it, sub/6.png."""
    rng = np.random.default_rng(0)
    (tmp_path / "sub").mkdir()
    for number, name in enumerate([*NAMES, "sub/6.png"]):
        draw_shape(TAXA[number % 2], rng).save(tmp_path / name)
    return tmp_path


def plain_rows() -> list[list[str]]:
    rows = [[name, TAXA[number % 2], "1,5"] for number, name in enumerate(NAMES)]
    return [["file", "taxon", "depth (m, start)"], *rows]


def write(folder: Path, rows: list[list[str]], separator: str = "\t", **options: str) -> Path:
    """Write rows as a table; `options` are its name, its encoding and its line ends."""
    text = options.get("line_end", "\n").join(separator.join(row) for row in rows)
    file = folder / options.get("name", "table.tsv")
    file.write_bytes(text.encode(options.get("encoding", "utf-8")))
    return file


def read(place: Path, **entry: object) -> pd.DataFrame:
    return read_table(place, catalogue_entry("my_set", {"reader": "table", **entry}))[0]


# --- dialects


@pytest.mark.parametrize(
    ("separator", "options"),
    [
        ("\t", {}),
        (";", {"encoding": "utf-8-sig", "line_end": "\r\n", "name": "table.csv"}),
        ("\t", {"encoding": "utf-16"}),
        ("\t", {"line_end": "\r"}),
        ("\t", {"name": "table.txt"}),
    ],
    ids=["tabs, a name with commas", "semicolons of a spreadsheet", "UTF-16", "old Mac", "txt"],
)
def test_every_dialect_gives_the_same_records(images, separator, options, capsys):
    write(images, plain_rows(), separator, **options)
    records = read(images)
    assert records["id"].tolist() == NAMES
    assert records["taxon"].tolist() == [TAXA[number % 2] for number in range(6)]
    said = capsys.readouterr().out
    assert "the image stands in the column 'file'" in said
    assert "the taxon stands in the column 'taxon'" in said


@pytest.mark.parametrize(
    ("taxon", "encoding", "name"),
    [("Cœlentéré –", "cp1252", "Windows-1252"), ("Copépode\x81", "latin-1", "Latin-1")],
)
def test_old_encodings_are_read_and_said_once(images, capsys, taxon, encoding, name):
    write(images, [["file", "taxon"], *([file, taxon] for file in NAMES)], encoding=encoding)
    assert set(read(images)["taxon"]) == {taxon}
    assert capsys.readouterr().out.count(f"read in the encoding {name}") == 1


def test_a_single_quotation_mark_does_not_swallow_the_rows_after_it(images):
    rows = [["file", "taxon", "comment"], *([name, "disc", ""] for name in NAMES)]
    rows[2][2] = '"big one'
    write(images, rows)
    with pytest.raises(StudyError, match="no readable table after line 2.*quotation marks there"):
        read(images)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a workbook", b"\xd0\xcf\x11\xe0 an old one"])
def test_a_workbook_is_refused_with_what_to_do(images, content):
    (images / "table.csv").write_bytes(content)
    with pytest.raises(StudyError, match="is a workbook .*: save its sheet as CSV"):
        read(images)


def test_words_for_missing_values_are_names_of_taxa(images):
    words = ["NA", "None", "nan", "null", "True", "007"]
    write(images, [["file", "taxon"], *map(list, zip(NAMES, words, strict=True))])
    assert read(images)["taxon"].tolist() == words


def test_two_columns_that_may_hold_the_taxon_are_not_guessed(images):
    write(images, [["file", "label", "species"], *([name, "a", "b"] for name in NAMES)])
    with pytest.raises(StudyError, match=r"'label' and 'species'.*entry\.columns = \{ taxon"):
        read(images)
    assert set(read(images, columns={"taxon": "species"})["taxon"]) == {"b"}


# --- which table, and where its images lie


def test_a_folder_without_a_table_and_one_with_two_say_what_to_do(images):
    with pytest.raises(StudyError, match='holds no table.*entry.reader = "folder"'):
        read(images)
    write(images, plain_rows(), name="a.tsv")
    write(images, plain_rows(), name="b.tsv")
    with pytest.raises(StudyError, match="holds 2 tables, and a.tsv has no column .*as source"):
        read(images)


def test_the_images_may_lie_elsewhere_than_the_table(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    file = write(folder, plain_rows())
    records = read(file, image_folder=str(images))
    assert records["id"].tolist() == NAMES


# --- exports of EcoTaxa

ECOTAXA = [
    *("img_file_name", "img_rank", "object_id", "object_date", "object_time"),
    *("object_annotation_category", "object_annotation_status", "sample_id"),
]


def ecotaxa_row(name: str, **cells: str) -> list[str]:
    """Return a row of an export; cells are named by the second half of their column."""
    usual = dict.fromkeys(ECOTAXA, "") | {
        "img_file_name": name,
        "img_rank": "0",
        "object_id": f"object of {name}",
        "object_date": "20210601",
        "object_annotation_category": "disc",
        "object_annotation_status": "validated",
    }
    return list((usual | cells).values())


def write_export(folder: Path, **columns: list[str]) -> None:
    """Write an export of the six images; some columns are given by their cells."""
    cells = zip(*columns.values(), strict=True)
    rows = [
        ecotaxa_row(name, **dict(zip(columns, own, strict=True)))
        for name, own in zip(NAMES, cells, strict=True)
    ]
    write(folder, [ECOTAXA, *rows])


def test_the_columns_of_an_export_are_known(images):
    rows = [ecotaxa_row(name, object_time="42000", sample_id="net1") for name in NAMES]
    write(images, [ECOTAXA, ["[t]"] * len(ECOTAXA), *rows], encoding="utf-8-sig")
    records = read(images)
    assert len(records) == 6
    assert (records["time"] == pd.Timestamp("2021-06-01 04:20")).all()
    assert (records["sample"] == "net1").all() and records["object"].is_unique


def test_a_backup_has_a_table_for_each_sample(images, capsys):
    """Images are named from the table's folder, and objects are numbered anew in each sample."""
    for sample, names in {"net1": NAMES[:3], "net2": NAMES[3:]}.items():
        (images / sample).mkdir()
        for name in names:
            (images / name).rename(images / sample / name)
        rows = [
            ecotaxa_row(name, sample_id=sample, object_id=str(number))
            for number, name in enumerate(names)
        ]
        write(images / sample, [ECOTAXA, *rows], name=f"ecotaxa_{sample}.tsv")
    records = read(images, group_by="sample")
    assert records["id"].tolist()[2:4] == ["net1/2.png", "net2/3.png"]
    assert records["sample"].tolist() == ["net1"] * 3 + ["net2"] * 3
    assert "2 tables are read as one set" in capsys.readouterr().out


def test_each_word_of_status_counts_and_only_validated_is_a_label(images, capsys):
    words = ["validated", "Validated ", "V", "predicted", "predicted", ""]
    write_export(images, object_annotation_status=words)
    assert read(images)["taxon"].tolist() == ["disc", "disc", "", "", "", ""]
    assert "4 images that no expert has validated" in (said := capsys.readouterr().out)
    assert "2 predicted" in said and "1 v" in said and "1 no status" in said


def test_of_each_object_the_image_of_the_lowest_rank_is_kept(images, capsys):
    objects = ["a", "a", "b", "b", "c", ""]
    ranks = ["1", "0", "100", "2", "5", "1"]
    write_export(images, object_id=objects, img_rank=ranks)
    assert read(images)["id"].tolist() == ["1.png", "3.png", "4.png", "5.png"]
    said = capsys.readouterr().out
    assert "2 objects with several images" in said and "2 are left out" in said
    assert read(images, ranks="all")["id"].tolist() == NAMES


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("420", "042000"),
        ("0930", "093000"),
        ("42000", "042000"),
        ("090239", "090239"),
        ("020139.315", "020139.315"),
        ("04:20:00", "04:20:00"),
        ("", "000000"),
        ("9920", "992000"),
        ("12", "001200"),
        ("0.4375", "0.4375"),
    ],
)
def test_times_of_day_mean_what_ecotaxa_means(text, clock):
    assert clock_text(text) == clock


def test_a_format_of_ones_own_reads_dates_beside_a_time_column(images, capsys):
    dates = ["05/04/2016", "6/4/2016", "4.5.2016", "42464", "20160405", ""]
    clocks = ["", "0930", "", "", "", ""]
    write_export(images, object_date=dates, object_time=clocks)
    times = read(images, time_format="%d/%m/%Y")["time"]
    assert times[0] == pd.Timestamp("2016-04-05")
    assert times[1] == pd.Timestamp("2016-04-06 09:30")
    assert times[[2, 3, 5]].isna().all() and times[4] == pd.Timestamp("2016-04-05")
    assert "2 of 5 times cannot be read" in capsys.readouterr().out


# --- rows and files that disagree


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("sub\\6.png", "sub/6.png"),
        ("./5.png", "5.png"),
        ("5.png ", "5.png"),
        ("5.PNG", "5.png"),
        ("sub/../5.png", "5.png"),
    ],
)
def test_names_are_understood_as_they_were_meant(images, name, found):
    rows = plain_rows()[:-1]
    write(images, [*rows, [name, "bar", ""]])
    assert read(images)["id"].tolist() == [*NAMES[:5], found]


def test_an_absolute_name_is_the_file_there(images):
    write(images, [*plain_rows()[:-1], [str(images / "5.png"), "bar", ""]])
    assert read(images)["id"].tolist() == NAMES


def test_what_disagrees_is_counted_and_named(images, capsys):
    rows = plain_rows()
    rows += [["0.png", "disc", ""], ["", "disc", ""], ["", "", ""]]
    rows[3] = [*rows[3], "x", "y"]
    write(images, rows)
    assert read(images)["id"].tolist() == NAMES
    said = capsys.readouterr().out
    assert "1 image file without a row left out, the first is 'sub/6.png'" in said
    assert "1 row left out, since they name an image again, the first is '0.png'" in said
    assert "1 row without an image left out, the first is line 9" in said
    assert "1 row with more cells than the header, the first is line 4" in said


def test_an_image_under_two_taxa_is_refused(images):
    write(images, [*plain_rows(), ["0.png", "bar", ""]])
    message = (
        r"names 1 image more than once, with different taxa; the first is '0.png' \('disc' and"
    )
    with pytest.raises(StudyError, match=message):
        read(images)


def test_a_validated_and_a_predicted_row_of_one_image_are_no_two_taxa(images, capsys):
    again = ecotaxa_row("0.png", object_annotation_status="predicted")
    write(images, [ECOTAXA, again, *(ecotaxa_row(name) for name in NAMES)])
    records = read(images)
    assert sorted(records["id"]) == NAMES and (records["taxon"] == "disc").all()
    assert "1 row left out, since they name an image again" in capsys.readouterr().out


def test_tables_with_different_columns_keep_their_images_and_labels(images):
    write(images, [ECOTAXA, *(ecotaxa_row(name) for name in NAMES[:3])], name="a.tsv")
    few = ["img_file_name", "object_annotation_category"]
    write(images, [few, *([name, "bar"] for name in NAMES[3:])], name="b.tsv")
    records = read(images)
    assert records["id"].tolist() == NAMES
    assert records["taxon"].tolist() == ["disc"] * 3 + ["bar"] * 3


def test_a_time_of_day_without_a_date_is_no_time(images):
    columns = [name for name in ECOTAXA if name != "object_date"]
    rows = [[name, "0", name, "0907", "disc", "validated", "net1"] for name in NAMES]
    write(images, [columns, *rows])
    assert read(images)["time"].isna().all()


def test_a_missing_folder_of_images_is_refused_at_once(images):
    write(images, plain_rows())
    with pytest.raises(StudyError, match=r"no folder .*imgs: correct entry\.image_folder"):
        read(images, image_folder="imgs")


# --- files that a row means


def test_an_image_is_found_under_another_path_or_without_its_ending(images, capsys):
    rows = plain_rows()
    rows[1][0] = "C:\\Users\\me\\pictures\\0.png"
    rows[2][0] = "1"
    rows[3][0] = "elsewhere/2.PNG"
    write(images, rows)
    assert list(read(images / "table.tsv")["id"]) == NAMES
    said = capsys.readouterr().out
    assert "2 images found under another path, the first is '0.png'" in said
    assert "1 image found under a name with another ending or none, the first is '1.png'" in said


def test_a_name_that_two_files_could_mean_is_not_guessed(images):
    (images / "sub" / "0.png").write_bytes((images / "0.png").read_bytes())
    rows = plain_rows()
    rows[1][0] = "elsewhere/0.png"
    write(images, rows)
    assert list(read(images / "table.tsv")["id"]) == ["elsewhere/0.png", *NAMES[1:]]


def test_text_files_about_a_set_are_no_tables(images):
    write(images / "sub", plain_rows(), name="export.tsv")
    (images / "README.txt").write_text("About these images.\n")
    (images / "LICENSE.txt").write_text("Free.\n")
    assert len(read(images, image_folder=str(images))) == 6
