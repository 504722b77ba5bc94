"""Class folders as people have them."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_shape

from plankton_study.images.catalogue import catalogue_entry
from plankton_study.images.reading.folder import read_folder
from plankton_study.run.errors import StudyError


@pytest.fixture
def folder_of(tmp_path):
    """A function that writes images of some names, and returns their folder."""

    def write(*names: str) -> Path:
        rng = np.random.default_rng(0)
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            draw_shape("disc", rng).save(tmp_path / name)
        return tmp_path

    return write


def taxa_in(folder: Path, **entry: object) -> list[str]:
    records, _ = read_folder(folder, catalogue_entry("my_set", entry))
    return records["taxon"].tolist()


NESTED = ("Diatoms/Chain/1.png", "Diatoms/Single/1.png", "Egg/1.png")


def test_deeper_folders_are_joined_into_their_taxon_and_it_is_said(folder_of, capsys):
    assert taxa_in(folder_of(*NESTED)) == ["Diatoms", "Diatoms", "Egg"]
    said = capsys.readouterr().out
    assert "taxa are the folders of level 1; 2 deeper folders joined into them" in said
    assert "'Diatoms/Chain'" in said and 'entry.taxon_level = "path"' in said


def test_the_whole_path_may_be_the_taxon(folder_of):
    taxa = taxa_in(folder_of(*NESTED), taxon_level="path")
    assert taxa == ["Diatoms/Chain", "Diatoms/Single", "Egg"]


def test_the_taxon_may_be_a_deeper_folder(folder_of):
    names = ("train/Egg/1.png", "train/Larva/1.png", "val/Egg/2.png")
    assert taxa_in(folder_of(*names), taxon_level=2) == ["Egg", "Larva", "Egg"]


@pytest.mark.parametrize("name", ["train", "Test", "images", "data", "validation"])
def test_folders_that_divide_a_set_are_no_taxa(folder_of, name):
    folder = folder_of(f"{name}/Egg/1.png", f"{name}/Larva/1.png", "Other/Egg/1.png")
    message = f"the folders {name} in .* are no taxa: set entry.taxon_level = 2"
    with pytest.raises(StudyError, match=message):
        taxa_in(folder)


def test_an_image_above_the_level_of_taxa_is_named(folder_of):
    with pytest.raises(StudyError, match=r"1 image above the folders of level 2.*'Egg/1\.png'"):
        taxa_in(folder_of(*NESTED), taxon_level=2)


def test_images_beside_the_class_folders_are_counted_and_named(folder_of, capsys):
    assert taxa_in(folder_of("Egg/1.png", "loose.png", "more.png")) == ["Egg"]
    said = capsys.readouterr().out
    assert "2 images beside the class folders left out, the first is 'loose.png'" in said


def test_an_export_of_ecotaxa_is_no_set_of_class_folders(folder_of):
    folder = folder_of("station1/1.png", "station2/1.png")
    (folder / "station1" / "ecotaxa_station1.tsv").write_text("img_file_name\n1.png\n")
    with pytest.raises(StudyError, match='export of EcoTaxa.*entry.reader = "table"'):
        taxa_in(folder)


# --- names of taxa


def test_two_spellings_of_one_accent_are_one_taxon_and_it_is_said(folder_of, capsys):
    composed, decomposed = (unicodedata.normalize(form, "Évadné") for form in ("NFC", "NFD"))
    taxa = taxa_in(folder_of(f"{composed}/1.png", f"{decomposed}/2.png"))
    assert set(taxa) == {composed}
    if len(taxa) == 2:  # some file systems join such folders
        assert "are one taxon" in capsys.readouterr().out


def test_names_that_look_alike_stay_apart_and_are_named_once(folder_of, capsys):
    taxa = taxa_in(folder_of("Oithona similis/1.png", "Oithona_similis/1.png", "Egg/1.png"))
    assert len(set(taxa)) == 3
    said = capsys.readouterr().out
    assert said.count("'Oithona similis' and 'Oithona_similis' are different taxa") == 1


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan", "007", "a~b{c}", "50% broken"])
def test_any_name_is_a_taxon(folder_of, name):
    assert taxa_in(folder_of(f"{name}/1.png", "Egg/1.png")) == sorted(["Egg", name])


def test_a_folder_of_unnamed_images_is_unlabelled(folder_of, capsys):
    folder = folder_of("Egg/1.png", "Larva/1.png", "unsorted/1.png", "unsorted/2.png")
    assert taxa_in(folder, unlabelled=["unsorted"]) == ["Egg", "Larva", "", ""]
    assert not capsys.readouterr().out
    taxa_in(folder, unlabelled=["unsortd"], not_taxa=["Egg"])
    said = capsys.readouterr().out
    assert said == "no image stands under 'unsortd', named in entry.unlabelled\n"


@pytest.mark.parametrize("name", ["train", "images"])
def test_a_path_holds_no_folder_that_divides_a_set(folder_of, name):
    folder = folder_of(f"{name}/Egg/1.png", f"{name}/Larva/1.png", "Other/Egg/1.png")
    with pytest.raises(StudyError, match=f"the folders {name} in .* are no taxa"):
        taxa_in(folder, taxon_level="path")


def test_a_name_in_another_encoding_is_refused_with_what_to_do(tmp_path):
    folder = os.fsencode(tmp_path) + b"/Cop\xe9pode"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system accepts UTF-8 only")
    draw_shape("disc", np.random.default_rng(0)).save(os.fsdecode(folder) + "/1.png")
    with pytest.raises(StudyError, match="not in UTF-8.*convmv"):
        taxa_in(tmp_path)


# --- times in file names


@pytest.mark.parametrize(
    ("pattern", "names", "said"),
    [
        (r"^(?P<time_unix>\d+)_", ["1460042915000_1.png"], "outside the years 1800 to 2100"),
        (r"^(?P<time>\d+)_", ["0930_1.png"], "cannot be read, the first is '0930'"),
        (r"^(?P<time>\w+)_", ["now_1.png"], "cannot be read, the first is 'now'"),
        (r"^(?P<time_unix>[\d.]+)_", ["1.2.3_1.png"], ""),
    ],
)
def test_impossible_times_are_unknown(folder_of, capsys, pattern, names, said):
    folder = folder_of(*(f"Egg/{name}" for name in names))
    records, _ = read_folder(folder, catalogue_entry("my_set", {"name_pattern": pattern}))
    assert records["time"].isna().all()
    assert said in capsys.readouterr().out


def test_a_pattern_may_begin_with_flags(folder_of):
    entry = catalogue_entry("my_set", {"name_pattern": r"(?i)^(?P<sample>net\d)_"})
    records, _ = read_folder(folder_of("Egg/NET1_1.png"), entry)
    assert records["sample"].tolist() == ["NET1"]


def test_stations_above_the_taxa_are_pointed_out(folder_of, capsys):
    names = [f"st{station}/{taxon}/1.png" for station in (1, 2) for taxon in ("Egg", "Larva")]
    assert set(taxa_in(folder_of(*names))) == {"st1", "st2"}
    said = capsys.readouterr().out
    assert "'Egg', 'Larva' recur below several folders of level 1" in said
    assert "entry.taxon_level = 2" in said
    assert taxa_in(folder_of(*names), taxon_level=2) == ["Egg", "Larva"] * 2
    assert "recur" not in capsys.readouterr().out


def test_files_that_are_no_images_are_counted_by_ending(folder_of, capsys):
    folder = folder_of("Egg/1.png", "Larva/1.png")
    for name in ("Egg/2.pgm", "Larva/2.jfif", "Larva/3.jfif", "Larva/.hidden"):
        (folder / name).touch()
    taxa_in(folder)
    assert "files that are no images left out (2 .jfif, 1 .pgm)" in capsys.readouterr().out
