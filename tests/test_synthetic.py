import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plankton_study import synthetic
from plankton_study.profile import StudyError

NAME = re.compile(r"SYN-(bay|sound)-(camera[12])-(2021\d{4}T\d{6})-(\d{6})\.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("synthetic")
    synthetic.write(where, 240, seed=0, size=48)
    return where


def by_name(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_names_tell_site_camera_time_and_number_and_no_taxon_is_missing(folder):
    rows = [(path.parent.name, *NAME.fullmatch(path.name).groups()) for path in folder.rglob("*.*")]
    assert len(rows) == 240 and len({number for *_, number in rows}) == 240
    assert Counter((site, camera) for _, site, camera, *_ in rows) == {
        ("bay", "camera1"): 197,
        ("sound", "camera1"): 21,
        ("sound", "camera2"): 22,
    }
    taxa = Counter(taxon for taxon, *_ in rows)
    assert set(taxa) == set(synthetic.TAXA) and min(taxa.values()) >= 4


def test_same_arguments_same_bytes_and_another_seed_another_set(folder, tmp_path):
    synthetic.write(tmp_path / "again", 240, seed=0, size=48)
    synthetic.write(tmp_path / "other", 240, seed=1, size=16)
    assert by_name(tmp_path / "again") == by_name(folder)
    assert not set(by_name(tmp_path / "other").values()) & set(by_name(folder).values())


def test_images_are_dark_organisms_of_many_sizes_and_the_second_camera_is_darker(folder):
    images = {path.name: np.asarray(Image.open(path)) for path in folder.rglob("*.png")}
    assert all(image.dtype == np.uint8 and image.ndim == 2 for image in images.values())
    lengths = np.array([max(image.shape) for image in images.values()])
    assert 40 < np.median(lengths) < 60 and len(np.unique(lengths)) > 30
    water = {name: np.median(np.r_[x[0], x[-1], x[:, 0], x[:, -1]]) for name, x in images.items()}
    assert np.mean([images[name].min() < water[name] - 25 for name in images]) > 0.9
    assert max(water[n] for n in water if "camera2" in n) < np.median(
        [water[n] for n in water if "camera1" in n]
    )


def test_catch_has_a_long_tail_and_follows_the_true_mix():
    rows = synthetic.catch(20_000, seed=0)
    counts = sorted(Counter(row[0] for row in rows).values())
    assert 0.15 < counts[-1] / len(rows) < 0.21 and 0.003 < counts[0] / len(rows) < 0.01
    autumn = [row for row in rows if row[3].month > 8]
    truth = sum(np.array(list(synthetic.true_mix("bay", row[3].month).values())) for row in autumn)
    seen = np.array([Counter(row[0] for row in autumn)[taxon] for taxon in synthetic.TAXA])
    assert np.all(np.abs(seen - truth) < 5 * np.sqrt(truth) + 1)


def test_images_of_a_sample_share_site_camera_and_day():
    rows = synthetic.catch(600, seed=3)
    places = {
        sample: {(r[1], r[2], r[3].date()) for r in rows if r[4] == sample}
        for sample in {r[4] for r in rows}
    }
    assert all(len(place) == 1 for place in places.values())
    assert 4 < len(rows) / len(places) < 16


def test_true_mix_sums_to_one_and_drifts_with_season_and_site():
    spring, autumn, sound = (
        np.array(list(synthetic.true_mix(*where).values()))
        for where in (("bay", 5), ("bay", 10), ("sound", 5))
    )
    assert all(abs(mix.sum() - 1) < 1e-12 for mix in (spring, autumn, sound))
    assert np.abs(spring - autumn).sum() / 2 > 0.2 and np.abs(spring - sound).sum() / 2 > 0.1


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(StudyError, match="too few"):
        synthetic.write(tmp_path, 50, seed=0)
