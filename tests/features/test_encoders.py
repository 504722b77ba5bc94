"""The encoders: features that do not depend on the batch, and identities that hide nothing."""

import copy

import numpy as np
import pytest
import torch

from plankton_study.features.encoders import SHAPED_BY, DiffusionEncoder, PixelEncoder
from plankton_study.features.hooks import tapped
from plankton_study.features.interface import HEAD, Cell
from plankton_study.features.noise import add_noise
from plankton_study.features.registry import diffusion_encoder, make_encoder
from plankton_study.features.taps import find_taps
from plankton_study.images.splits import make_splits
from plankton_study.models.diffusion.noise_schedule import build_scheduler
from plankton_study.models.diffusion.pipeline import PlanktonPipeline
from plankton_study.models.networks.unet import build_unet
from plankton_study.run import cache
from plankton_study.run.schema import Features, Noise, UNet

TINY = UNet(channels=(8, 16), attention=(8,), head_channels=8)
IDS = [str(number) for number in range(10)]
LABELS = ["U-Net, labels", "ResNet, labels", "ViT, labels", "fine-tuned"]
UNLABELLED = ["SimCLR", "VICReg", "MAE"]


@pytest.fixture(scope="module")
def unet():
    return build_unet(TINY, 16, 0).eval()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 16, 16), dtype=np.uint8)


def encoder_of(unet, **changes) -> DiffusionEncoder:
    """Return an encoder of a copy of a U-Net, so that its memory layout may change."""
    settings = Features(**{"precision": "float32", "timesteps": (20, 300), **changes})
    denoiser = PlanktonPipeline(copy.deepcopy(unet), build_scheduler(Noise()))
    return DiffusionEncoder("test", denoiser, settings)


# --- a denoiser


def test_the_identity_holds_the_precision_that_the_machine_uses(unet, monkeypatch):
    """Machines with and without bfloat16 that share a cache do not share features."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    automatic = encoder_of(unet, precision="auto").identity
    assert automatic == encoder_of(unet, precision="float32").identity
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert encoder_of(unet, precision="auto").identity["precision"] == "bfloat16"


@pytest.mark.parametrize("noise", ["shared", "clean", "by_image", "mean"])
def test_features_do_not_depend_on_the_batch(unet, images, noise):
    encoder = encoder_of(unet, noise=noise)
    whole = encoder.encode(images, IDS, encoder.cells)
    batches = [slice(start, start + 3) for start in range(0, 10, 3)]
    parts = [encoder.encode(images[batch], IDS[batch], encoder.cells) for batch in batches]
    for cell in encoder.cells:
        together = np.concatenate([part[cell] for part in parts])
        np.testing.assert_allclose(together, whole[cell], atol=2e-5)


def test_the_mean_over_draws_is_the_mean_of_the_draws(unet, images):
    layer = "mid8.resnet1"
    encoder = encoder_of(unet, noise="mean", noise_draws=2, taps=(layer,))
    x, cell = encoder.prepare(images), Cell(layer, 20)
    taps = find_taps(unet, x[:1], 0, patterns=(layer,))
    draws = []
    with tapped(unet, taps) as read:
        for draw in (0, 1):
            noisy = add_noise(x, encoder.scheduler, 20, "shared", IDS, seed=0, draw=draw)
            draws.append(read(noisy, 20)[layer])
    features = encoder.encode(images, IDS, [cell])[cell]
    np.testing.assert_allclose(features, (draws[0] + draws[1]) / 2, atol=1e-6)


def test_bfloat16_stays_close_to_float32(unet, images):
    exact, fast = encoder_of(unet), encoder_of(unet, precision="bfloat16")
    fast_features = fast.encode(images, IDS, fast.cells)
    for cell, values in exact.encode(images, IDS, exact.cells).items():
        error = np.abs(fast_features[cell] - values).mean() / np.abs(values).mean()
        assert 0 < error < 0.03


def test_the_layout_in_memory_does_not_move_features(unet, images):
    plain, last = encoder_of(unet), encoder_of(unet)
    plain.model.to(memory_format=torch.contiguous_format)
    assert not last.model.mid_block.resnets[0].conv1.weight.is_contiguous()
    plain_features = plain.encode(images, IDS, plain.cells)
    for cell, values in last.encode(images, IDS, last.cells).items():
        np.testing.assert_allclose(plain_features[cell], values, atol=2e-5)


def test_the_fine_tuned_network_is_the_denoisers_own_encoder(shared):
    """Before any step it gives what the frozen denoiser gives for a clean image at timestep 0."""
    splits = make_splits(shared, "shapes")
    changes = {"taps": ("down*", "mid*"), "noise": "clean", "timesteps": (0,)}
    settings = shared.profile.features.model_copy(update=changes)
    frozen = diffusion_encoder(shared, splits, settings)
    tuned = make_encoder(shared, splits, "fine-tuned", budget="none")
    images, ids = splits.collection.images[splits["test"]], [""] * len(splits["test"])
    expected = frozen.encode(images, ids, frozen.cells)
    features = tuned.encode(images, ids, tuned.cells)
    tuned_layers = {cell.layer for cell in tuned.cells if cell != HEAD}
    assert {cell.layer for cell in expected} == tuned_layers
    for cell, values in expected.items():
        np.testing.assert_allclose(features[Cell(cell.layer)], values, atol=2e-5)


# --- networks that were trained here


def expected_width(encoder, cell: Cell) -> int:
    """Return how many numbers a cell gives: mean, deviation, and a class token if there is one."""
    channels = encoder.layers["channels"][cell.layer]
    if cell == HEAD:
        return channels
    return channels * (3 if cell.layer.startswith("tokens") else 2)


@pytest.mark.parametrize("name", [*LABELS, *UNLABELLED])
def test_a_trained_encoder_gives_features_of_its_own(shared, name):
    splits = make_splits(shared, "shapes")
    images, ids = splits.collection.images[splits["test"]], [""] * len(splits["test"])
    encoder = make_encoder(shared, splits, name)
    features = encoder.encode(images, ids, encoder.cells)
    assert list(features) == encoder.cells
    assert (HEAD in features) == (name in LABELS)
    assert encoder.predeclared in features and encoder.predeclared != HEAD
    for cell, values in features.items():
        assert values.shape == (len(images), expected_width(encoder, cell))
        assert values.dtype == np.float32 and np.isfinite(values).all()
        assert (values.std(axis=0) > 0).any()
    for start in range(0, len(images), 5):
        batch = slice(start, start + 5)
        part = encoder.encode(images[batch], ids[batch], encoder.cells)
        for cell, values in part.items():
            np.testing.assert_allclose(values, features[cell][batch], atol=2e-5)

    untrained = make_encoder(shared, splits, name, budget="none")
    assert untrained.cells == encoder.cells and untrained.folder is None
    assert untrained.identity["weights"] != encoder.identity["weights"]
    last = encoder.predeclared
    initial_features = untrained.encode(images, ids, [last])[last]
    assert not np.allclose(initial_features, features[last], atol=1e-3)


# --- pixels


def test_components_of_pixels_are_those_of_the_training_images(images):
    encoder = PixelEncoder(images, np.arange(6), (2, 4), seed=0)
    features = encoder.encode(images, IDS, encoder.cells)
    raw, few, many = Cell("pixels.raw"), Cell("pixels.pca2"), Cell("pixels.pca4")
    assert encoder.cells == [few, many, raw] and encoder.predeclared == many
    assert np.array_equal(features[raw], images.reshape(10, -1))
    np.testing.assert_allclose(features[many][:6].mean(axis=0), 0, atol=1e-2)
    assert np.array_equal(features[few], features[many][:, :2])
    for cell, values in features.items():
        assert values.dtype == np.float32
        assert values.shape == (10, encoder.layers["channels"][cell.layer])


# --- identity


def test_the_architecture_is_part_of_an_encoders_identity(unet):
    other_unet = build_unet(TINY.model_copy(update={"head_channels": 4}), 16, 0).eval()
    encoder, other = encoder_of(unet), encoder_of(other_unet)
    assert encoder.identity["weights"] == other.identity["weights"]
    assert encoder.identity != other.identity


def test_the_number_of_heads_is_part_of_a_transformers_identity(make_study):
    """The same weights in another number of heads give other features."""
    encoders = []
    for heads in (2, 4):
        study = make_study({"heads = 2": f"heads = {heads}"})
        splits = make_splits(study, "shapes")
        encoders.append(make_encoder(study, splits, "ViT, labels", budget="none"))
    images, last = splits.collection.images[splits["test"]], encoders[0].predeclared
    ids = [""] * len(images)
    first, second = (encoder.encode(images, ids, [last])[last] for encoder in encoders)
    assert not np.allclose(first, second, atol=1e-5)
    assert encoders[0].identity["weights"] == encoders[1].identity["weights"]
    assert encoders[0].identity != encoders[1].identity


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "mean"},
        {"noise": "clean"},
        {"noise": "mean", "noise_draws": 2},
        {"precision": "bfloat16"},
    ],
)
def test_every_setting_that_moves_features_is_part_of_the_identity(unet, change):
    assert encoder_of(unet, **change).identity != encoder_of(unet).identity


@pytest.mark.parametrize("module", SHAPED_BY)
def test_the_code_that_reads_features_is_part_of_the_identity(unet, images, monkeypatch, module):
    """Whoever edits it gets new features, not those that the old code has left in the cache."""

    def identities():
        pixels = PixelEncoder(images, np.arange(10), (2,), seed=0)
        return encoder_of(unet).identity, pixels.identity

    module_digest = cache.module_digest

    def digest_after_an_edit(name):
        return "edited" if name == module else module_digest(name)

    before, again = identities(), identities()
    monkeypatch.setattr(cache, "module_digest", digest_after_an_edit)
    for old, same, new in zip(before, again, identities(), strict=True):
        assert old == same
        assert old.pop("code") != new.pop("code")
        assert old == new
