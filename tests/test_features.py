"""Reading features: the same numbers as a plain full pass, whatever the batch, and hooks that vanish."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study import diffusion, encoders, features, networks, splits, train
from plankton_study.profile import StudyError
from plankton_study.schema import Noise, UNet

NOISY = torch.zeros(1, 1, 16, 16)


@pytest.fixture(scope="module")
def unet():
    return diffusion.build_unet(
        UNet(channels=(8, 16), attention=(8,), head_channels=8), 16, 0
    ).eval()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 16, 16), dtype=np.uint8)


def hooks(unet) -> int:
    return sum(len(module._forward_hooks) for module in unet.modules())


# --- taps


def test_taps_are_named_by_stage_resolution_and_index_in_order(unet):
    taps = features.find_taps(unet, NOISY, 0)
    names = [tap.name for tap in taps]
    assert (
        names[0] == "down16.resnet0" and names[-1] == "up16.resnet1" and "mid8.attention0" in names
    )
    assert len(set(names)) == len(names) and [tap.order for tap in taps] == list(range(len(taps)))
    assert [tap.resolution for tap in taps if tap.stage == "mid"] == [8, 8, 8] and hooks(unet) == 0


def test_patterns_choose_taps_and_an_empty_choice_is_refused(unet):
    assert {tap.stage for tap in features.find_taps(unet, NOISY, 0, patterns=("up*",))} == {"up"}
    with pytest.raises(StudyError, match="down16.resnet0"):
        features.find_taps(unet, NOISY, 0, patterns=("decoder*",))


def test_taps_of_other_networks_are_their_repeated_layers(shared):
    resnet, vit = (
        networks.build_resnet(shared.profile).eval(),
        networks.build_vit(shared.profile).eval(),
    )
    wrapped = networks.WithHead(resnet, 16, 3).eval()
    for model in (resnet, wrapped):
        taps = features.find_taps(model, NOISY)
        assert [(tap.name, tap.stage, tap.resolution, tap.channels) for tap in taps] == [
            ("map16.block0", "map", 16, 8),
            ("map8.block0", "map", 8, 16),
        ]
    taps = features.find_taps(vit, NOISY)
    assert [tap.name for tap in taps] == ["tokens4.block0", "tokens4.block1"]
    assert {(tap.stage, tap.resolution, tap.channels) for tap in taps} == {("tokens", 4, 16)}
    x = train.to_model(np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    with features.tapped(vit, taps, "mean") as read:
        found = read(x)
    with torch.no_grad():
        states = vit(x, output_hidden_states=True).hidden_states
    for tap, state in zip(taps, states[1:], strict=True):
        assert torch.allclose(
            found[tap.name], torch.cat([state[:, 1:].mean(1), state[:, 0]], 1), atol=1e-5
        )


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "grid"])
@pytest.mark.parametrize("special", [0, 1])
def test_tokens_are_pooled_as_the_square_they_lie_on(pooling, special):
    """With a class token in front of them, it comes last; vectors stay as they are."""
    rng = torch.Generator().manual_seed(0)
    square, front = (
        torch.randn(3, 5, 4, 4, generator=rng),
        torch.randn(3, special, 5, generator=rng),
    )
    tokens = torch.cat([front, square.flatten(2).transpose(1, 2)], dim=1)
    expected = torch.cat([features.pool(square, pooling), front.flatten(1)], dim=1)
    assert torch.allclose(features.pool((tokens, "what else a block gives"), pooling), expected)
    assert torch.equal(features.pool(tokens[:, 0], pooling), tokens[:, 0])


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "grid"])
def test_features_equal_those_of_a_full_pass_with_full_maps(unet, images, pooling):
    x = train.to_model(images)
    taps, maps = features.find_taps(unet, NOISY, 0), {}
    handles = [
        unet.get_submodule(tap.path).register_forward_hook(
            lambda m, i, out, name=tap.name: maps.update({name: out})
        )
        for tap in taps
    ]
    with torch.no_grad():
        unet(x, 50)
    for handle in handles:
        handle.remove()
    with features.tapped(unet, taps, pooling) as read:
        found = read(x, 50)
    assert set(found) == set(maps)
    for name, full in maps.items():
        expected = [full.mean((2, 3))]
        if pooling == "mean_std":
            expected.append(full.std((2, 3), correction=0))
        if pooling == "grid":
            expected = [
                full.reshape(*full.shape[:2], 2, full.shape[2] // 2, 2, -1).mean((3, 5)).flatten(1)
            ]
        assert torch.allclose(found[name], torch.cat(expected, 1), atol=1e-5)


def test_the_pass_ends_at_the_deepest_tap(unet, images):
    ran, taps = [], features.find_taps(unet, NOISY, 0, patterns=("mid*",))
    last = unet.up_blocks[-1].resnets[-1].register_forward_hook(lambda *_: ran.append(1))
    with features.tapped(unet, taps) as read:
        read(train.to_model(images), 5)
    last.remove()
    assert not ran


def test_hooks_vanish_also_after_an_error(unet, images):
    with (
        pytest.raises(RuntimeError),
        features.tapped(unet, features.find_taps(unet, NOISY, 0)) as read,
    ):
        assert hooks(unet) > 0
        read(torch.zeros(1, 3, 16, 16), 5)
    assert hooks(unet) == 0
    with torch.no_grad():
        assert unet(train.to_model(images), 5).sample.shape == (10, 1, 16, 16)


# --- noise


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 5), st.integers(0, 999))
def test_noise_by_image_depends_on_the_id_alone(order, batch, timestep):
    scheduler = diffusion.build_scheduler(Noise())
    x = torch.linspace(-1, 1, 6 * 64).reshape(6, 1, 8, 8)
    ids = [f"image {i}" for i in range(6)]
    whole = features.noised(x, scheduler, timestep, "by_image", ids, 0)
    for start in range(0, 6, batch):
        part = order[start : start + batch]
        some = features.noised(x[part], scheduler, timestep, "by_image", [ids[i] for i in part], 0)
        assert torch.equal(some, whole[part])
    assert not torch.equal(whole, features.noised(x, scheduler, timestep, "by_image", ids, 1))


def test_noise_is_added_as_the_scheduler_does():
    scheduler = diffusion.build_scheduler(Noise())
    x = torch.zeros(2, 1, 8, 8)
    noise = (
        features.noised(x, scheduler, 999, "shared", ["a", "b"], 0)
        / (1 - scheduler.alphas_cumprod[999]) ** 0.5
    )
    assert torch.equal(noise[0], noise[1])
    x = torch.rand(2, 1, 8, 8)
    found = features.noised(x, scheduler, 300, "shared", ["a", "b"], 0)
    assert torch.allclose(found, scheduler.add_noise(x, noise, torch.tensor([300, 300])), atol=1e-5)
    assert torch.equal(features.noised(x, scheduler, 300, "clean", ["a", "b"], 0), x)


def encoder(unet, **changes):
    from plankton_study.schema import Features

    config = Features(**{"precision": "float32", "timesteps": (20, 300), **changes})
    return encoders.DiffusionEncoder("test", unet, diffusion.build_scheduler(Noise()), config)


@pytest.mark.parametrize("noise", ["shared", "clean", "by_image", "mean"])
def test_features_do_not_depend_on_the_batch(unet, images, noise):
    reader = encoder(unet, noise=noise)
    ids = [str(i) for i in range(10)]
    whole = reader.encode(images, ids, reader.cells)
    for cell in reader.cells:
        parts = [
            reader.encode(images[i : i + 3], ids[i : i + 3], reader.cells)[cell]
            for i in range(0, 10, 3)
        ]
        np.testing.assert_allclose(np.concatenate(parts), whole[cell], atol=2e-5)


def test_the_mean_over_draws_is_the_mean_of_the_draws(unet, images):
    one = encoder(unet, noise="mean", noise_draws=2, taps=("mid8.resnet1",))
    ids, cell = [str(i) for i in range(10)], one.cells[0]
    scheduler, x = one.scheduler, train.to_model(images)
    taps = features.find_taps(unet, NOISY, 0, patterns=("mid8.resnet1",))
    with features.tapped(unet, taps) as read:
        draws = [
            read(features.noised(x, scheduler, 20, "shared", ids, 0, d), 20)["mid8.resnet1"]
            for d in (0, 1)
        ]
    np.testing.assert_allclose(
        one.encode(images, ids, [cell])[cell], (draws[0] + draws[1]) / 2, atol=1e-6
    )


def test_bfloat16_stays_close_to_float32(unet, images):
    exact, fast = encoder(unet), encoder(unet)
    fast.settings = fast.settings.model_copy(update={"precision": "bfloat16"})
    ids = [str(i) for i in range(10)]
    for cell, value in exact.encode(images, ids, exact.cells).items():
        error = (
            np.abs(fast.encode(images, ids, fast.cells)[cell] - value).mean() / np.abs(value).mean()
        )
        assert error < 0.03


def test_the_layout_in_memory_is_chosen_by_precision_and_does_not_move_features(
    unet, images, shared
):
    def weights(model):
        return model.mid_block.resnets[0].conv1.weight

    plain, last = (
        train.to_device(copy.deepcopy(unet), precision, "cpu")
        for precision in ("bfloat16", "float32")
    )
    assert weights(plain).is_contiguous() and not weights(last).is_contiguous()
    assert weights(last).is_contiguous(memory_format=torch.channels_last)
    resnet = train.to_device(
        networks.build_resnet(shared.profile), "bfloat16", "cpu"
    )  # it has no group norm
    kernel = next(
        m.weight for m in resnet.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels > 1
    )
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    readers, ids = (encoder(plain), encoder(last)), [str(i) for i in range(10)]
    readers[0].model.to(memory_format=torch.contiguous_format)
    found = [reader.encode(images, ids, reader.cells) for reader in readers]
    for cell in readers[0].cells:
        np.testing.assert_allclose(found[0][cell], found[1][cell], atol=2e-5)


# --- the bank


def test_the_bank_holds_what_the_encoder_gives(shared):
    parts = splits.make(shared, "shapes")
    reader = encoders.denoiser(shared, parts)
    bank = features.extract(shared, reader, parts, parts.evaluated)
    rows = parts["test"]
    cell = reader.cells[3]
    expected = reader.encode(
        parts.collection.images[rows], list(parts.collection.records["id"].iloc[rows]), [cell]
    )
    np.testing.assert_allclose(bank.take(cell, rows), expected[cell], atol=2e-5)
    assert isinstance(bank[cell], np.memmap) and bank[cell].shape[0] == len(parts.evaluated)
    with pytest.raises(KeyError):
        bank.take(cell, np.array([int(parts["novel"][0])]))


def test_features_of_a_wrong_shape_are_refused(shared, monkeypatch):
    parts = splits.make(shared, "shapes")
    reader = encoders.denoiser(shared, parts)
    right, reader.identity = reader.encode, reader.identity | {"another": "key"}

    def wrong(images, ids, cells):  # as wide as it said of one image, but for batches
        return {c: x if len(x) == 1 else x[:, :-1] for c, x in right(images, ids, cells).items()}

    monkeypatch.setattr(reader, "encode", wrong)
    with pytest.raises(
        StudyError, match=r"diffusion gave \(\d+, \d+\) features at .*, not \(\d+, \d+\)"
    ):
        features.extract(shared, reader, parts, parts["test"])


def test_other_weights_or_settings_never_share_a_bank(shared):
    parts = splits.make(shared, "shapes")
    trained, random = (
        encoders.denoiser(shared, parts),
        encoders.denoiser(shared, parts, random=True),
    )
    clean = encoders.denoiser(
        shared, parts, shared.profile.features.model_copy(update={"noise": "clean"})
    )
    pooled = encoders.denoiser(
        shared, parts, shared.profile.features.model_copy(update={"pooling": "mean"})
    )
    folders = {
        features.extract(shared, e, parts, parts["test"]).folder
        for e in (trained, random, clean, pooled)
    }
    assert len(folders) == 4


def test_the_architecture_is_part_of_an_encoders_identity(unet):
    other = diffusion.build_unet(
        UNet(channels=(8, 16), attention=(8,), head_channels=4), 16, 0
    ).eval()
    assert encoder(unet).identity["weights"] == encoder(other).identity["weights"]
    assert encoder(unet).identity != encoder(other).identity


RUN = """
import sys
from plankton_study import encoders, features, splits, study
s = study.load(sys.argv[1], 0)
parts = splits.make(s, "shapes")
features.extract(s, encoders.denoiser(s, parts), parts, parts.evaluated, batch_size=1)
"""


def test_sigkill_during_extraction_then_again_gives_the_same_bank(
    make_study, kill_when_found, tmp_path, monkeypatch
):
    many = {"timesteps = [20, 300]": f"timesteps = {list(range(20, 100, 20))}"}
    study = make_study(many)
    parts = splits.make(study, "shapes")
    reader = encoders.denoiser(study, parts)
    kill_when_found(RUN, study.cache, "bank/*.partial/done.json")
    asked, encode = set(), reader.encode
    with monkeypatch.context() as patch:
        patch.setattr(
            reader,
            "encode",
            lambda *of: asked.update(cell.timestep for cell in of[2]) or encode(*of),
        )
        resumed = features.extract(study, reader, parts, parts.evaluated, batch_size=1)
    assert asked and 20 not in asked  # it went on behind the first timestep
    whole = features.extract(
        make_study(many, cache=tmp_path / "other"), reader, parts, parts.evaluated, batch_size=1
    )
    assert resumed.folder != whole.folder
    assert all(np.array_equal(resumed[cell], whole[cell]) for cell in reader.cells)
