"""Outputs of networks (maps, tokens and vectors), and a head on top of them."""

import math
from typing import Any

import torch


def first_tensor(output: Any) -> torch.Tensor:
    """Return the tensor of an output that may be a tuple, or an object with several fields."""
    if isinstance(output, torch.Tensor):
        return output
    return output[0]


def to_map(output: Any) -> torch.Tensor:
    """Return an output as a map (B, C, h, w).

    Maps are returned unchanged. Tokens (B, T, C) are arranged in a square; special tokens, which
    come first, are left out.
    """
    tensor = first_tensor(output)
    if tensor.ndim == 4:
        return tensor
    side = math.isqrt(tensor.shape[1])
    square = tensor[:, tensor.shape[1] - side * side :]
    return square.transpose(1, 2).unflatten(2, (side, side))


class WithHead(torch.nn.Module):
    """A network with a head on its pooled last map: a classifier or a contrastive projector.

    Args:
        network: images → map or tokens.
        width: number of channels of its last map.
        outputs: number of outputs of the head.
        hidden: width of the head's hidden layer; 0 for a linear head.
    """

    def __init__(self, network: torch.nn.Module, width: int, outputs: int, hidden: int = 0) -> None:
        super().__init__()
        self.network = network
        layers: list[torch.nn.Module] = []
        if hidden:
            layers.append(torch.nn.Linear(width, hidden))
            layers.append(torch.nn.BatchNorm1d(hidden))
            layers.append(torch.nn.ReLU())
        layers.append(torch.nn.Linear(hidden or width, outputs))
        self.head = torch.nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, outputs) for images (B, 1, R, R)."""
        pooled = to_map(self.network(x)).mean(dim=(2, 3))
        return self.head(pooled)
