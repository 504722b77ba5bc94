"""A collection on real image files, whole and broken."""

import hashlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import write_shapes
from PIL import Image, ImageOps

from plankton_study.images.collection import load_collection, open_original
from plankton_study.images.decoding import prepare_image
from plankton_study.run.errors import StudyError

BROKEN = "disc/20210601T000000_bay_broken.png"


@pytest.fixture
def with_broken_file(tmp_path) -> Path:
    """A folder of 120 images, and a file that is none: the first one of its class folder."""
    folder = tmp_path / "set"
    write_shapes(folder, 120)
    (folder / BROKEN).write_bytes(b"\x89PNG not really")
    return folder


def test_a_folder_becomes_a_collection(shared):
    collection = load_collection(shared, "shapes")
    records = collection.records
    assert collection.images.shape == (160, 16, 16) and collection.images.dtype == np.uint8
    assert isinstance(collection.images, np.memmap)
    assert set(records["taxon"]) == {"disc", "bar", "cross", "ring"}
    assert records["time"].between("2021-06-01", "2021-07-31").all()
    assert (records["site"] == "bay").all() and records["id"].is_unique
    assert records["width"].between(20, 40).all()


@pytest.fixture
def inverted(tmp_path, shapes) -> Path:
    """The images of the test's set, light on dark ground."""
    for file in shapes.glob("*/*.png"):
        copy = tmp_path / "inverted" / file.relative_to(shapes)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            ImageOps.invert(image).save(copy)
    return tmp_path / "inverted"


def entry_with(polarity: str) -> dict[str, str]:
    """Return the change of the test's profile that states a polarity."""
    return {'group_by = "day" }': f'group_by = "day", polarity = "{polarity}" }}'}


@pytest.mark.parametrize("polarity", ["light_on_dark", "by_border"])
def test_light_organisms_are_inverted(shared, make_study, inverted, polarity):
    dark = load_collection(shared, "shapes")
    light = load_collection(make_study(entry_with(polarity), folder=inverted), "shapes")
    assert abs(light.images.astype(int) - dark.images).max() <= 1


@pytest.mark.parametrize("stated", ["light_on_dark", "dark_on_light"])
def test_a_polarity_that_the_borders_contradict_is_refused(make_study, shapes, inverted, stated):
    folder = shapes if stated == "light_on_dark" else inverted
    other = "dark_on_light" if stated == "light_on_dark" else "light_on_dark"
    study = make_study(entry_with(stated), folder=folder)
    with pytest.raises(StudyError, match=rf'160 of 160 .*: set entry.polarity = "{other}"'):
        load_collection(study, "shapes")


def test_a_few_borders_that_contradict_the_polarity_are_named(make_study, shapes, tmp_path, capsys):
    folder = shutil.copytree(shapes, tmp_path / "mixed")
    file = sorted(folder.glob("disc/*.png"))[0]
    with Image.open(file) as image:
        ImageOps.invert(image).save(file)
    assert len(load_collection(make_study(folder=folder), "shapes")) == 160
    said = capsys.readouterr().out
    assert "1 of 160" in said and "on a dark ground" in said and file.name in said


def test_what_a_reader_says_is_printed_once_and_kept(make_study, shapes, tmp_path, capsys):
    folder = shutil.copytree(shapes, tmp_path / "deeper")
    (folder / "disc" / "more").mkdir()
    file = sorted(folder.glob("disc/*.png"))[0]
    file.rename(folder / "disc" / "more" / file.name)
    study = make_study(folder=folder)
    said = load_collection(study, "shapes").said
    assert len(said) == 1 and "1 deeper folder joined" in said[0]
    assert said[0] in capsys.readouterr().out
    assert load_collection(study, "shapes").said == said
    assert not capsys.readouterr().out


def test_files_of_several_pages_are_named(make_study, shapes, tmp_path, capsys):
    folder = shutil.copytree(shapes, tmp_path / "pages")
    page = Image.open(sorted(folder.glob("disc/*.png"))[0])
    page.save(
        folder / "disc" / "20210601T000000_bay_pages.tif", save_all=True, append_images=[page]
    )
    load_collection(make_study(folder=folder), "shapes")
    assert "1 file of several pages" in capsys.readouterr().out


def test_the_digest_follows_the_content_not_the_place(make_study, tmp_path):
    def digest(folder: str, cache: str) -> str:
        study = make_study(folder=tmp_path / folder, cache=tmp_path / cache)
        return load_collection(study, "shapes").digest

    for name in ("a", "b"):
        write_shapes(tmp_path / name, 40)
    assert digest("a", "cache1") == digest("b", "cache2")
    next((tmp_path / "b" / "disc").iterdir()).unlink()
    assert digest("b", "cache2") != digest("a", "cache1")


def test_the_digest_is_that_of_the_whole_table_and_all_images(shared):
    collection = load_collection(shared, "shapes")
    known = collection.records.drop(columns="object")  # no object is known
    content = known.to_csv(index=False).encode() + collection.images.tobytes()
    assert collection.digest == hashlib.sha256(content).hexdigest()[:20]


def test_a_broken_file_is_named_and_counted(make_study, with_broken_file, capsys):
    collection = load_collection(make_study(folder=with_broken_file), "shapes")
    assert collection.refused == (BROKEN,) and len(collection) == 120
    assert BROKEN in capsys.readouterr().out
    # no image has moved to another one's place
    for pixels, image_id in zip(collection.images, collection.records["id"], strict=True):
        content = (with_broken_file / image_id).read_bytes()
        assert np.array_equal(pixels, prepare_image(content, 16, "dark_on_light").pixels)


def test_truncated_and_empty_files_are_refused_too(make_study, tmp_path):
    write_shapes(tmp_path / "set", 300)
    files = sorted((tmp_path / "set" / "disc").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    collection = load_collection(make_study(folder=tmp_path / "set"), "shapes")
    assert collection.refused == tuple(f"disc/{file.name}" for file in files[:2])


def test_too_many_broken_files_stop_the_study(make_study, tmp_path):
    write_shapes(tmp_path / "set", 40)
    for file in list((tmp_path / "set" / "disc").iterdir())[:5]:
        file.write_bytes(b"")
    with pytest.raises(StudyError, match=r"5 of 40 images .* cannot be read.*broken_share"):
        load_collection(make_study(folder=tmp_path / "set"), "shapes")


def test_an_empty_class_folder_is_named_and_left_out(make_study, tmp_path, capsys):
    write_shapes(tmp_path / "set", 40)
    (tmp_path / "set" / "nothing").mkdir()
    collection = load_collection(make_study(folder=tmp_path / "set"), "shapes")
    assert "nothing" not in set(collection.records["taxon"])
    assert "class folders without images are left out: nothing" in capsys.readouterr().out


def test_a_folder_without_images_is_refused(make_study, tmp_path):
    (tmp_path / "set" / "disc").mkdir(parents=True)
    with pytest.raises(StudyError, match="holds no images"):
        load_collection(make_study(folder=tmp_path / "set"), "shapes")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("D20140117T003426_IFCB014.roi", "Imaging FlowCytobot: set entry.reader"),
        ("run.lst", "VisualSpread"),
    ],
)
def test_raw_files_of_an_instrument_are_recognised(make_study, tmp_path, name, advice):
    (tmp_path / "set" / "raw").mkdir(parents=True)
    (tmp_path / "set" / "raw" / name).write_bytes(b"raw")
    with pytest.raises(StudyError, match=f"holds no images.*{advice}"):
        load_collection(make_study(folder=tmp_path / "set"), "shapes")


def test_a_zip_of_a_folder_is_read_like_the_folder(make_study, tmp_path):
    folder = tmp_path / "set"
    write_shapes(folder, 40)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    from_folder = load_collection(make_study(folder=folder), "shapes")
    from_zip = load_collection(make_study(folder=tmp_path / "set.zip"), "shapes")
    assert np.array_equal(from_folder.images, from_zip.images)
    assert from_folder.digest == from_zip.digest


def test_an_unknown_set_is_refused(make_study):
    with pytest.raises(StudyError, match=r"no set 'fish', only shapes"):
        load_collection(make_study(), "fish")


# --- originals


def test_an_original_is_the_image_of_its_file(shared, shapes):
    records = load_collection(shared, "shapes").records
    for record in records.iloc[[0, 57, -1]].itertuples():
        original = open_original(shared, "shapes", record.id)
        assert isinstance(original, Image.Image)
        assert original.size == (record.width, record.height)
        with Image.open(shapes / record.id) as expected:
            assert np.array_equal(original, expected)


def test_an_original_is_neither_resized_nor_inverted(make_study, inverted):
    study = make_study(entry_with("light_on_dark"), folder=inverted)
    collection = load_collection(study, "shapes")
    image_id = collection.records["id"][3]
    original = open_original(study, "shapes", image_id)
    prepared = prepare_image((inverted / image_id).read_bytes(), 16, "light_on_dark")
    assert np.array_equal(collection.images[3], prepared.pixels)
    assert original.size != (16, 16)
    assert original.getpixel((0, 0)) < 65  # the ground is dark


def test_an_original_is_found_behind_a_broken_file(make_study, with_broken_file):
    """A broken file has a row among the files, but none among the records."""
    study = make_study(folder=with_broken_file)
    records = load_collection(study, "shapes").records
    rows_behind = np.flatnonzero(records["id"] > BROKEN)
    image_id = records["id"][rows_behind[0]]
    with Image.open(with_broken_file / image_id) as expected:
        assert np.array_equal(open_original(study, "shapes", image_id), expected)
