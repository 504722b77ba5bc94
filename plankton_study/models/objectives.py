"""Training objectives of the rivals: classification, contrastive views, masked patches."""

import numpy as np
import torch

from plankton_study.models.batches import StepRandomness, flip_and_turn
from plankton_study.models.networks.outputs import WithHead
from plankton_study.models.training import StepLoss
from plankton_study.run.schema import EncoderConfig

JITTERED_SHARE = 0.8  # of the images
BLURRED_SHARE = 0.3


def augmentation(config: EncoderConfig, size: int) -> torch.nn.Module:
    """Return a module that gives each image a random crop and jitter.

    It expects standardised images (B, 1, R, R) that were already turned. It draws from torch's
    global generator, which the training loop seeds for each step.
    """
    from kornia import augmentation as kornia

    steps: list[torch.nn.Module] = []
    if config.crop < 1:
        area = (config.crop, 1)
        steps.append(kornia.RandomResizedCrop((size, size), scale=area, ratio=(0.8, 1.25)))
    if config.jitter:
        factors = (1 - config.jitter, 1 + config.jitter)
        steps.append(kornia.RandomContrast(factors, clip_output=False, p=JITTERED_SHARE))
        steps.append(kornia.RandomBrightness(factors, clip_output=False, p=JITTERED_SHARE))
        steps.append(kornia.RandomGaussianBlur((3, 3), (0.1, 1.0), p=BLURRED_SHARE))
    return torch.nn.Sequential(*steps)


def classification_loss(config: EncoderConfig, size: int, codes: np.ndarray) -> StepLoss:
    """Return the cross-entropy with the labels.

    Args:
        config: the encoder's keys, which include the augmentation.
        size: side of the images, px.
        codes: (N,) int64, the class of each row of the collection.
    """
    augment = augmentation(config, size)
    classes = torch.from_numpy(codes)

    def loss(
        model: WithHead, x: torch.Tensor, rows: np.ndarray, randomness: StepRandomness
    ) -> torch.Tensor:
        if model.training:
            x = augment(x)
        targets = classes[rows].to(x.device)
        return torch.nn.functional.cross_entropy(model(x).float(), targets)

    return loss


def contrastive_loss(config: EncoderConfig, size: int) -> StepLoss:
    """Return the loss between two views of each image.

    It is NT-Xent for SimCLR (Chen et al. 2020), or VICReg (Bardes et al. 2022).
    """
    from pytorch_metric_learning.losses import VICRegLoss

    augment = augmentation(config, size)
    vicreg = VICRegLoss()

    def loss(
        model: WithHead, x: torch.Tensor, rows: np.ndarray, randomness: StepRandomness
    ) -> torch.Tensor:
        upright = augment(x)
        turned = flip_and_turn(augment(x).clone(), randomness.generator)
        first, second = model(torch.cat([upright, turned])).float().chunk(2)
        if config.kind == "simclr":
            return nt_xent(first, second, config.temperature)
        return vicreg(first, ref_emb=second)

    return loss


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the normalised, temperature-scaled cross-entropy (Chen et al. 2020, eq. 1).

    Each view has to find the other view of its image among all views of the batch. The loss of
    pytorch-metric-learning has the same value, but its memory grows with the cube of the batch:
    with 512 images it needs more than 10 GB.

    Args:
        first, second: (B, D), two views of each image.
        temperature: divides the cosine similarities.
    """
    views = torch.nn.functional.normalize(torch.cat([first, second]))
    similarities = views @ views.T / temperature
    is_itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    similarities = similarities.masked_fill(is_itself, -torch.inf)
    other_views = torch.arange(len(views), device=views.device).roll(len(first))
    return torch.nn.functional.cross_entropy(similarities, other_views)


def masked_patch_loss(config: EncoderConfig, size: int) -> StepLoss:
    """Return the squared error on the patches that the network does not see (He et al. 2022)."""
    augment = augmentation(config, size)

    def loss(
        model: torch.nn.Module, x: torch.Tensor, rows: np.ndarray, randomness: StepRandomness
    ) -> torch.Tensor:
        patches = (size // model.config.patch_size) ** 2
        order = randomness.draw(torch.rand, patches).to(x.device)
        if model.training:
            x = augment(x)
        return model(x, noise=order).loss

    return loss
