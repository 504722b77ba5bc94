"""Encoders trained on the denoiser's images, in its loop: by labels, two views of an image, or hidden patches."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from plankton_study import diffusion, networks, train
from plankton_study.networks import WithHead
from plankton_study.profile import StudyError
from plankton_study.schema import EncoderConfig
from plankton_study.splits import Splits
from plankton_study.store import digest, keep
from plankton_study.study import Study
from plankton_study.train import Chance, StepLoss, flips_and_turns


def trained(study: Study, splits: Splits, name: str, setting: str, budget: str) -> tuple[torch.nn.Module, Path | None]:
    """Return a network of the profile's `encoders`, trained on the first call, and the folder of its training.

    Those that learn from labels train on the labelled images of the `setting` and keep their classifier as a head, the
    others on the unlabelled pool. `budget` is "images", "flops" (see `encoders.make`) or "none": its initial weights.
    """
    config = study.profile.encoders[name]
    supervised = config.kind == "labels"
    rows = splits["pool" if not supervised else "balanced" if setting == "balanced" else "train"]
    codes = _codes(splits, rows) if supervised else np.zeros(0, np.int64)
    validation = splits["validation"]
    validation = validation[codes[validation] >= 0] if supervised else validation
    held_out = train.held_out_rows(validation)
    start = diffusion.denoiser(study, splits) if config.start == "denoiser" else None
    if budget == "none":
        return _reading(study, _build(study, config, codes, start), supervised), None
    images_seen = train.budget(study, splits)
    if budget == "flops":
        folders = diffusion.denoiser(study, splits), trained(study, splits, name, setting, "images")[1]
        most, own = (train.cost(folder).get("flops") for folder in folders)
        if most is None:
            raise StudyError("the denoiser was not trained here, so its FLOPs are unknown: set equal_flops = false")
        images_seen = round(images_seen * most / own)
    what = train.inputs(study, splits, rows, held_out, images_seen) | {"codes": digest(codes)}
    what["start"] = digest(*(file.read_bytes() for file in sorted(start.rglob("*.safetensors")))) if start else ""
    network = getattr(study.profile, "vit" if config.kind == "mae" else config.network)
    what |= {"encoder": config.model_dump(exclude={"equal_flops"}), "network": network.model_dump()}

    def make(folder: Path) -> None:
        if study.team.num_processes > 1:  # batch statistics and contrasts would be those of a part of the batch
            raise StudyError(f"{name} trains in one process, not under `accelerate launch`: only the denoiser does")
        model, size = _build(study, config, codes, start), study.profile.images.size
        losses = {"labels": partial(labels, codes=codes), "mae": masked}
        step_loss = losses.get(config.kind, contrastive)(config, size)
        changes = config.model_dump(include={"batch_size", "learning_rate", "weight_decay"}, exclude_none=True)
        title, images = f"training {name} on {splits.collection.name}", splits.collection.images
        train.fit(study, folder, model, step_loss, images, rows, images_seen, title, held_out, changes)
        state = _reading(study, model.cpu(), supervised).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")

    folder = keep(study, "encoder", what, ["train", "networks", "baselines", "diffusion"], make, resume=True)
    model = _reading(study, _build(study, config, codes, start), supervised)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model, folder


def _codes(splits: Splits, rows: np.ndarray) -> np.ndarray:
    """Number the classes of labelled rows in alphabetical order; every other class of the collection is -1."""
    classes = np.unique(splits.taxa(rows).astype(str))
    taxa = splits.taxa(np.arange(len(splits.collection))).astype(str)
    at = np.searchsorted(classes, taxa).clip(max=len(classes) - 1)
    return np.where(classes[at] == taxa, at, -1)


def _build(study: Study, config: EncoderConfig, codes: np.ndarray, start: Path | None) -> torch.nn.Module:
    torch.manual_seed(study.seed)
    profile = study.profile
    if config.kind == "mae":
        return networks.build_mae(profile, config.mask)
    if config.network == "unet":
        unet = diffusion.load(start, profile.images.size)[0] if start else diffusion.untrained(study)
        network, width = networks.DownPath(unet).requires_grad_(True), unet.config.block_out_channels[-1]
    elif config.network == "resnet":
        network, width = networks.build_resnet(profile), profile.resnet.widths[-1]
    else:
        network, width = networks.build_vit(profile), profile.vit.width
    if config.kind == "labels":
        return WithHead(network, width, int(codes.max()) + 1)
    return WithHead(network, width, config.projection, hidden=config.projection)


def _reading(study: Study, model: torch.nn.Module, supervised: bool) -> torch.nn.Module:
    """Return what features are read from: without projector or decoder, and nothing masked."""
    if isinstance(model, WithHead):
        return model if supervised else model.network
    vit = networks.build_vit(study.profile)
    vit.load_state_dict(model.vit.state_dict())
    return vit


def views(config: EncoderConfig, size: int) -> torch.nn.Module:
    """Return a module that gives each image of (B, 1, R, R) in [-1, 1] a random crop and jitter, after the turns.

    Its randomness is torch's global generator, which the training loop seeds for each step.
    """
    from kornia import augmentation as k

    steps: list[torch.nn.Module] = []
    if config.crop < 1:
        steps.append(k.RandomResizedCrop((size, size), scale=(config.crop, 1), ratio=(0.8, 1.25)))
    if config.jitter:
        steps.append(k.RandomContrast((1 - config.jitter, 1 + config.jitter), clip_output=False, p=0.8))
        steps.append(k.RandomBrightness((1 - config.jitter, 1 + config.jitter), clip_output=False, p=0.8))
        steps.append(k.RandomGaussianBlur((3, 3), (0.1, 1.0), p=0.3))
    return torch.nn.Sequential(*steps)


def labels(config: EncoderConfig, size: int, codes: np.ndarray) -> StepLoss:
    """Return cross-entropy with the class `codes` (N,) int64 of the collection's rows."""
    augment, codes = views(config, size), torch.from_numpy(codes)

    def loss(model: WithHead, x: torch.Tensor, rows: np.ndarray, chance: Chance) -> torch.Tensor:
        shown = augment(x) if model.training else x
        return torch.nn.functional.cross_entropy(model(shown).float(), codes[rows].to(x.device))

    return loss


def contrastive(config: EncoderConfig, size: int) -> StepLoss:
    """Return NT-Xent (SimCLR; Chen et al. 2020) or VICReg (Bardes et al. 2022) between two views of each image."""
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss, VICRegLoss

    nt_xent = SelfSupervisedLoss(NTXentLoss(config.temperature))
    vicreg = VICRegLoss()
    augment = views(config, size)

    def loss(model: WithHead, x: torch.Tensor, rows: np.ndarray, chance: Chance) -> torch.Tensor:
        upright, turned = augment(x), flips_and_turns(augment(x).clone(), chance.generator)  # of different directions
        first, second = model(torch.cat([upright, turned])).float().chunk(2)
        return nt_xent(first, second) if config.kind == "simclr" else vicreg(first, ref_emb=second)

    return loss


def masked(config: EncoderConfig, size: int) -> StepLoss:
    """Return the squared error of MAE on the patches it does not see (He et al. 2022)."""
    augment = views(config, size)

    def loss(model: torch.nn.Module, x: torch.Tensor, rows: np.ndarray, chance: Chance) -> torch.Tensor:
        patches = (size // model.config.patch_size) ** 2
        order = chance(torch.rand, patches).to(x.device)
        return model(augment(x) if model.training else x, noise=order).loss

    return loss
