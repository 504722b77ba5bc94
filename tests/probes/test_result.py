"""A fitted probe: it names new images, is saved without a pickle, and answers for a bank."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plankton_study.images.splits import Splits, make_splits
from plankton_study.probes.probe import probe_encoder, read_features
from plankton_study.probes.result import LinearProbe, ProbeResult
from plankton_study.run.errors import StudyError

ENCODERS = ["diffusion", "pixels + PCA", "ResNet, labels"]


@pytest.fixture
def splits(shared) -> Splits:
    return make_splits(shared, "shapes")


@pytest.fixture
def result(shared, splits) -> ProbeResult:
    return probe_encoder(shared, splits, "diffusion")


def images_and_ids(splits: Splits, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return images as a user has them, raw uint8 in memory, and their ids."""
    images = np.array(splits.collection.images[rows])
    assert images.dtype == np.uint8
    return images, splits.collection.records["id"].iloc[rows].tolist()


# --- new images


@pytest.mark.parametrize("name", ENCODERS)
def test_images_get_the_probabilities_that_are_stored_of_them(shared, splits, name):
    result = probe_encoder(shared, splits, name)
    images, ids = images_and_ids(splits, result.rows["test"])
    stored = result.heads["linear"]["test"]
    chances = result.predict_probabilities(images, ids)
    assert chances.dtype == np.float32
    np.testing.assert_allclose(chances, stored, atol=1e-4)
    np.testing.assert_allclose(result.predict_probabilities(images), stored, atol=1e-4)
    expected = result.classes[chances.argmax(axis=1)]
    assert result.predict(images).tolist() == expected.tolist()
    assert result.predict(images, ids).tolist() == expected.tolist()
    is_clear = np.ptp(np.sort(stored, axis=1)[:, -2:], axis=1) > 1e-3
    assert is_clear.any()
    assert np.array_equal(result.predict(images)[is_clear], result.predicted_taxa("test")[is_clear])


def test_the_size_of_a_batch_does_not_matter(splits, result):
    images, ids = images_and_ids(splits, result.rows["test"])
    stored = result.heads["linear"]["test"]
    for batch_size in (1, 5, 1000):
        chances = result.predict_probabilities(images, ids, batch_size)
        np.testing.assert_allclose(chances, stored, atol=1e-4)
    backwards = result.predict_probabilities(images[::-1], ids[::-1])
    np.testing.assert_allclose(backwards[::-1], stored, atol=1e-4)
    no_images = result.predict_probabilities(images[:0])
    assert no_images.shape == (0, len(result.classes)) and len(result.predict(images[:0])) == 0


def test_noise_that_depends_on_ids_asks_for_them(make_study, shared):
    by_image = {"[features]": '[features]\nnoise = "by_image"'}
    study = make_study(by_image, cache=shared.cache)
    splits = make_splits(study, "shapes")
    result = probe_encoder(study, splits, "diffusion", search="predeclared")
    images, ids = images_and_ids(splits, result.rows["test"])
    for predict in (result.predict, result.predict_probabilities):
        with pytest.raises(StudyError, match="diffusion seeds noise by the ids .*: pass ids"):
            predict(images)
    stored = result.heads["linear"]["test"]
    np.testing.assert_allclose(result.predict_probabilities(images, ids), stored, atol=1e-4)
    others = [f"other {image_id}" for image_id in ids]
    assert np.abs(result.predict_probabilities(images, others) - stored).max() > 1e-3
    # of pixels no noise is drawn
    pixels = probe_encoder(study, splits, "pixels + PCA")
    assert len(pixels.predict(images)) == len(images)


# --- rows of a bank


@pytest.mark.parametrize("name", ENCODERS)
def test_a_bank_gives_exactly_the_stored_probabilities(shared, splits, name):
    result = probe_encoder(shared, splits, name)
    _, bank = read_features(shared, splits, name)
    for part, rows in result.rows.items():
        stored = result.heads["linear"][part]
        assert result.probabilities(bank, rows).dtype == stored.dtype == np.float32
        np.testing.assert_array_equal(result.probabilities(bank, rows), stored)
    features = bank.take(result.selected, result.rows["test"])
    np.testing.assert_array_equal(
        result.linear.probabilities(features), result.heads["linear"]["test"]
    )


def test_other_parts_are_answered_by_the_linear_probe_alone(shared, splits, result):
    _, bank = read_features(shared, splits, "diffusion")
    parts = {"few": result.rows["test"][:5], "later": result.rows["later"]}
    asked = result.on_parts(dict.fromkeys(parts, bank), parts)
    assert asked.rows == parts and set(asked.heads) == {"linear"}
    stored = result.heads["linear"]
    np.testing.assert_allclose(asked.heads["linear"]["few"], stored["test"][:5], atol=1e-6)
    np.testing.assert_array_equal(asked.heads["linear"]["later"], stored["later"])
    assert asked.linear is result.linear and set(result.heads) >= {"weighted", "k-NN"}


def test_adjusting_divides_by_the_training_prior(shared, splits):
    result = probe_encoder(shared, splits, "pixels + PCA")
    chances = np.array([[0.5, 0.3, 0.2], [0.5, 0.45, 0.05], [0.9, 0.05, 0.05]], np.float32)
    made_up = replace(
        result,
        linear=replace(result.linear, classes=np.array(["a", "b", "c"])),
        prior=np.array([0.6, 0.3, 0.1]),
        heads={"linear": {"test": chances}},
    )
    assert made_up.predicted_taxa("test").tolist() == ["a", "a", "a"]
    # in proportion to 0.83, 1, 2; to 0.83, 1.5, 0.5; and to 1.5, 0.17, 0.5
    assert made_up.predicted_taxa("test", adjusted=True).tolist() == ["c", "b", "a"]


# --- saved probes


@pytest.mark.parametrize("name", ENCODERS)
def test_a_saved_probe_comes_back_byte_for_byte(shared, splits, tmp_path, name):
    linear = probe_encoder(shared, splits, name).linear
    linear.save(tmp_path / "first")
    loaded = LinearProbe.load(tmp_path / "first")
    assert loaded.cell == linear.cell and loaded.strength == linear.strength
    assert loaded.classes.tolist() == linear.classes.tolist()
    for before, after in (
        (linear.weights, loaded.weights),
        (linear.bias, loaded.bias),
        (linear.scaler.mean, loaded.scaler.mean),
        (linear.scaler.scale, loaded.scaler.scale),
    ):
        assert after.dtype == before.dtype and after.shape == before.shape
        assert after.tobytes() == before.tobytes()
    loaded.save(tmp_path / "second")
    for file in ("probe.safetensors", "probe.json"):
        first, second = (tmp_path / folder / file for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_a_loaded_probe_gives_the_stored_probabilities(shared, splits, result, tmp_path):
    result.linear.save(tmp_path)
    loaded = LinearProbe.load(tmp_path)
    _, bank = read_features(shared, splits, "diffusion")
    chances = loaded.probabilities(bank.take(loaded.cell, result.rows["test"]))
    np.testing.assert_array_equal(chances, result.heads["linear"]["test"])


def test_nothing_is_pickled(result, tmp_path):
    folder = tmp_path / "new" / "folder"
    result.linear.save(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["probe.json", "probe.safetensors"]
    for file in folder.iterdir():
        # a pickle starts so, and a zip archive of pickles
        assert not file.read_bytes().startswith((b"\x80", b"PK"))


def remove_both_files(folder: Path) -> None:
    (folder / "probe.json").unlink()
    (folder / "probe.safetensors").unlink()


def remove_the_arrays(folder: Path) -> None:
    (folder / "probe.safetensors").unlink()


def remove_the_text(folder: Path) -> None:
    (folder / "probe.json").unlink()


def cut_the_arrays(folder: Path) -> None:
    file = folder / "probe.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def cut_the_text(folder: Path) -> None:
    file = folder / "probe.json"
    file.write_text(file.read_text()[:20])


def remove_a_key(folder: Path) -> None:
    (folder / "probe.json").write_text('{"layer": "up16.resnet1", "timestep": 20}')


def add_a_class(folder: Path) -> None:
    """The text is that of another probe."""
    text = (folder / "probe.json").read_text()
    (folder / "probe.json").write_text(text.replace('"classes": [', '"classes": ["another", '))


@pytest.mark.parametrize(
    "damage",
    [
        remove_both_files,
        remove_the_arrays,
        remove_the_text,
        cut_the_arrays,
        cut_the_text,
        remove_a_key,
        add_a_class,
    ],
)
def test_a_broken_folder_is_one_error(result, tmp_path, damage):
    result.linear.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(StudyError, match="holds no readable probe .*: save it again") as caught:
        LinearProbe.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__suppress_context__, "the user sees a second error"
