"""EfficientNet-Lite0 (Tan & Le 2019): a small ImageNet network without squeeze and excitation."""

from typing import ClassVar, NamedTuple

import torch


class Stage(NamedTuple):
    """Layers with the same number of channels; only the first one changes the size of the maps."""

    layers: int
    kernel: int  # side of the depthwise convolution
    stride: int
    expansion: int  # inner channels per input channel
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
#: as in TensorFlow, where it was trained
NORM_EPSILON = 1e-3


class SamePadding(torch.nn.Module):
    """TensorFlow's "same" padding, which puts the odd row and column behind the image."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the padded maps (B, C, H', W')."""
        width, height = self._pads(x.shape[3]), self._pads(x.shape[2])
        return torch.nn.functional.pad(x, (*width, *height))

    def _pads(self, side: int) -> tuple[int, int]:
        outputs = -(-side // self.stride)
        total = max((outputs - 1) * self.stride + self.kernel - side, 0)
        return total // 2, total - total // 2


def convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> torch.nn.Sequential:
    """Return a convolution with batch normalisation."""
    return torch.nn.Sequential(
        SamePadding(kernel, stride),
        torch.nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False),
        torch.nn.BatchNorm2d(outputs, eps=NORM_EPSILON),
    )


class InvertedResidualLayer(torch.nn.Module):
    """Expands the channels, filters each of them, and projects them back (Sandler et al. 2018)."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        parts: list[torch.nn.Module] = []
        if stage.expansion > 1:
            parts += [convolution(inputs, inner), torch.nn.ReLU6()]
        parts += [convolution(inner, inner, stage.kernel, stride, groups=inner), torch.nn.ReLU6()]
        parts.append(convolution(inner, stage.channels))
        self.parts = torch.nn.Sequential(*parts)
        self.has_skip = stride == 1 and inputs == stage.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps (B, channels, H / stride, W / stride)."""
        outputs = self.parts(x)
        return x + outputs if self.has_skip else outputs


class HeadLayer(torch.nn.Module):
    """The last convolution, whose mean the ImageNet classifier reads."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.parts = torch.nn.Sequential(convolution(inputs, HEAD_CHANNELS), torch.nn.ReLU6())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps (B, 1280, H, W)."""
        return self.parts(x)


class EfficientNetLite0(torch.nn.Module):
    """The network without its classifier: images (B, 3, R, R) → maps (B, 1280, R / 32, R / 32)."""

    config: ClassVar[dict[str, str]] = {"architecture": "EfficientNet-Lite0"}

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(convolution(3, STEM_CHANNELS, 3, 2), torch.nn.ReLU6())
        layers: list[torch.nn.Module] = []
        channels = STEM_CHANNELS
        for stage in STAGES:
            for number in range(stage.layers):
                stride = stage.stride if number == 0 else 1
                layers.append(InvertedResidualLayer(channels, stage, stride))
                channels = stage.channels
        layers.append(HeadLayer(channels))
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last maps."""
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def load_in_order(self, weights: dict[str, torch.Tensor]) -> None:
        """Load weights that have other names, but the same order; the classifier is left out.

        Args:
            weights: name → tensor, with two more tensors, those of the classifier, at the end.

        Raises:
            ValueError: there are more or fewer tensors.
            RuntimeError: a tensor has another shape.
        """
        of_layers = list(weights.values())[:-2]
        self.load_state_dict(dict(zip(self.state_dict(), of_layers, strict=True)))
