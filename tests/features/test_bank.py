"""The bank: what the encoder gives, whoever interrupts, and never the features of another."""

import numpy as np
import pytest

from plankton_study.features import bank as bank_module
from plankton_study.features.bank import extract_features
from plankton_study.features.registry import diffusion_encoder, make_encoder, random_encoder
from plankton_study.images.splits import make_splits
from plankton_study.run.errors import StudyError


@pytest.fixture
def splits(shared):
    return make_splits(shared, "shapes")


def features_of(encoder, splits, rows, cell):
    """Return what an encoder gives for all rows at once, without a bank."""
    collection = splits.collection
    ids = list(collection.records["id"].iloc[rows])
    return encoder.encode(collection.images[rows], ids, [cell])[cell]


def test_the_bank_holds_what_the_encoder_gives(shared, splits):
    encoder = diffusion_encoder(shared, splits)
    bank = extract_features(shared, encoder, splits, splits.evaluated)
    rows = splits["test"]
    another = np.setdiff1d(np.arange(len(splits.collection)), splits.evaluated)[:1]
    assert bank.cells == encoder.cells
    cell = encoder.cells[3]
    expected = features_of(encoder, splits, rows, cell)
    np.testing.assert_allclose(bank.take(cell, rows), expected, atol=2e-5)
    assert isinstance(bank[cell], np.memmap)
    assert bank[cell].shape[0] == len(splits.evaluated)
    assert bank.holds(rows) and not bank.holds(another)
    with pytest.raises(KeyError):
        bank.take(cell, another)


def test_a_bank_may_hold_some_cells_only(shared, splits):
    encoder, rows = diffusion_encoder(shared, splits), splits["test"]
    cells = [encoder.cells[0], encoder.cells[-1]]
    bank = extract_features(shared, encoder, splits, rows, cells)
    assert bank.cells == cells
    assert len(list(bank.folder.glob("*.npy"))) == 2
    for cell in cells:
        expected = features_of(encoder, splits, rows, cell)
        np.testing.assert_allclose(bank[cell], expected, atol=2e-5)


def test_features_of_a_wrong_shape_are_refused(shared, splits, monkeypatch):
    encoder = diffusion_encoder(shared, splits)
    encode, encoder.identity = encoder.encode, encoder.identity | {"another": "key"}

    def wrong(images, ids, cells):
        """Give as many features as promised of one image, but fewer of a batch."""
        features = encode(images, ids, cells)
        if len(images) == 1:
            return features
        return {cell: values[:, :-1] for cell, values in features.items()}

    monkeypatch.setattr(encoder, "encode", wrong)
    message = r"diffusion gave \(\d+, \d+\) features at .*, not \(\d+, \d+\)"
    with pytest.raises(StudyError, match=message):
        extract_features(shared, encoder, splits, splits["test"])


def test_other_weights_settings_cells_or_rows_never_share_a_bank(shared, splits):
    settings = shared.profile.features
    clean = settings.model_copy(update={"noise": "clean"})
    mean = settings.model_copy(update={"pooling": "mean"})
    encoders = [
        diffusion_encoder(shared, splits),
        random_encoder(shared, splits),
        diffusion_encoder(shared, splits, clean),
        diffusion_encoder(shared, splits, mean),
    ]
    rows = splits["test"]
    banks = [extract_features(shared, encoder, splits, rows) for encoder in encoders]
    first = encoders[0]
    banks.append(extract_features(shared, first, splits, rows, first.cells[:2]))
    banks.append(extract_features(shared, first, splits, rows[1:]))
    assert len({bank.folder for bank in banks}) == len(banks)


def test_the_code_of_an_encoder_is_part_of_the_banks_key(shared, splits):
    encoder, rows = diffusion_encoder(shared, splits), splits["test"]
    bank = extract_features(shared, encoder, splits, rows)
    encoder.identity = encoder.identity | {"code": "edited"}
    assert extract_features(shared, encoder, splits, rows).folder != bank.folder


def test_the_room_that_is_needed_counts_class_tokens_too(shared, splits, monkeypatch):
    """A transformer's layers have a class token beside their pooled map."""
    needed = []
    monkeypatch.setattr(bank_module, "require_space", lambda folder, size: needed.append(size))
    encoder, rows = make_encoder(shared, splits, "MAE"), splits["test"]
    encoder.identity = encoder.identity | {"another": "key"}
    bank = extract_features(shared, encoder, splits, rows)
    assert needed == [sum(bank[cell].nbytes for cell in bank.cells)]


EXTRACT = """
import sys
from plankton_study.features.bank import extract_features
from plankton_study.features.registry import diffusion_encoder
from plankton_study.images.splits import make_splits
from plankton_study.run.study import load_study
study = load_study(sys.argv[1], 0)
splits = make_splits(study, "shapes")
encoder = diffusion_encoder(study, splits)
extract_features(study, encoder, splits, splits.evaluated, batch_size=1)
"""


def test_sigkill_during_extraction_then_again_gives_the_same_bank(
    make_study, kill_when_found, tmp_path, monkeypatch
):
    many_timesteps = {"timesteps = [20, 300]": f"timesteps = {list(range(20, 100, 20))}"}
    study = make_study(many_timesteps)
    splits = make_splits(study, "shapes")
    encoder = diffusion_encoder(study, splits)
    kill_when_found(EXTRACT, study.cache, "bank/*.partial/done.json")
    timesteps, encode = set(), encoder.encode

    def recorded_encode(images, ids, cells):
        timesteps.update(cell.timestep for cell in cells)
        return encode(images, ids, cells)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", recorded_encode)
        resumed = extract_features(study, encoder, splits, splits.evaluated, batch_size=1)
    assert timesteps and 20 not in timesteps  # it continued behind the first timestep
    other = make_study(many_timesteps, cache=tmp_path / "other")
    undisturbed = extract_features(other, encoder, splits, splits.evaluated, batch_size=1)
    assert resumed.folder != undisturbed.folder
    assert all(np.array_equal(resumed[cell], undisturbed[cell]) for cell in encoder.cells)
