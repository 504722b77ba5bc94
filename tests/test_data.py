"""Readers and decoding on real files, good and broken."""

import hashlib
import io
import struct
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest
from conftest import draw, write_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plankton_study import data, readers, sources
from plankton_study.profile import StudyError


def png(image: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form)
    return stream.getvalue()


# --- decoding


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 16, 32]), st.booleans())
def test_prepare_keeps_an_even_image_even_whatever_its_shape(height, width, size, invert):
    square, *original = data.prepare(png(np.full((height, width), 200, np.uint8)), size, invert)
    assert square.shape == (size, size) and square.dtype == np.uint8
    assert (square == (55 if invert else 200)).all() and original == [width, height]


def test_prepare_pads_with_the_border_and_keeps_proportions():
    image = np.full((10, 40), 240, np.uint8)
    image[3:7, 10:30] = 20
    square, _, _ = data.prepare(png(image), 40, False)
    dark = np.argwhere(square < 128)
    assert dark.min(axis=0).tolist() == [18, 10] and dark.max(axis=0).tolist() == [21, 29]
    assert (square[:15] == 240).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16"])
def test_prepare_reads_every_common_mode(mode):
    grey = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1)))
    image = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        if mode == "I;16"
        else grey.convert(mode)
    )
    stream = io.BytesIO()
    image.save(stream, "PNG")
    square, _, _ = data.prepare(stream.getvalue(), 16, False)
    assert square[:, 0].mean() < 60 < 190 < square[:, -1].mean()


def test_transparent_ground_is_no_organism():
    for mode, invert in (("RGBA", False), ("LA", False), ("RGBA", True)):
        image = Image.new(mode, (20, 20))  # all of it transparent, and black
        image.paste(Image.new(mode, (6, 6), (90,) * (len(mode) - 1) + (255,)), (7, 7))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        square, _, _ = data.prepare(stream.getvalue(), 20, invert)
        assert square[0, 0] == 255 and square[10, 10] == (165 if invert else 90)


def test_colours_of_16_bits_are_refused_rather_than_darkened():
    """Pillow would keep the high byte of each: an image of a camera of 12 bits would be nearly black."""
    rows = b"".join(b"\0" + struct.pack(">12H", *[4000] * 12) for _ in range(4))
    chunks = (
        (b"IHDR", struct.pack(">2I5B", 4, 4, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        content += (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )
    with pytest.raises(ValueError, match="colours of 16 bits"):
        data.prepare(content, 16, False)


# --- the collection


def test_a_folder_becomes_a_collection(make_study):
    images = data.collection(make_study(), "shapes")
    assert images.images.shape == (160, 16, 16) and images.images.dtype == np.uint8
    assert isinstance(images.images, np.memmap)
    assert set(images.records["taxon"]) == {"disc", "bar", "cross", "ring"}
    assert images.records["time"].between("2021-06-01", "2021-07-31").all()
    assert (images.records["site"] == "bay").all() and images.records["id"].is_unique
    assert images.records["width"].between(20, 40).all()
    light = {'group_by = "day" }': 'group_by = "day", polarity = "light_on_dark" }'}
    assert np.array_equal(data.collection(make_study(light), "shapes").images, 255 - images.images)


def test_the_digest_follows_the_content_not_the_place(make_study, tmp_path):
    for name in ("a", "b"):
        write_shapes(tmp_path / name, 40)
    one = data.collection(make_study(folder=tmp_path / "a", cache=tmp_path / "c1"), "shapes")
    two = data.collection(make_study(folder=tmp_path / "b", cache=tmp_path / "c2"), "shapes")
    assert one.digest == two.digest
    next((tmp_path / "b" / "disc").iterdir()).unlink()
    assert (
        data.collection(make_study(folder=tmp_path / "b", cache=tmp_path / "c2"), "shapes").digest
        != one.digest
    )


def test_the_digest_is_that_of_the_whole_table_and_all_images(make_study):
    shapes = data.collection(make_study(), "shapes")
    whole = shapes.records.to_csv(index=False).encode() + shapes.images.tobytes()
    assert shapes.digest == hashlib.sha256(whole).hexdigest()[:20]


def test_a_broken_file_is_named_and_counted(make_study, tmp_path, capsys):
    write_shapes(tmp_path / "set", 120)
    (tmp_path / "set" / "disc" / "20210601T000000_bay_broken.png").write_bytes(
        b"\x89PNG not really"
    )
    images = data.collection(make_study(folder=tmp_path / "set"), "shapes")
    assert images.refused == ("disc/20210601T000000_bay_broken.png",) and len(images) == 120
    assert "disc/20210601T000000_bay_broken.png" in capsys.readouterr().out
    for image, name in zip(
        images.images, images.records["id"], strict=True
    ):  # none has moved to another's place
        assert np.array_equal(
            image, data.prepare((tmp_path / "set" / name).read_bytes(), 16, False)[0]
        )


def test_truncated_and_empty_files_are_refused_too(make_study, tmp_path):
    write_shapes(tmp_path / "set", 300)
    files = sorted((tmp_path / "set" / "disc").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    assert len(data.collection(make_study(folder=tmp_path / "set"), "shapes").refused) == 2


def test_too_many_broken_files_stop_the_study(make_study, tmp_path):
    write_shapes(tmp_path / "set", 40)
    for file in list((tmp_path / "set" / "disc").iterdir())[:5]:
        file.write_bytes(b"")
    with pytest.raises(StudyError, match="5 of 40 images .* cannot be read.*broken_share"):
        data.collection(make_study(folder=tmp_path / "set"), "shapes")


def test_an_empty_class_folder_is_named_and_left_out(make_study, tmp_path, capsys):
    write_shapes(tmp_path / "set", 40)
    (tmp_path / "set" / "nothing").mkdir()
    images = data.collection(make_study(folder=tmp_path / "set"), "shapes")
    assert "nothing" not in set(images.records["taxon"]) and "nothing" in capsys.readouterr().out


def test_a_folder_without_images_is_refused(make_study, tmp_path):
    (tmp_path / "set" / "disc").mkdir(parents=True)
    with pytest.raises(StudyError, match="holds no images"):
        data.collection(make_study(folder=tmp_path / "set"), "shapes")


def test_a_zip_of_a_folder_is_read_like_the_folder(make_study, tmp_path):
    write_shapes(tmp_path / "set", 40)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted((tmp_path / "set").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "set"))
    unpacked = data.collection(make_study(folder=tmp_path / "set"), "shapes")
    zipped = data.collection(make_study(folder=tmp_path / "set.zip"), "shapes")
    assert np.array_equal(unpacked.images, zipped.images)


def test_an_unknown_set_is_refused(make_study):
    with pytest.raises(StudyError, match="no set 'fish'"):
        data.collection(make_study(), "fish")


def test_times_outside_the_deployment_are_unknown(tmp_path):
    for name in ("SPC-PWSSC-1460042915-1.png", "SPC-PWSSC-0-1.png", "SPC-PWSSC-2744042915-1.png"):
        (tmp_path / "Beroe").mkdir(exist_ok=True)
        draw("disc", np.random.default_rng(0)).save(tmp_path / "Beroe" / name)
    records, _ = readers.read_folder(tmp_path, sources.entry("pwssc"))
    assert records["time"].notna().sum() == 1
    assert records["time"].dropna().iloc[0] == pd.Timestamp("2016-04-07 15:28:35")


# --- tables and Hub data sets


@pytest.fixture
def ecotaxa(tmp_path):
    """A small export as EcoTaxa writes it: tab-separated, a second row of types, dates and times as digits."""
    rng = np.random.default_rng(0)
    rows = [
        [
            "object_id",
            "img_file_name",
            "object_annotation_category",
            "object_date",
            "object_time",
            "sample_id",
        ]
    ]
    rows.append(["[t]", "[t]", "[t]", "[t]", "[t]", "[t]"])
    for i in range(12):
        draw("disc" if i % 2 else "bar", rng).save(tmp_path / f"{i}.png")
        rows.append(
            [
                f"o{i}",
                f"{i}.png",
                "Disc<round" if i % 2 else "Bar",
                "20210601",
                f"{i}0507",
                f"net{i // 6}",
            ]
        )
    (tmp_path / "ecotaxa_export.tsv").write_text("\n".join("\t".join(row) for row in rows))
    return tmp_path


ECOTAXA = {
    "columns": {"date": "object_date", "time": "object_time", "sample": "sample_id"},
    "reader": "table",
}


def test_an_ecotaxa_export_is_read(ecotaxa):
    records, read = readers.read_table(ecotaxa, sources.entry("mine", ECOTAXA))
    assert len(records) == 12 and set(records["taxon"]) == {"Disc<round", "Bar"}
    assert records["time"][3] == pd.Timestamp("2021-06-01 03:05:07") and set(records["sample"]) == {
        "net0",
        "net1",
    }
    assert data.prepare(read(3), 16, False)[0].shape == (16, 16)


def test_what_no_expert_validated_is_not_labelled(ecotaxa, capsys):
    file = ecotaxa / "ecotaxa_export.tsv"
    status = [
        "object_annotation_status",
        "[t]",
        *["validated"] * 8,
        "predicted",
        "dubious",
        "predicted",
        "validated",
    ]
    lines = file.read_text().splitlines()
    file.write_text(
        "\r\n".join(f"{line}\t{each}" for line, each in zip(lines, status, strict=True))
    )
    records, _ = readers.read_table(ecotaxa, sources.entry("mine", ECOTAXA))
    assert (records["taxon"] == "").tolist() == [False] * 8 + [True] * 3 + [False]
    assert "3 images that no expert validated" in capsys.readouterr().out


def test_no_date_is_guessed(ecotaxa, capsys):
    """Days and months never change places: ISO 8601 or what the entry says, and what cannot be read is told."""
    file = ecotaxa / "ecotaxa_export.tsv"
    dates = ["2021-06-01", "20210602", "03/06/2021", "2021-06-04"]
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    for number, line in enumerate(lines[2:]):
        line[3:5] = dates[number % 4], "10:05" if number % 4 == 3 else line[4]
    file.write_text("\n".join("\t".join(line) for line in lines))
    entry = {**ECOTAXA, "columns": {"date": "object_date", "time": "object_time"}}
    times = readers.read_table(ecotaxa, sources.entry("mine", entry))[0]["time"]
    assert times[0] == pd.Timestamp("2021-06-01 00:05:07") and times[1] == pd.Timestamp(
        "2021-06-02 01:05:07"
    )
    assert (
        times[3] == pd.Timestamp("2021-06-04 10:05")
        and times[2:12:4].isna().all()
        and times.isna().sum() == 3
    )
    assert (
        "3 of 12 times cannot be read, the first is '03/06/2021T020507'" in capsys.readouterr().out
    )
    table = {"reader": "table", "columns": {"time": "object_date"}, "time_format": "%d/%m/%Y"}
    times = readers.read_table(ecotaxa, sources.entry("mine", table))[0]["time"]
    assert times[2] == pd.Timestamp("2021-06-03") and times.notna().all()


def test_a_misspelt_column_is_refused():
    with pytest.raises(StudyError, match="columns"):
        sources.entry("mine", {"reader": "table", "columns": {"samples": "sample_id"}})


def test_a_missing_column_is_named(ecotaxa):
    with pytest.raises(StudyError, match="no column 'depth'.*object_id"):
        readers.read_table(
            ecotaxa, sources.entry("mine", {**ECOTAXA, "columns": {"sample": "depth"}})
        )


def test_one_image_with_two_taxa_is_refused(ecotaxa):
    file = ecotaxa / "ecotaxa_export.tsv"
    file.write_text(file.read_text() + "\no12\t3.png\tBar\t20210601\t100507\tnet0")
    with pytest.raises(StudyError, match=r"3\.png.*more than once"):
        readers.read_table(ecotaxa, sources.entry("mine", ECOTAXA))


def test_an_image_that_the_table_names_but_nobody_has_is_refused(ecotaxa, make_study):
    (ecotaxa / "3.png").unlink()
    entry = "entry = {{ name_pattern = '^(?P<time>\\\\d{{8}}T\\\\d{{6}})_(?P<site>[a-z]+)_', group_by = \"day\" }}"
    changed = "entry = { reader = 'table', group_by = 'sample' }\nimages_seen = 32"
    study = make_study(
        {entry.replace("{{", "{").replace("}}", "}").replace("\\\\", "\\"): changed}, folder=ecotaxa
    )
    with pytest.raises(StudyError, match=r"1 of 12 images.*3\.png"):
        data.collection(study, "shapes")


@pytest.mark.parametrize("labels", ["names", "strings"])
def test_parquet_of_the_hubs_schema_is_read(tmp_path, labels):
    import datasets

    rng = np.random.default_rng(0)
    label = (
        datasets.ClassLabel(names=["bar", "disc"])
        if labels == "names"
        else datasets.Value("string")
    )
    taxa = [i % 2 if labels == "names" else ["bar", "disc"][i % 2] for i in range(10)]
    names = [f"IFCB1_2009_216_0{i}5913_0415{i}.png" for i in range(10)]
    images = [
        {"bytes": png(np.asarray(draw(["bar", "disc"][i % 2], rng))), "path": names[i]}
        for i in range(10)
    ]
    features = datasets.Features({"image": datasets.Image(), "label": label})
    table = datasets.Dataset.from_dict({"image": images, "label": taxa}, features=features)
    (tmp_path / "hub").mkdir()
    table.to_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet")
    records, read = readers.read_hub(tmp_path / "hub", sources.entry("whoi"))
    assert records["taxon"].tolist() == ["bar", "disc"] * 5
    assert records["time"][2] == pd.Timestamp("2009-08-04 02:59:13")
    assert data.prepare(read(1), 16, False)[0].shape == (16, 16)


@pytest.mark.parametrize("labels", ["names", "strings"])
def test_what_has_no_label_on_the_hub_counts_as_not_labelled(tmp_path, labels):
    """Of an unlabelled part the Hub says null, or -1 where labels are classes."""
    import datasets

    label = (
        datasets.ClassLabel(names=["bar", "disc"])
        if labels == "names"
        else datasets.Value("string")
    )
    given = [0, None, -1] if labels == "names" else ["bar", None, None]
    images = [{"bytes": png(np.zeros((16, 16), np.uint8)), "path": None}] * 3
    features = datasets.Features({"image": datasets.Image(), "label": label})
    (tmp_path / "hub").mkdir()
    table = datasets.Dataset.from_dict({"image": images, "label": given}, features=features)
    table.to_parquet(tmp_path / "hub" / "train.parquet")
    records, _ = readers.read_hub(tmp_path / "hub", sources.entry("mine"))
    assert records["taxon"].tolist() == ["bar", "", ""]


def test_class_folders_serve_as_well_as_parquet(tmp_path):
    write_shapes(tmp_path / "hub", 12)
    records, read = readers.read_hub(
        tmp_path / "hub", sources.entry("whoi", {"name_pattern": None})
    )
    folder, _ = readers.read_folder(tmp_path / "hub", sources.entry("mine"))
    assert records["taxon"].tolist() == folder["taxon"].tolist()
    assert read(5) == (tmp_path / "hub" / folder["id"][5]).read_bytes()


def test_a_damaged_parquet_is_one_sentence(tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StudyError, match="could not be loaded") as error:
        readers.read_hub(tmp_path / "hub", sources.entry("whoi"))
    assert "\n" not in str(error.value)


def test_a_row_without_an_image_is_refused(ecotaxa):
    file = ecotaxa / "ecotaxa_export.tsv"
    file.write_text(file.read_text() + "\no12\t\tBar\t20210601\t100507\tnet0")
    with pytest.raises(StudyError, match="no image in its data row 13"):
        readers.read_table(ecotaxa, sources.entry("mine", ECOTAXA))


def test_folders_are_read_one_after_the_other_and_sorted(tmp_path):
    names = ["a b/1.png", "a/2.png", "a/deep/1.png", "a/10.png", "a-b/1.png", "A/1.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        draw("disc", np.random.default_rng(0)).save(tmp_path / name)
    for hidden in (".thumbs/1.png", "a/.@__thumb/2.png", "@eaDir/3.png"):
        (tmp_path / hidden).parent.mkdir(parents=True)
        draw("bar", np.random.default_rng(0)).save(tmp_path / hidden)
    records, read = readers.read_folder(tmp_path, sources.entry("mine", {}))
    assert list(records["id"]) == [
        str(p.relative_to(tmp_path)) for p in sorted(tmp_path / name for name in names)
    ]
    assert read(2) == (tmp_path / records["id"][2]).read_bytes()
    before = read.fingerprint
    draw("bar", np.random.default_rng(1)).save(tmp_path / "a/2.png")
    assert readers.read_folder(tmp_path, sources.entry("mine", {}))[1].fingerprint != before
