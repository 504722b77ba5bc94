"""Every encoder of the comparison: what it is trained on, what is read from it, and who may take its place."""

import json
import shutil
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import load_study
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study import baselines, diffusion, encoders, features, networks, probes, splits, train
from plankton_study.features import Cell
from plankton_study.probes import HEAD
from plankton_study.profile import StudyError
from plankton_study.schema import EncoderConfig
from plankton_study.store import digest

LABELS = ["U-Net, labels", "ResNet, labels", "ViT, labels", "fine-tuned"]
UNLABELLED = ["SimCLR", "VICReg", "MAE"]
BRIEF = 64  # images seen: four steps, enough for every image of the pool


# --- networks


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(3, 9), st.sampled_from([0, 1, 5]))
def test_tokens_are_laid_out_row_by_row_and_maps_stay_as_they_are(images, channels, side, special):
    square = (
        torch.arange(images * channels * side * side).reshape(images, channels, side, side).float()
    )
    tokens = torch.stack(
        [square[:, :, row, column] for row in range(side) for column in range(side)], dim=1
    )
    tokens = torch.cat([torch.full((images, special, channels), -1.0), tokens], dim=1)
    assert torch.equal(networks.to_map(tokens), square)
    assert torch.equal(networks.to_map((tokens, None)), square)
    assert networks.to_map(square) is square


def test_the_down_path_is_the_denoisers_own(shared):
    """Before any step, the network to be fine-tuned gives what the frozen denoiser gives for a clean image at t = 0."""
    parts = splits.make(shared, "shapes")
    taps = {"taps": ("down*", "mid*"), "noise": "clean", "timesteps": (0,)}
    frozen = encoders.denoiser(shared, parts, shared.profile.features.model_copy(update=taps))
    tuned = encoders.make(shared, parts, "fine-tuned", budget="none")
    images, ids = parts.collection.images[parts["test"]], [""] * len(parts["test"])
    expected = frozen.encode(images, ids, frozen.cells)
    found = tuned.encode(images, ids, tuned.cells)
    assert {cell.layer for cell in expected} == {cell.layer for cell in tuned.cells if cell != HEAD}
    for cell, value in expected.items():
        np.testing.assert_allclose(found[Cell(cell.layer)], value, atol=2e-5)


# --- training: each kind on four steps


@dataclass
class Watched:
    """Images that remember which of their rows were read to learn from, and which only to check."""

    images: np.ndarray
    model: torch.nn.Module
    arguments: dict[str, Any]
    learnt: list[np.ndarray] = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)  # those learnt from by gradient
    checked: list[np.ndarray] = field(default_factory=list)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        (self.learnt if self.model.training else self.checked).append(rows)
        self.steps += [rows] if torch.is_grad_enabled() else []
        return self.images[rows]


@pytest.fixture(scope="module")
def brief(tmp_path_factory, shapes):
    """A function (cache, seed) → study whose trainings take four steps, and its splits."""
    made = {}

    def make(cache: str = "first", seed: int = 0):
        if cache not in made:
            with pytest.MonkeyPatch.context() as patch:
                folder = tmp_path_factory.mktemp(cache)
                few = {"images_seen = 320": f"images_seen = {BRIEF}"}
                study = load_study(
                    folder / "test.toml", shapes, patch, folder / "cache", few, seed=seed
                )
                assert study.device == "cpu"  # found once, while the variable is set
                made[cache] = study, splits.make(study, "shapes")
        return made[cache]

    return make


@pytest.fixture(scope="module")
def watched(brief):
    """(encoder, setting) → what its training read, for the denoiser and every encoder that is trained."""
    study, parts = brief()
    found, real = {}, train.fit

    def spy(
        study, folder, model, step_loss, images, rows, images_seen, what, held_out, changes=None
    ):
        arguments = {"rows": rows, "images_seen": images_seen, "held_out": held_out, "what": what}
        found[current] = Watched(images, model, arguments)
        real(
            study,
            folder,
            model,
            step_loss,
            found[current],
            rows,
            images_seen,
            what,
            held_out,
            changes,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "fit", spy)
        for setting in ("natural", "balanced"):
            for name in ("diffusion", *LABELS, *UNLABELLED):
                if setting == "natural" or name not in ("U-Net, labels", "fine-tuned"):
                    current = name, setting
                    encoders.make(study, parts, name, setting)
    return found


def test_all_encoders_learn_from_the_same_images(brief, watched):
    """Not a row of validation, test, shifted or novel images is learnt from, and every allowed one is seen."""
    _, parts = brief()
    natural = {name for name, setting in watched if setting == "natural"}
    assert natural == {"diffusion", *LABELS, *UNLABELLED}
    assert {name for name, setting in watched if setting == "balanced"} == {
        "ResNet, labels",
        "ViT, labels",
    }
    assert len(parts["train"]) < len(parts["pool"])
    pixels, pool = encoders.make(*brief(), "pixels + PCA"), parts.collection.images[parts["pool"]]
    assert pixels.identity["pixels"] == digest(pool.reshape(len(pool), -1))
    away = np.concatenate([parts[part] for part in ("validation", "test", "later", "novel")])
    for (name, setting), seen in watched.items():
        part = "balanced" if setting == "balanced" else "train" if name in LABELS else "pool"
        assert np.array_equal(seen.arguments["rows"], parts[part]), name
        assert np.array_equal(np.unique(np.concatenate(seen.learnt)), parts[part]), name
        assert not set(np.concatenate(seen.learnt)) & set(away), name
        assert (
            set(np.concatenate(seen.checked))
            == set(seen.arguments["held_out"])
            <= set(parts["validation"])
        ), name
        assert seen.arguments["images_seen"] == BRIEF, name
        assert sum(map(len, seen.steps)) - BRIEF in (0, 16), (
            name
        )  # one batch may be looked at to count its FLOPs
        assert set(np.concatenate(seen.steps)) == set(parts[part]), name


@pytest.mark.parametrize("name", [*LABELS, *UNLABELLED])
def test_a_trained_encoder_gives_features_of_its_own(brief, watched, name):
    study, parts = brief()
    made = encoders.make(study, parts, name)
    bank = features.extract(study, made, parts, parts["test"])
    assert (HEAD in bank.cells) == (name in LABELS) and made.predeclared in bank.cells
    for cell in bank.cells:
        channels = made.layers["channels"][cell.layer] * (1 if cell == HEAD else 2)
        channels += made.layers["channels"][cell.layer] if cell.layer.startswith("tokens") else 0
        assert bank[cell].shape == (len(parts["test"]), channels) and np.isfinite(bank[cell]).all()
        assert (bank[cell].std(axis=0) > 0).any()

    untrained = encoders.make(study, parts, name, budget="none")
    assert (
        untrained.cells == made.cells and untrained.identity["weights"] != made.identity["weights"]
    )
    images, ids = parts.collection.images[parts["test"]], [""] * len(parts["test"])
    last = made.predeclared
    assert not np.allclose(untrained.encode(images, ids, [last])[last], bank[last], atol=1e-3)
    for start in range(0, len(images), 5):
        some = made.encode(images[start : start + 5], ids[start : start + 5], made.cells)
        assert all(
            np.allclose(some[cell], bank[cell][start : start + 5], atol=2e-5) for cell in made.cells
        )

    again, other = brief("second"), brief("other seed", seed=1)
    assert encoders.make(*again, name).identity == made.identity
    for budget, mine in (("images", made), ("none", untrained)):
        assert (
            encoders.make(*other, name, budget=budget).identity["weights"]
            != mine.identity["weights"]
        )


@pytest.mark.parametrize("name", [*LABELS, *UNLABELLED])
def test_a_training_tells_its_curve_and_cost(brief, watched, name):
    study, parts = brief()
    made = encoders.make(study, parts, name)
    curve = pd.read_csv(made.folder / "curve.csv")
    assert curve["images_seen"].tolist() == [16, 32, 48, 64]  # of four steps
    assert (
        list(curve) == ["images_seen", "loss", "held_out"] and np.isfinite(curve.to_numpy()).all()
    )
    assert made.cost["images_seen"] == BRIEF and made.cost["batch_size"] == 16
    assert made.cost["flops"] > 0 and made.cost["seconds"] > 0
    network = made.model.network if name in LABELS else made.model
    assert made.cost["parameters"] == sum(p.numel() for p in network.parameters())


def test_a_network_read_as_a_vit_is_the_autoencoders_own_encoder(brief, watched):
    study, parts = brief()
    mae = deepcopy(watched["MAE", "natural"].model).eval()
    mae.vit.embeddings.config.mask_ratio = mae.config.mask_ratio = 0.0
    x = train.to_model(parts.collection.images[parts["test"]])
    order = torch.arange(16.0).expand(len(x), -1)  # nothing hidden, nothing shuffled
    with torch.no_grad():
        own = mae.vit(x, noise=order).last_hidden_state
        read = encoders.make(study, parts, "MAE").model(x).last_hidden_state
    assert own.shape == (len(x), 17, 16)
    assert torch.allclose(read, own, atol=1e-5)


def test_the_autoencoder_is_kept_by_its_own_network_whatever_the_profile_calls_it(
    make_study, tmp_path
):
    unnamed = {
        'kind = "mae"\nnetwork = "vit"': 'kind = "mae"',
        "images_seen = 320": "images_seen = 16",
    }
    kept = []
    for heads in ("heads = 2", "heads = 4"):
        study = make_study(unnamed | {"heads = 2": heads})
        kept.append(
            baselines.trained(study, splits.make(study, "shapes"), "MAE", "natural", "images")[1]
        )
    assert kept[0] != kept[1]


def test_the_autoencoder_knows_where_each_patch_lies(shared):
    torch.manual_seed(0)
    mae = networks.build_mae(shared.profile, 0.5)
    for positions in (
        mae.vit.embeddings.position_embeddings[0, 1:],
        mae.decoder.decoder_pos_embed[0, 1:],
    ):
        assert len(positions.unique(dim=0)) == (16 // mae.config.patch_size) ** 2
    ramp = (
        torch.linspace(-1, 1, 256).view(1, 1, 16, 16).expand(16, -1, -1, -1)
    )  # each patch has a grey of its own
    optimiser = torch.optim.AdamW(mae.parameters(), lr=5e-3)
    for _ in range(100):
        optimiser.zero_grad()
        loss = mae(ramp).loss
        loss.backward()
        optimiser.step()
    assert (
        loss < 0.1 * ramp.var()
    )  # without positions the mean grey of all patches is the best that can be said


def test_equal_flops_give_the_images_that_the_denoisers_flops_allow(brief):
    study, parts = brief()
    most = train.cost(diffusion.denoiser(study, parts))
    made = encoders.make(study, parts, "U-Net, labels", budget="flops")
    off = most["images_seen"] * most["flops"] - made.cost["images_seen"] * made.cost["flops"]
    assert (
        0 <= off + made.cost["flops"] / 2 <= 16.5 * made.cost["flops"]
    )  # whole steps of 16 images
    assert made.cost["images_seen"] > 2 * BRIEF
    assert (
        made.identity["weights"] != encoders.make(study, parts, "U-Net, labels").identity["weights"]
    )


def test_attention_counts_among_the_flops(make_study, tmp_path):
    """With 257 tokens of 16 channels it is most of the work, whatever kernel computes it."""
    study = make_study({"width = 16\ndepth = 2": "patch = 1\nwidth = 16\ndepth = 1"})
    parts = splits.make(study, "shapes")

    def loss(model, x, rows, generator):
        return model(x)[0].mean()

    model, images = networks.build_vit(study.profile), parts.collection.images
    train.fit(study, tmp_path, model, loss, images, parts["pool"], 16, "test", parts["validation"])
    linear, attention = (
        2 * 257 * 12 * 16**2,
        2 * 2 * 257**2 * 16,
    )  # forward, an image; backward takes twice that
    assert train.cost(tmp_path)["flops"] == pytest.approx(3 * (linear + attention), rel=0.2)


# --- training: what is learnt


@pytest.fixture(scope="module")
def longer(tmp_path_factory, shapes):
    """A study whose encoders see 1,280 images."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("longer")
        many = {"images_seen = 320": "images_seen = 1280"}
        study = load_study(folder / "test.toml", shapes, patch, folder / "cache", many)
        assert study.device == "cpu"
        return study, splits.make(study, "shapes")


def test_a_resnet_learns_the_labels_and_names_them_in_the_probes_order(longer):
    study, parts = longer
    made = encoders.make(study, parts, "ResNet, labels")
    taxa = np.unique(parts.taxa(parts["train"]).astype(str))
    assert list(taxa) != list(
        parts.classes
    )  # alphabetical, not by number of images: a mixture would show

    def logits(encoder, rows):
        return encoder.encode(parts.collection.images[rows], [""] * len(rows), [HEAD])[HEAD]

    def loss(encoder):
        codes = np.searchsorted(taxa, parts.taxa(parts["validation"]).astype(str))
        return (
            -torch.tensor(logits(encoder, parts["validation"]))
            .log_softmax(1)[range(len(codes)), codes]
            .mean()
        )

    assert loss(made) < 0.75 * loss(encoders.make(study, parts, "ResNet, labels", budget="none"))
    named = taxa[logits(made, parts["train"]).argmax(axis=1)]
    assert np.mean(named == parts.taxa(parts["train"]).astype(str)) > 0.9

    result = probes.probe(study, parts, "ResNet, labels")
    assert list(result.classes) == list(taxa)
    for part, rows in result.rows.items():
        chances = result.probabilities["end to end"][part]
        assert chances.shape == (len(rows), len(taxa))
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
        assert np.array_equal(
            result.predicted(part, "end to end"), taxa[logits(made, rows).argmax(axis=1)]
        )


def test_simclr_learns_to_tell_images_apart(longer):
    study, parts = longer
    curve = pd.read_csv(encoders.make(study, parts, "SimCLR").folder / "curve.csv")
    assert len(curve) == 10 and curve["images_seen"].iloc[-1] == 1280
    assert curve["held_out"].iloc[-1] < curve["held_out"].iloc[0] - 0.2
    assert (
        curve["held_out"].iloc[-1] < np.log(2 * len(parts["validation"]) - 1) - 0.2
    )  # the loss of a blind guess


RUN = """
import sys
from plankton_study import encoders, splits, study
s = study.load(sys.argv[1], 0)
encoders.make(s, splits.make(s, "shapes"), "ResNet, labels")
"""


def test_sigkill_of_a_network_with_batch_norm_then_again_gives_the_undisturbed_weights(
    make_study, killed_at_step_7, tmp_path
):
    many = {"images_seen = 320": "images_seen = 480\ncheckpoint_seconds = 1e-9"}
    whole = make_study(many, cache=tmp_path / "whole")
    undisturbed, _ = baselines.trained(
        whole, splits.make(whole, "shapes"), "ResNet, labels", "natural", "images"
    )

    study = make_study(many, cache=tmp_path / "killed")
    parts = splits.make(study, "shapes")
    killed_at_step_7(RUN)
    (checkpoint,) = study.cache.glob("encoder/*.partial/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 7
    resumed, _ = baselines.trained(study, parts, "ResNet, labels", "natural", "images")
    state, expected = resumed.state_dict(), undisturbed.state_dict()
    assert any("running_mean" in key for key in state)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["U-Net, labels", "SimCLR", "MAE"])
def test_an_interrupted_training_ends_with_the_undisturbed_weights(
    brief, make_study, monkeypatch, name
):
    study = make_study({"images_seen = 320": f"images_seen = {BRIEF}\ncheckpoint_seconds = 1e-9"})
    parts, steps, real = splits.make(study, "shapes"), [], train.fit

    def interrupted(study, folder, model, step_loss, *others):
        def loss(model, x, rows, generator):
            steps.append(torch.is_grad_enabled())
            if sum(steps) == 3 and steps[-1]:
                raise KeyboardInterrupt
            return step_loss(model, x, rows, generator)

        real(study, folder, model, loss, *others)

    monkeypatch.setattr(train, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoders.make(study, parts, name)
    (checkpoint,) = study.cache.glob("encoder/*.partial/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] in (1, 2)
    resumed = encoders.make(study, parts, name)
    assert resumed.identity["weights"] == encoders.make(*brief(), name).identity["weights"]


# --- two views of an image


class Recorder(torch.nn.Module):
    def forward(self, x):
        self.seen = x.clone()
        return x.flatten(1)[:, :8]


@pytest.mark.parametrize("kind", ["simclr", "vicreg"])
@pytest.mark.parametrize("changes", [{}, {"crop": 0.4}, {"jitter": 0.4}])
def test_two_views_of_an_image_differ_and_images_do_not_mix(kind, changes):
    """Also without crops and jitter each view has its own direction, and the image given is left as it is."""
    grey = torch.linspace(-0.8, 0.8, 12)[:, None, None, None]
    x = grey + 0.02 * torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    given, model = x.clone(), Recorder()
    torch.manual_seed(0)
    loss = baselines.contrastive(EncoderConfig(kind=kind, **changes), 16)
    assert torch.isfinite(
        loss(
            model, x, np.arange(12), train.Chance(torch.Generator().manual_seed(0), 12, slice(None))
        )
    )
    one, two = model.seen.chunk(2)
    assert model.seen.shape == (24, 1, 16, 16) and torch.equal(x, given)
    assert sum(torch.equal(a, b) for a, b in zip(one, two, strict=True)) <= 5
    if "jitter" not in changes:  # which changes the grey value itself
        assert torch.allclose(one.mean((1, 2, 3)), grey.flatten(), atol=0.03)
        assert torch.allclose(two.mean((1, 2, 3)), grey.flatten(), atol=0.03)


def test_crops_and_jitter_differ_between_images_and_follow_the_seed():
    augment = baselines.views(EncoderConfig(kind="simclr", crop=0.4, jitter=0.4), 16)
    image = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16).repeat(8, 1, 1, 1)
    shown = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        shown.append(augment(image))
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])
    assert len({tuple(x.flatten().tolist()) for x in shown[0]}) == 8
    crop = baselines.views(EncoderConfig(kind="simclr", crop=0.4), 16)
    assert torch.allclose(
        crop(torch.full((8, 1, 16, 16), 0.7)), torch.tensor(0.7), atol=1e-5
    )  # no black borders


# --- models made elsewhere

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
PRETRAINED = ["resnet", "dinov2", "clip", "ddpm"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with tiny models as the Hub has them."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from transformers import (
        CLIPConfig,
        CLIPModel,
        Dinov2Config,
        Dinov2Model,
        ResNetConfig,
        ResNetModel,
    )

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vit = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    text, vision = {**vit, "vocab_size": 50}, {**vit, "image_size": 32, "patch_size": 8}
    clip = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    vit.pop("intermediate_size")
    dinov2 = Dinov2Config(**vit, image_size=28, patch_size=7)
    made = {"resnet": ResNetModel(resnet), "dinov2": Dinov2Model(dinov2), "clip": CLIPModel(clip)}
    for name, model in made.items():
        model.save_pretrained(folder / name)
    made["resnet"].half().save_pretrained(folder / "half")
    for name in (*made, "half"):
        expects = json.dumps({"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 224}})
        (folder / name / "preprocessor_config.json").write_text(expects)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(
        16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        **blocks,
    )
    DDPMPipeline(unet, DDPMScheduler(1000)).save_pretrained(folder / "ddpm")
    return folder


def table(name: str, folder, more: str = "") -> str:
    return f'[encoders."{name}"]\nkind = "pretrained"\nfolder = "{folder}"\n{more}\n'


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_model_made_elsewhere_is_read_from_its_folder(make_study, models, name):
    study = make_study(more=table(name, models / name))
    parts = splits.make(study, "shapes")
    assert encoders.unavailable(study, name) == ""
    made = encoders.make(study, parts, name)
    bank = features.extract(study, made, parts, parts["test"])
    assert made.predeclared in bank.cells and made.folder is None and made.cost["parameters"] > 0
    assert all(np.isfinite(bank[cell]).all() for cell in bank.cells)
    images = torch.from_numpy(parts.collection.images[parts["test"]][:, None]) / 255.0
    if name == "ddpm":
        assert len(bank.cells) == 2 * len(made.layers)  # two timesteps
        shown = made.encode(
            parts.collection.images[parts["test"]], [""] * len(images), [made.cells[0]]
        )
        np.testing.assert_allclose(shown[made.cells[0]], bank[made.cells[0]], atol=2e-5)
        return
    from transformers import AutoModel

    model = AutoModel.from_pretrained(models / name).eval()
    model = getattr(model, "vision_model", model)
    side = {"resnet": 224, "dinov2": 28, "clip": 32}[name]
    x = torch.nn.functional.interpolate(
        images, (side, side), mode="bilinear", antialias=True
    ).repeat(1, 3, 1, 1)
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        states = model(x, output_hidden_states=True).hidden_states
    last = states[-1] if name == "resnet" else states[-1][:, 1:].transpose(1, 2)[..., None]
    expected = [last.mean((2, 3)), last.std((2, 3), correction=0)]
    expected += [] if name == "resnet" else [states[-1][:, 0]]
    np.testing.assert_allclose(bank[made.predeclared], torch.cat(expected, 1), atol=1e-4)
    assert len(bank.cells) == 2 and made.cost["parameters"] == sum(
        p.numel() for p in model.parameters()
    )


def test_a_checkpoint_of_half_precision_is_read_like_any_other(make_study, models):
    study = make_study(more=table("half", models / "half") + table("whole", models / "resnet"))
    parts = splits.make(study, "shapes")
    half, whole = (encoders.make(study, parts, name) for name in ("half", "whole"))
    images, cell = parts.collection.images[parts["test"]], whole.predeclared
    found = [made.encode(images, [""] * len(images), [cell])[cell] for made in (half, whole)]
    assert found[0].dtype == np.float32
    np.testing.assert_allclose(found[0], found[1], atol=0.05)


def test_the_input_size_tells_encoders_apart(make_study, models):
    study = make_study(
        more=table("a", models / "resnet") + table("b", models / "resnet", "input_size = 32")
    )
    parts = splits.make(study, "shapes")
    a, b = (encoders.make(study, parts, name) for name in "ab")
    assert [tap.resolution for tap in b.taps.values()] == [8, 4] and a.identity != b.identity
    assert a.identity["weights"] == b.identity["weights"]


def test_a_model_that_is_not_there_is_one_sentence_and_known_beforehand(make_study):
    study = make_study(more=table("absent", "facebook/dinov2-small"))
    with pytest.raises(StudyError, match="facebook/dinov2-small.*hub = true") as error:
        encoders.make(study, splits.make(study, "shapes"), "absent")
    assert encoders.unavailable(study, "absent") == str(error.value) and "\n" not in str(
        error.value
    )
    assert [
        encoders.unavailable(study, name) for name in ("diffusion", "SimCLR", "pixels + PCA")
    ] == ["", "", ""]


@pytest.mark.parametrize("harm", ["truncated", "no preprocessor", "no normalisation", "no model"])
def test_a_folder_that_cannot_be_read_is_one_sentence_that_names_the_key(
    make_study, models, tmp_path, harm
):
    folder = tmp_path / "model"
    shutil.copytree(models / "resnet", folder)
    file = {"truncated": "model.safetensors", "no model": "config.json"}.get(
        harm, "preprocessor_config.json"
    )
    if harm == "truncated":
        (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    elif harm == "no normalisation":
        (folder / file).write_text("{}")
    else:
        (folder / file).unlink()
    study = make_study(more=table("harmed", folder))
    with pytest.raises(StudyError, match="encoders.harmed.folder") as error:
        encoders.make(study, splits.make(study, "shapes"), "harmed")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_predeclared_cell_that_the_network_lacks_is_named_before_anything_else_is_trained(
    make_study,
):
    study = make_study({'predeclared = "up16.resnet1@t20"': 'predeclared = "up64.resnet1@t20"'})
    with pytest.raises(
        StudyError, match="features.predeclared = 'up64.resnet1@t20' is none of .*up16.resnet1@t20"
    ):
        encoders.make(study, splits.make(study, "shapes"), "diffusion")


def test_an_unknown_encoder_is_named(shared):
    with pytest.raises(StudyError, match=r"no encoder 'dino'.*diffusion.*SimCLR"):
        encoders.make(shared, splits.make(shared, "shapes"), "dino")


def test_the_architecture_is_part_of_a_networks_identity(make_study, tmp_path):
    """The same weights in another number of heads give other features."""
    made = []
    for heads in (2, 4):
        study = make_study({"heads = 2": f"heads = {heads}"})
        parts = splits.make(study, "shapes")
        made.append(encoders.make(study, parts, "ViT, labels", budget="none"))
    images, last = parts.collection.images[parts["test"]], made[0].predeclared
    one, two = (encoder.encode(images, [""] * len(images), [last])[last] for encoder in made)
    assert not np.allclose(one, two, atol=1e-5)
    assert made[0].identity != made[1].identity


# --- an encoder of one's own


class Gradients:
    """Means of the grey value's slopes in a few directions, over the image's quarters."""

    name = "gradients"
    folder = None
    cells = (Cell("quarters"), Cell("whole"))
    predeclared = cells[1]
    layers = pd.DataFrame(
        {"stage": "gradients", "resolution": [2, 1], "channels": [24, 6], "order": [0, 1]},
        index=pd.Index(["quarters", "whole"], name="layer"),
    )

    def __init__(self, directions: int) -> None:
        self.directions, self.cost = directions, {"parameters": 0}
        self.identity = {"gradients": digest(directions)}

    def encode(self, images, ids, cells):
        y, x = np.gradient(images.astype(np.float32), axis=(1, 2))
        angles = np.pi * np.arange(self.directions) / self.directions
        slopes = np.stack([abs(np.cos(a) * x + np.sin(a) * y) for a in angles], axis=1)
        half = images.shape[1] // 2
        quarters = [
            slopes[:, :, i : i + half, j : j + half].mean((2, 3))
            for i in (0, half)
            for j in (0, half)
        ]
        every = {Cell("quarters"): np.concatenate(quarters, 1), Cell("whole"): slopes.mean((2, 3))}
        return {cell: every[cell].astype(np.float32) for cell in cells}


def test_an_encoder_of_ones_own_is_probed_like_any_other(shared, monkeypatch):
    parts = splits.make(shared, "shapes")
    monkeypatch.setitem(encoders.ENCODERS, "gradients", lambda study, splits: Gradients(6))
    own, other = (
        probes.probe(shared, parts, "gradients"),
        probes.probe(shared, parts, "pixels + PCA"),
    )
    assert own.grid["layer"].tolist() == ["quarters", "whole"] and own.selected in Gradients.cells
    assert own.grid["resolution"].tolist() == [2, 1] and own.cost == {"parameters": 0}
    assert own.encoder == "gradients" and set(own.probabilities) == set(other.probabilities)
    estimate = probes.evaluate(shared, parts, own, "test")["accuracy"]
    assert estimate.value > 0.6  # half of the images are of the commonest taxon
    delta = probes.evaluate(shared, parts, own, "test", minus=other)["accuracy"]
    assert delta.value == pytest.approx(
        estimate.value - probes.evaluate(shared, parts, other, "test")["accuracy"].value
    )
