"""Bins of the Imaging FlowCytobot, written here as the instrument writes them."""

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_shape
from PIL import Image

from plankton_study.images.catalogue import catalogue_entry
from plankton_study.images.collection import load_collection
from plankton_study.images.instruments.ifcb import read_ifcb
from plankton_study.run.errors import StudyError

COLUMNS = (
    "trigger#, ADC_time, PMTA, PMTB, PMTC, PMTD, PeakA, PeakB, PeakC, PeakD, TimeOfFlight, "
    "GrabTimeStart, GrabTimeEnd, ROIx, ROIy, ROIwidth, ROIheight, start_byte, comparator_out, "
    "STartPoint, SignalLength, status, runTime, inhibitTime"
)
BIN = "D20140117T003426_IFCB014"


def write_bin(folder: Path, name: str, images: list[np.ndarray | None]) -> None:
    """Write a bin; None stands for a trigger without an image."""
    folder.mkdir(parents=True, exist_ok=True)
    content, lines = b"", []
    for number, image in enumerate(images, start=1):
        place = (0, 0, 0, 0)
        if image is not None:
            place = (5, 7, image.shape[1], image.shape[0])
        start = len(content)
        values = [number, 0.1, *[0.5] * 8, 1, 0.2, 0.3, *place, start, *[0] * 6]
        lines.append(",".join(map(str, values)))
        content += b"" if image is None else image.tobytes()
    (folder / f"{name}.hdr").write_text(f"softwareVersion: 1.0\nADCFileFormat: {COLUMNS}\n")
    (folder / f"{name}.adc").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.roi").write_bytes(content)


@pytest.fixture
def drawn() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.array(draw_shape(taxon, rng)) for taxon in ("disc", "bar", "cross", "disc")]


@pytest.fixture
def bins(tmp_path, drawn) -> Path:
    """Two bins, one in a subfolder, and two of their images sorted into class folders."""
    folder = tmp_path / "ifcb"
    write_bin(folder, BIN, [drawn[0], None, drawn[1]])
    write_bin(folder / "2014", "D20140118T120000_IFCB014", [drawn[2], drawn[3]])
    for taxon, name, image in (("disc", f"{BIN}_00001", 0), ("bar", f"{BIN}_00003", 1)):
        (folder / taxon).mkdir()
        Image.fromarray(drawn[image]).save(folder / taxon / f"{name}.png")
    return folder


def read(place: Path, **entry: object):
    return read_ifcb(place, catalogue_entry("my_bins", {"reader": "ifcb", **entry}))


def test_images_of_bins_are_read_with_the_labels_of_those_that_were_sorted(bins, drawn, capsys):
    records, files = read(bins, group_by="sample")
    assert list(records["id"]) == [
        f"{BIN}_00001",
        f"{BIN}_00003",
        "D20140118T120000_IFCB014_00001",
        "D20140118T120000_IFCB014_00002",
    ]
    assert list(records["taxon"]) == ["disc", "bar", "", ""]
    assert list(records["sample"].unique()) == [BIN, "D20140118T120000_IFCB014"]
    assert set(records["instrument"]) == {"IFCB014"}
    assert str(records["time"].iloc[0]) == "2014-01-17 00:34:26"
    for row in (3, 0, 2, 1):
        pixels = np.array(Image.open(io.BytesIO(files.read(row))))
        np.testing.assert_array_equal(pixels, drawn[row])
    assert "2 images of 4 in the bins have a label" in capsys.readouterr().out


def test_sorted_files_of_other_bins_are_counted(bins, capsys):
    (bins / "disc" / f"{BIN}_00001.png").rename(bins / "disc" / "other.png")
    records, _ = read(bins)
    assert list(records["taxon"]) == ["", "bar", "", ""]
    assert "1 file in class folders left out" in capsys.readouterr().out


def test_bins_become_a_collection(bins, make_study):
    place = f'source = "{bins}"\nentry = {{ reader = "ifcb" }}'
    study = make_study(more=f"[sets.bins]\n{place}\n")
    collection = load_collection(study, "bins")
    assert len(collection) == 4 and collection.images.shape[1:] == (16, 16)


def test_an_image_sorted_twice_is_refused(bins):
    (bins / "bar" / f"{BIN}_00001.png").write_bytes(b"")
    with pytest.raises(StudyError, match=f"{BIN}_00001 in the folders bar and disc"):
        read(bins)


@pytest.mark.parametrize("ending", [".hdr", ".roi"])
def test_an_incomplete_bin_is_named(bins, ending):
    (bins / f"{BIN}{ending}").unlink()
    with pytest.raises(StudyError, match=rf"{BIN}.adc has no \{ending} file beside it"):
        read(bins)


def test_the_first_instruments_are_refused_with_what_to_do(bins):
    (bins / f"{BIN}.hdr").write_text("Imaging FlowCytobot\n")
    with pytest.raises(StudyError, match="bins of the first instruments") as error:
        read(bins)
    assert "\n" not in str(error.value)


def test_a_bin_that_was_cut_off_loses_its_last_image_alone(bins, drawn):
    (bins / f"{BIN}.roi").write_bytes(drawn[0].tobytes() + b"cut")
    _, files = read(bins)
    assert files.read(0)
    with pytest.raises(OSError, match="ends before"):
        files.read(1)


def test_a_folder_without_bins_says_so(tmp_path):
    with pytest.raises(StudyError, match=r"holds no \.adc file"):
        read(tmp_path)
