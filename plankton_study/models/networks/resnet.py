"""A residual network whose stem keeps the resolution of small images."""

import torch
from transformers import ResNetConfig, ResNetModel

from plankton_study.run.schema import ResNet


def build_resnet(config: ResNet) -> ResNetModel:
    """Return an untrained ResNet of basic blocks for one grey channel.

    Its stem is a 3 × 3 convolution with stride 1. Pooling is left to the head.
    """
    stem_width = config.widths[0]
    resnet = ResNetModel(
        ResNetConfig(
            num_channels=1,
            layer_type="basic",
            downsample_in_first_stage=False,
            embedding_size=stem_width,
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
        )
    )
    stem = torch.nn.Conv2d(1, stem_width, 3, padding=1, bias=False)
    torch.nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    resnet.embedder.embedder.convolution = stem
    resnet.embedder.pooler = torch.nn.Identity()
    resnet.pooler = torch.nn.Identity()
    return resnet
