"""The precision and the memory layout in which a network computes."""

from contextlib import nullcontext
from typing import Any

import torch


def uses_bfloat16(precision: str, device: str) -> bool:
    """Return whether a precision key of the profile means bfloat16 on a device.

    "auto" means bfloat16 where the hardware supports it; emulated, it is far slower than float32.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def resolved_precision(precision: str, device: str) -> str:
    """Return the precision that a key of the profile means on a device, for cache keys."""
    return "bfloat16" if uses_bfloat16(precision, device) else "float32"


def autocast(precision: str, device: str) -> Any:
    """Return the autocast context of a precision key of the profile."""
    if uses_bfloat16(precision, device):
        return torch.autocast(device, torch.bfloat16)
    return nullcontext()


def to_device(model: torch.nn.Module, precision: str, device: str) -> torch.nn.Module:
    """Move a network to a device, in the memory layout that is fastest there.

    This is channels-last, with one exception: on a CPU in bfloat16, group normalisation would take
    three times as long in channels-last, and its gradient eight times.
    """
    has_group_norm = any(isinstance(module, torch.nn.GroupNorm) for module in model.modules())
    if has_group_norm and device == "cpu" and uses_bfloat16(precision, device):
        return model.to(device, memory_format=torch.contiguous_format)
    return model.to(device, memory_format=torch.channels_last)
