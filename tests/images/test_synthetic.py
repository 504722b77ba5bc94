"""The synthetic set: image files that behave like a download, with a known truth."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plankton_study.images.synthetic.parameters import TAXA
from plankton_study.images.synthetic.sampling import catch, true_mix
from plankton_study.images.synthetic.writing import write_images
from plankton_study.run.errors import StudyError

NAME = re.compile(r"SYN-(bay|sound)-(camera[12])-(2021\d{4}T\d{6})-(\d{6})\.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic")
    write_images(path, 240, seed=0, size=48)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def border_level(pixels: np.ndarray) -> float:
    return float(np.median(np.r_[pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]))


def test_names_hold_site_camera_time_and_number_and_no_taxon_is_missing(folder):
    files = list(folder.rglob("*.*"))
    names = [NAME.fullmatch(path.name).groups() for path in files]
    assert len(names) == 240 and len({number for *_, number in names}) == 240
    assert Counter((site, camera) for site, camera, *_ in names) == {
        ("bay", "camera1"): 197,
        ("sound", "camera1"): 21,
        ("sound", "camera2"): 22,
    }
    taxa = Counter(path.parent.name for path in files)
    assert set(taxa) == set(TAXA) and min(taxa.values()) >= 4


def test_same_arguments_same_bytes_and_another_seed_another_set(folder, tmp_path):
    write_images(tmp_path / "again", 240, seed=0, size=48)
    write_images(tmp_path / "other", 240, seed=1, size=16)
    assert contents(tmp_path / "again") == contents(folder)
    assert not set(contents(tmp_path / "other").values()) & set(contents(folder).values())


def test_images_are_dark_organisms_of_many_sizes_and_the_second_camera_is_darker(folder):
    images = {path.name: np.asarray(Image.open(path)) for path in folder.rglob("*.png")}
    assert all(pixels.dtype == np.uint8 and pixels.ndim == 2 for pixels in images.values())
    lengths = np.array([max(pixels.shape) for pixels in images.values()])
    assert 40 < np.median(lengths) < 60 and len(np.unique(lengths)) > 30
    water = {name: border_level(pixels) for name, pixels in images.items()}
    is_dark = [images[name].min() < water[name] - 25 for name in images]
    assert np.mean(is_dark) > 0.9
    first = [level for name, level in water.items() if "camera1" in name]
    second = [level for name, level in water.items() if "camera2" in name]
    assert max(second) < np.median(first)


def test_the_catch_has_a_long_tail_and_follows_the_true_mix():
    rows = catch(20_000, seed=0)
    counts = sorted(Counter(taxon for taxon, *_ in rows).values())
    assert 0.15 < counts[-1] / len(rows) < 0.21 and 0.003 < counts[0] / len(rows) < 0.01
    autumn = [row for row in rows if row[3].month > 8]
    expected = sum(np.array(list(true_mix("bay", row[3].month).values())) for row in autumn)
    caught = Counter(taxon for taxon, *_ in autumn)
    numbers = np.array([caught[taxon] for taxon in TAXA])
    assert np.all(np.abs(numbers - expected) < 5 * np.sqrt(expected) + 1)


def test_images_of_a_sample_share_site_camera_and_day():
    rows = catch(600, seed=3)
    circumstances: dict[int, set] = {}
    for _, site, camera, time, sample in rows:
        circumstances.setdefault(sample, set()).add((site, camera, time.date()))
    assert all(len(of_sample) == 1 for of_sample in circumstances.values())
    assert 4 < len(rows) / len(circumstances) < 16


def test_the_true_mix_sums_to_one_and_drifts_with_season_and_site():
    places = [("bay", 5), ("bay", 10), ("sound", 5)]
    spring, autumn, sound = (np.array(list(true_mix(*place).values())) for place in places)
    assert all(abs(mix.sum() - 1) < 1e-12 for mix in (spring, autumn, sound))
    assert np.abs(spring - autumn).sum() / 2 > 0.2 and np.abs(spring - sound).sum() / 2 > 0.1


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(StudyError, match="too few"):
        write_images(tmp_path, 50, seed=0)
