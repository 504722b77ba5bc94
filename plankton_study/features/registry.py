"""Creating encoders by name.

To add your own encoder, write a class with the members of `interface.Encoder` and register a
function that creates it: `ENCODERS["mine"] = make_mine`. A pretrained model needs no code: add a
table `[encoders."…"]` with `kind = "pretrained"` to the profile.
"""

from collections.abc import Callable
from functools import partial

from plankton_study.features.encoders import (
    DiffusionEncoder,
    NetworkEncoder,
    PixelEncoder,
    enlarge_and_normalise,
)
from plankton_study.features.interface import Encoder
from plankton_study.images.splits import Splits
from plankton_study.models.batches import to_input
from plankton_study.models.diffusion.denoiser import initial_denoiser, trained_denoiser
from plankton_study.models.pretrained import (
    WEIGHTS_WHEELS,
    find_model_folder,
    is_diffusers_folder,
    open_denoiser,
    open_efficientnet,
    open_vision_model,
)
from plankton_study.models.recipe import pixel_scale
from plankton_study.models.rivals import Rival
from plankton_study.run.errors import StudyError, first_sentence
from plankton_study.run.schema import Features
from plankton_study.run.study import Study

#: your own encoders: name → function that creates one
ENCODERS: dict[str, Callable[[Study, Splits], Encoder]] = {}
#: families of encoders that saw no labels; of those from "elsewhere" it is not known
SAW_NO_LABELS = ("diffusion", "nothing", "self-supervised")


def make_encoder(
    study: Study, splits: Splits, name: str, setting: str = "natural", budget: str = "images"
) -> Encoder:
    """Return an encoder; the first call trains it.

    Args:
        study, splits: the images it is trained on.
        name: a key of the profile's `encoders`, or of `ENCODERS`.
        setting: "natural" or "balanced": the labelled images of a supervised encoder.
        budget: "images" (as many as the denoiser sees), "flops" (as many as the denoiser's
            training FLOPs allow) or "none" (the initial weights). Your own encoders ignore it.

    Raises:
        StudyError: there is no such encoder, or its model is not available.
    """
    configs = study.profile.encoders
    if name in ENCODERS:
        return ENCODERS[name](study, splits)
    if name not in configs:
        names = ", ".join([*configs, *ENCODERS])
        raise StudyError(f"unknown encoder {name!r}; available: {names}")
    kind = configs[name].kind
    settings = study.profile.features
    if kind == "pixels":
        return PixelEncoder(splits.collection.images, splits["pool"], settings.pca, study.seed)
    if kind == "diffusion":
        return _with_predeclared_cell(diffusion_encoder(study, splits))
    if kind == "random":
        return _with_predeclared_cell(random_encoder(study, splits))
    if kind == "pretrained":
        return pretrained_encoder(study, name)
    return _rival_encoder(study, splits, name, setting, budget)


def why_unavailable(study: Study, name: str) -> str:
    """Return why an encoder of the profile is not available on this machine; "" if it is."""
    config = study.profile.encoders.get(name)
    if config is None or config.kind != "pretrained":
        return ""
    try:
        pretrained_encoder(study, name)
    except StudyError as error:
        return str(error)
    return ""


def encoder_family(study: Study, name: str) -> str:
    """Return what an encoder learnt from; "elsewhere" for your own encoders."""
    config = study.profile.encoders.get(name)
    return config.family if config else "elsewhere"


def _with_predeclared_cell(encoder: DiffusionEncoder) -> DiffusionEncoder:
    """Check that the predeclared cell exists, before anything else is trained."""
    _ = encoder.predeclared
    return encoder


def diffusion_encoder(
    study: Study, splits: Splits, settings: Features | None = None
) -> DiffusionEncoder:
    """Return the denoiser of a set as an encoder.

    Args:
        study, splits: the images it is trained on.
        settings: replaces the profile's [features].
    """
    folder = trained_denoiser(study, splits)
    denoiser = open_denoiser(folder, study.profile.images.size, study.device)
    is_ours = not study.profile.unet.pretrained
    return DiffusionEncoder(
        "diffusion",
        denoiser,
        settings or study.profile.features,
        study.seed,
        folder=folder if is_ours else None,
    )


def random_encoder(study: Study, splits: Splits) -> DiffusionEncoder:
    """Return the denoiser's U-Net with its initial weights, read at the same cells."""
    denoiser = initial_denoiser(study, pixel_scale(study, splits)).to(study.device)
    return DiffusionEncoder("random U-Net", denoiser, study.profile.features, study.seed)


def _rival_encoder(
    study: Study, splits: Splits, name: str, setting: str, budget: str
) -> NetworkEncoder:
    rival = Rival(study, splits, name, setting)
    if budget == "none":
        model, folder = rival.initial(), None
    else:
        model, folder = rival.trained(budget)
    prepare = partial(to_input, scale=rival.scale, device=study.device)
    size, settings = study.profile.images.size, study.profile.features
    encoder = NetworkEncoder(name, model.to(study.device), size, settings, prepare, folder)
    encoder.identity["scale"] = list(rival.scale)
    return encoder


def pretrained_encoder(study: Study, name: str) -> NetworkEncoder:
    """Return a pretrained model as an encoder.

    It is a network of `WEIGHTS_WHEELS`, a diffusers pipeline, or a transformers vision model. For
    a vision model, images are enlarged to the size that it was trained with, or to the profile's
    `input_size`, and normalised as it expects.

    Raises:
        StudyError: there is no such model, or its folder cannot be read.
    """
    config, settings = study.profile.encoders[name], study.profile.features
    size = study.profile.images.size
    if config.folder in WEIGHTS_WHEELS:
        vision = open_efficientnet(study, config.folder)
    else:
        folder, key = find_model_folder(study, config.folder), f"encoders.{name}.folder"
        if is_diffusers_folder(folder):
            denoiser = open_denoiser(folder, size, study.device, key=key)
            return DiffusionEncoder(name, denoiser, settings, study.seed)
        vision = open_vision_model(folder, key)
    side = config.input_size or vision.side
    prepare = partial(enlarge_and_normalise, vision=vision, side=side, device=study.device)
    try:
        encoder = NetworkEncoder(name, vision.model.to(study.device), size, settings, prepare)
    except ValueError as error:
        raise StudyError(
            f"{name} cannot read images of {side} px ({first_sentence(error)}): set its input_size"
        ) from None
    encoder.identity |= {
        "side": side,
        "mean": vision.mean.flatten().tolist(),
        "std": vision.std.flatten().tolist(),
    }
    return encoder
