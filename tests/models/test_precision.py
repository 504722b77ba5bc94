"""In which precision and memory layout a network computes."""

import pytest
import torch

from plankton_study.models.networks.resnet import build_resnet
from plankton_study.models.networks.unet import build_unet
from plankton_study.models.precision import autocast, to_device
from plankton_study.run.schema import ResNet, UNet


def convolution_weights(model: torch.nn.Module) -> torch.Tensor:
    """Return the weights of a convolution whose layout in memory shows."""
    for module in model.modules():
        is_convolution = isinstance(module, torch.nn.Conv2d)
        if is_convolution and module.in_channels > 1 and module.kernel_size != (1, 1):
            return module.weight
    raise AssertionError("the network has no such convolution")


def tiny_unet() -> torch.nn.Module:
    return build_unet(UNet(channels=(8, 16), attention=(8,), head_channels=8), 16, 0)


def tiny_resnet() -> torch.nn.Module:
    return build_resnet(ResNet(widths=(8, 16), depths=(1, 1)))


def test_group_norm_in_bfloat16_keeps_the_plain_layout():
    weights = convolution_weights(to_device(tiny_unet(), "bfloat16", "cpu"))
    assert weights.is_contiguous()
    assert not weights.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("make", "precision"),
    [(tiny_unet, "float32"), (tiny_resnet, "float32"), (tiny_resnet, "bfloat16")],
)
def test_other_networks_have_their_channels_last(make, precision):
    weights = convolution_weights(to_device(make(), precision, "cpu"))
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert not weights.is_contiguous()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_profile_chooses_the_precision(precision):
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    with autocast(precision, "cpu"):
        assert layer(x).dtype == getattr(torch, precision)
