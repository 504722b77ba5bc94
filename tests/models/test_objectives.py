"""Two views of an image: what contrastive losses and augmentation show the network."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

from plankton_study.models.batches import StepRandomness
from plankton_study.models.objectives import augmentation, contrastive_loss, nt_xent
from plankton_study.run.schema import EncoderConfig


class Recorder(torch.nn.Module):
    """Remembers the images that it is shown."""

    def forward(self, x):
        self.shown = x.clone()
        return x.flatten(1)[:, :8]


@pytest.mark.parametrize("kind", ["simclr", "vicreg"])
@pytest.mark.parametrize("changes", [{}, {"crop": 0.4}, {"jitter": 0.4}])
def test_two_views_of_an_image_differ_and_images_do_not_mix(kind, changes):
    """Also without crops and jitter each view has its own direction, and the image itself stays."""
    grey = torch.linspace(-0.8, 0.8, 12)[:, None, None, None]
    noise = torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    x = grey + 0.02 * noise
    before, model = x.clone(), Recorder()
    randomness = StepRandomness(torch.Generator().manual_seed(0), 12, slice(None))
    torch.manual_seed(0)
    loss = contrastive_loss(EncoderConfig(kind=kind, **changes), 16)
    assert torch.isfinite(loss(model, x, np.arange(12), randomness))
    assert torch.equal(x, before)
    assert model.shown.shape == (24, 1, 16, 16)
    first, second = model.shown.chunk(2)
    equal_views = sum(torch.equal(one, other) for one, other in zip(first, second))
    assert equal_views <= 5
    if "jitter" not in changes:  # which changes the grey value itself
        for view in (first, second):
            assert torch.allclose(view.mean((1, 2, 3)), grey.flatten(), atol=0.03)


def test_crops_and_jitter_differ_between_images_and_follow_the_seed():
    augment = augmentation(EncoderConfig(kind="simclr", crop=0.4, jitter=0.4), 16)
    images = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16).repeat(8, 1, 1, 1)
    shown = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        shown.append(augment(images))
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])
    assert len({tuple(x.flatten().tolist()) for x in shown[0]}) == 8


def test_crops_have_no_black_borders():
    crop = augmentation(EncoderConfig(kind="simclr", crop=0.4), 16)
    plain = torch.full((8, 1, 16, 16), 0.7)
    assert torch.allclose(crop(plain), torch.tensor(0.7), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_contrastive_loss_and_its_gradient_are_those_of_the_library(temperature):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 13, 8, generator=generator).requires_grad_()
    library = SelfSupervisedLoss(NTXentLoss(temperature))
    losses = [nt_xent(first, second, temperature), library(first, second)]
    (own, known) = (torch.autograd.grad(loss, first, retain_graph=True)[0] for loss in losses)
    assert torch.allclose(losses[0], losses[1])
    assert torch.allclose(own, known, atol=1e-6)
