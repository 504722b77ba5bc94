"""Pooling the output of a block to one vector per image."""

from typing import Any

import torch

from plankton_study.models.networks.outputs import first_tensor, to_map

#: values per channel for each kind of pooling
VECTORS = {"mean": 1, "mean_std": 2, "grid": 4}


def pool(output: Any, pooling: str) -> torch.Tensor:
    """Reduce the output of a block to float32 vectors.

    Args:
        output: a map (B, C, H, W), tokens (B, T, C) that form a square, or vectors (B, C), which
            are returned unchanged.
        pooling: "mean" (B, C); "mean_std", mean and standard deviation (B, 2 C); or "grid", the
            means of 2 × 2 quarters (B, 4 C). A class token (B, C) is appended.

    Raises:
        ValueError: there is no such pooling.
    """
    if pooling not in VECTORS:
        raise ValueError(f"pooling {pooling!r} is not one of {', '.join(VECTORS)}")
    tensor = first_tensor(output)
    if tensor.ndim == 2:
        return tensor.float()
    if pooling == "grid":
        quarters = torch.nn.functional.adaptive_avg_pool2d(to_map(output).float(), 2)
        parts = [quarters.flatten(1)]
    else:
        parts = _moments(to_map(output), with_deviation=pooling == "mean_std")
    has_class_token = tensor.ndim == 3 and tensor.shape[1] > to_map(output)[0, 0].numel()
    if has_class_token:
        parts.append(tensor[:, 0].float())
    return torch.cat(parts, dim=1)


def _moments(feature_map: torch.Tensor, with_deviation: bool) -> list[torch.Tensor]:
    """Return the mean (B, C) of a map and, if requested, its standard deviation (B, C)."""
    pixels = feature_map.permute(0, 2, 3, 1).flatten(1, 2).float()  # (B, H W, C)
    mean = pixels.mean(dim=1)
    if not with_deviation:
        return [mean]
    # torch.std_mean takes up to ten times as long
    deviation = (pixels - mean[:, None]).square().mean(dim=1).sqrt()
    return [mean, deviation]
