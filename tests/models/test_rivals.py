"""The rivals of the denoiser: which images they learn from, how long, and what they learn."""

from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_study

from plankton_study.features.interface import HEAD
from plankton_study.features.registry import make_encoder
from plankton_study.images.splits import make_splits
from plankton_study.models import recipe
from plankton_study.models.diffusion.denoiser import trained_denoiser
from plankton_study.models.recipe import training_cost
from plankton_study.models.rivals import Rival
from plankton_study.models.training import Trainer
from plankton_study.probes.probe import probe_encoder
from plankton_study.run.cache import digest

LABELS = ["U-Net, labels", "ResNet, labels", "ViT, labels", "fine-tuned"]
UNLABELLED = ["SimCLR", "VICReg", "MAE"]
#: images seen in a training of four steps: enough for every image of the pool
BRIEF = 64


@dataclass
class WatchedImages:
    """Images that remember which of their rows were read, and what for."""

    images: np.ndarray
    model: torch.nn.Module
    learnt_from: list[np.ndarray] = field(default_factory=list)
    stepped_on: list[np.ndarray] = field(default_factory=list)  # learnt from by gradient
    only_checked: list[np.ndarray] = field(default_factory=list)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if self.model.training:
            self.learnt_from.append(rows)
        else:
            self.only_checked.append(rows)
        if torch.is_grad_enabled():
            self.stepped_on.append(rows)
        return self.images[rows]


def watched_trainer(trainers: list[Trainer]) -> type[Trainer]:
    """Return a class of trainers with watched images that put themselves into a list."""

    class WatchedTrainer(Trainer):
        def __init__(self, study, folder, model, step_loss, data, images_seen, *others):
            data = replace(data, images=WatchedImages(data.images, model))
            self.images_seen = images_seen
            trainers.append(self)
            super().__init__(study, folder, model, step_loss, data, images_seen, *others)

    return WatchedTrainer


@pytest.fixture(scope="module")
def brief(tmp_path_factory, shapes):
    """A function (cache, seed) → study whose trainings take four steps, and its splits."""
    studies = {}

    def make(cache: str = "first", seed: int = 0):
        if cache not in studies:
            folder = tmp_path_factory.mktemp(cache)
            few = {"images_seen = 320": f"images_seen = {BRIEF}"}
            with pytest.MonkeyPatch.context() as patch:
                study = write_study(
                    folder / "test.toml", shapes, patch, folder / "cache", few, seed=seed
                )
            studies[cache] = study, make_splits(study, "shapes")
        return studies[cache]

    return make


@pytest.fixture(scope="module")
def trainers(brief) -> dict[tuple[str, str], Trainer]:
    """(encoder, setting) → its trainer, for the denoiser and every encoder that is trained."""
    study, splits = brief()
    by_encoder, latest = {}, []
    wanted = [(name, "natural") for name in ("diffusion", *LABELS, *UNLABELLED)]
    wanted += [("ResNet, labels", "balanced"), ("ViT, labels", "balanced")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "Trainer", watched_trainer(latest))
        for name, setting in wanted:
            make_encoder(study, splits, name, setting)
            (by_encoder[name, setting],) = latest
            latest.clear()
        # without labels there is only one setting
        for name in ("diffusion", *UNLABELLED):
            make_encoder(study, splits, name, "balanced")
        assert not latest
    return by_encoder


# --- which images, and how many


def expected_part(name: str, setting: str) -> str:
    """Return the part that an encoder learns from."""
    if name not in LABELS:
        return "pool"
    return "balanced" if setting == "balanced" else "train"


def test_all_encoders_learn_from_the_same_images(brief, trainers):
    """Every allowed image is learnt from, and none of validation, test, shifted or novel ones."""
    _, splits = brief()
    assert len(splits["train"]) < len(splits["pool"])
    forbidden = [splits[part] for part in ("validation", "test", "later", "novel")]
    forbidden = set(np.concatenate(forbidden))
    for (name, setting), trainer in trainers.items():
        watched, rows = trainer.data.images, splits[expected_part(name, setting)]
        learnt_from = np.concatenate(watched.learnt_from)
        assert np.array_equal(trainer.data.rows, rows), name
        assert np.array_equal(np.unique(learnt_from), rows), name
        assert not set(learnt_from) & forbidden, name
        only_checked = set(np.concatenate(watched.only_checked))
        assert only_checked == set(trainer.data.held_out) <= set(splits["validation"]), name


def test_all_encoders_see_equally_many_images(brief, trainers):
    _, splits = brief()
    for (name, setting), trainer in trainers.items():
        assert trainer.images_seen == BRIEF, name
        stepped_on = np.concatenate(trainer.data.images.stepped_on)
        assert len(stepped_on) - BRIEF in (0, 16), name  # one batch may serve to count its FLOPs
        assert set(stepped_on) == set(splits[expected_part(name, setting)]), name


def test_the_components_of_pixels_come_from_the_denoisers_images(brief):
    study, splits = brief()
    pixels = make_encoder(study, splits, "pixels + PCA")
    pool = splits.collection.images[splits["pool"]]
    assert pixels.identity["pixels"] == digest(pool.reshape(len(pool), -1))


def test_equal_flops_give_the_images_that_the_denoisers_flops_allow(brief):
    study, splits = brief()
    denoiser_cost = training_cost(trained_denoiser(study, splits))
    encoder = make_encoder(study, splits, "U-Net, labels", budget="flops")
    own_flops = encoder.cost["flops"]
    allowed = denoiser_cost["images_seen"] * denoiser_cost["flops"]
    unused = allowed - encoder.cost["images_seen"] * own_flops
    assert 0 <= unused + own_flops / 2 <= 16.5 * own_flops  # whole steps of 16 images
    assert encoder.cost["images_seen"] > 2 * BRIEF
    usual = make_encoder(study, splits, "U-Net, labels")
    assert encoder.identity["weights"] != usual.identity["weights"]


# --- what a training leaves


@pytest.mark.parametrize("name", [*LABELS, *UNLABELLED])
def test_a_training_leaves_its_curve_and_cost(brief, trainers, name):
    encoder = make_encoder(*brief(), name)
    curve = pd.read_csv(encoder.folder / "curve.csv")
    assert curve["images_seen"].tolist() == [64]  # the first point would come later
    assert list(curve) == ["images_seen", "loss", "held_out"]
    assert np.isfinite(curve.to_numpy()).all()
    assert encoder.cost["images_seen"] == BRIEF and encoder.cost["batch_size"] == 16
    assert encoder.cost["flops"] > 0 and encoder.cost["seconds"] > 0
    network = encoder.model.network if name in LABELS else encoder.model
    parameters = sum(weights.numel() for weights in network.parameters())
    assert encoder.cost["parameters"] == parameters


@pytest.mark.parametrize("name", [*LABELS, *UNLABELLED])
def test_the_same_seed_gives_the_same_encoder_and_another_one_another(brief, trainers, name):
    encoder = make_encoder(*brief(), name)
    assert make_encoder(*brief("again"), name).identity == encoder.identity
    other = brief("other seed", seed=1)
    for budget in ("images", "none"):
        weights = make_encoder(*brief(), name, budget=budget).identity["weights"]
        assert make_encoder(*other, name, budget=budget).identity["weights"] != weights


def test_a_network_read_as_a_vit_is_the_autoencoders_own_encoder(brief, trainers):
    study, splits = brief()
    mae = deepcopy(trainers["MAE", "natural"].model).eval()
    mae.vit.embeddings.config.mask_ratio = mae.config.mask_ratio = 0.0
    x = trainers["MAE", "natural"].data.inputs(splits["test"])
    order = torch.arange(16.0).expand(len(x), -1)  # nothing hidden, nothing shuffled
    with torch.no_grad():
        own = mae.vit(x, noise=order).last_hidden_state
        read = make_encoder(study, splits, "MAE").model(x).last_hidden_state
    assert own.shape == (len(x), 17, 16)
    assert torch.allclose(read, own, atol=1e-5)


def test_the_autoencoder_is_kept_by_its_own_network_whatever_the_profile_calls_it(make_study):
    unnamed = {'kind = "mae"\nnetwork = "vit"': 'kind = "mae"'}
    unnamed["images_seen = 320"] = "images_seen = 16"
    folders = set()
    for heads in (2, 4):
        study = make_study(unnamed | {"heads = 2": f"heads = {heads}"})
        _, folder = Rival(study, make_splits(study, "shapes"), "MAE", "natural").trained("images")
        folders.add(folder)
    assert len(folders) == 2


# --- what is learnt


@pytest.fixture(scope="module")
def longer(tmp_path_factory, shapes):
    """A study whose encoders see 1,280 images, and its splits."""
    folder = tmp_path_factory.mktemp("longer")
    many = {"images_seen = 320": "images_seen = 1280"}
    with pytest.MonkeyPatch.context() as patch:
        study = write_study(folder / "test.toml", shapes, patch, folder / "cache", many)
    return study, make_splits(study, "shapes")


def logits(encoder, splits, rows):
    images = splits.collection.images[rows]
    return encoder.encode(images, [""] * len(rows), [HEAD])[HEAD]


def test_a_resnet_learns_the_labels(longer):
    study, splits = longer
    taxa = np.unique(splits.taxa(splits["train"]).astype(str))
    encoder = make_encoder(study, splits, "ResNet, labels")

    def validation_loss(encoder):
        rows = splits["validation"]
        codes = np.searchsorted(taxa, splits.taxa(rows).astype(str))
        scores = torch.tensor(logits(encoder, splits, rows))
        return torch.nn.functional.cross_entropy(scores, torch.from_numpy(codes))

    untrained = make_encoder(study, splits, "ResNet, labels", budget="none")
    assert validation_loss(encoder) < 0.75 * validation_loss(untrained)
    named = taxa[logits(encoder, splits, splits["train"]).argmax(axis=1)]
    assert np.mean(named == splits.taxa(splits["train"]).astype(str)) > 0.9


def test_a_resnet_names_the_classes_in_the_probes_order(longer):
    study, splits = longer
    taxa = np.unique(splits.taxa(splits["train"]).astype(str))
    # alphabetical, not by number of images: a mixture of the two would show
    assert list(taxa) != list(splits.classes)
    encoder = make_encoder(study, splits, "ResNet, labels")
    result = probe_encoder(study, splits, "ResNet, labels")
    assert list(result.classes) == list(taxa)
    for part, rows in result.rows.items():
        chances = result.heads["end to end"][part]
        assert chances.shape == (len(rows), len(taxa))
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
        expected = taxa[logits(encoder, splits, rows).argmax(axis=1)]
        assert np.array_equal(result.predicted_taxa(part, "end to end"), expected)


def test_simclr_learns_to_tell_images_apart(longer):
    study, splits = longer
    curve = pd.read_csv(make_encoder(study, splits, "SimCLR").folder / "curve.csv")
    assert curve["images_seen"].tolist() == [256, 352, 496, 704, 992, 1280]
    loss, blind_guess = curve["held_out"], np.log(2 * len(splits["validation"]) - 1)
    assert loss.iloc[-1] < loss.iloc[0] - 0.2
    assert loss.iloc[-1] < blind_guess - 0.2


# --- interruptions

TRAIN = """
import sys
from plankton_study.images.splits import make_splits
from plankton_study.models.rivals import Rival
from plankton_study.run.study import load_study
study = load_study(sys.argv[1], 0)
Rival(study, make_splits(study, "shapes"), "ResNet, labels", "natural").trained("images")
"""


def trained_resnet(study):
    """Return the weights of the ResNet that learns from labels."""
    rival = Rival(study, make_splits(study, "shapes"), "ResNet, labels", "natural")
    model, _ = rival.trained("images")
    return model.state_dict()


def test_sigkill_of_a_network_with_batch_norm_then_again_gives_the_undisturbed_weights(
    make_study, killed_at_step_7, tmp_path
):
    longer = {"images_seen = 320": "images_seen = 480\ncheckpoint_seconds = 1e-9"}
    undisturbed = trained_resnet(make_study(longer, cache=tmp_path / "undisturbed"))

    study = make_study(longer, cache=tmp_path / "killed")
    killed_at_step_7(TRAIN)
    (checkpoint,) = study.cache.glob("encoder/*.partial/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 7
    resumed = trained_resnet(study)
    assert any("running_mean" in key for key in resumed)
    assert all(torch.equal(resumed[key], undisturbed[key]) for key in undisturbed)


class InterruptedTrainer(Trainer):
    """Makes one step, and is interrupted in the second one."""

    def __init__(self, study, folder, model, step_loss, *others):
        def loss(*arguments):
            if torch.is_grad_enabled() and self.step == 1:
                raise KeyboardInterrupt
            return step_loss(*arguments)

        super().__init__(study, folder, model, loss, *others)


@pytest.mark.parametrize("name", ["U-Net, labels", "SimCLR", "MAE"])
def test_an_interrupted_training_ends_with_the_undisturbed_weights(
    brief, make_study, monkeypatch, name
):
    often = {"images_seen = 320": f"images_seen = {BRIEF}\ncheckpoint_seconds = 1e-9"}
    study = make_study(often)
    splits = make_splits(study, "shapes")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipe, "Trainer", InterruptedTrainer)
        make_encoder(study, splits, name)
    (checkpoint,) = study.cache.glob("encoder/*.partial/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 1
    resumed, undisturbed = make_encoder(study, splits, name), make_encoder(*brief(), name)
    assert resumed.identity["weights"] == undisturbed.identity["weights"]
