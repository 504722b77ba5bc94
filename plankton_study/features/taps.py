"""Taps: the places in a network where features are read."""

import re
from collections import Counter
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from plankton_study.models.networks.outputs import first_tensor, to_map
from plankton_study.run.errors import StudyError

UNET_BLOCK_PATH = re.compile(r"\.(resnets|attentions)\.\d+$")
NUMBERED_PATH = re.compile(r"\.\d+$")
UNET_STAGE = re.compile("(down|mid|up)_block")


class Tap(NamedTuple):
    """A place in the network where features are read."""

    name: str  # stage, resolution, kind and number: "up16.resnet0"
    path: str  # of the module: "up_blocks.1.resnets.0"
    stage: str  # down, mid or up in a U-Net; map or tokens in other networks
    resolution: int  # side of its map, px
    channels: int
    order: int  # position in the order of execution


def find_taps(
    model: torch.nn.Module, *inputs: Any, patterns: tuple[str, ...] = ("*",)
) -> list[Tap]:
    """List the blocks of a network, in the order in which they run.

    In a U-Net these are the residual blocks and attention blocks. The outputs of whole down and up
    blocks are not used: they come after the resampling, so those of down and up blocks with the
    same resolution would not be comparable. In other networks (transformers' ResNet, ViT, CLIP
    and similar ones) these are the repeated layers.

    Args:
        model: the network.
        inputs: inputs of a dry run, which determines the order and the shapes.
        patterns: patterns for the names of the taps to keep, such as "up16.*".

    Raises:
        StudyError: no tap matches the patterns.
    """
    blocks = _unet_blocks(model) or _repeated_layers(model)
    outputs = _run(model, blocks, inputs)
    taps = []
    counts: Counter[str] = Counter()
    for order, (path, output) in enumerate(outputs):
        stage, kind = _stage_and_kind(path, output)
        channels, side = to_map(output).shape[1], to_map(output).shape[-1]
        name = f"{stage}{side}.{kind}"
        taps.append(Tap(f"{name}{counts[name]}", path, stage, side, channels, order))
        counts[name] += 1
    matching = [tap for tap in taps if any(fnmatch(tap.name, pattern) for pattern in patterns)]
    if not matching:
        names = ", ".join(tap.name for tap in taps)
        raise StudyError(f"features.taps = {list(patterns)} matches none of the taps {names}")
    return matching


def _unet_blocks(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return path → residual block or attention block of a U-Net."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, ResnetBlock2D | Attention) and UNET_BLOCK_PATH.search(path)
    }


def _repeated_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return path → numbered module of a class …Layer; layers inside such a layer are left out."""
    layers: dict[str, torch.nn.Module] = {}
    for path, module in model.named_modules():
        is_layer = type(module).__name__.endswith("Layer") and NUMBERED_PATH.search(path)
        is_inside = any(path.startswith(f"{outer}.") for outer in layers)
        if is_layer and not is_inside:
            layers[path] = module
    return layers


def _run(
    model: torch.nn.Module, blocks: dict[str, torch.nn.Module], inputs: tuple[Any, ...]
) -> list[tuple[str, Any]]:
    """Return (path, output) of every block, in the order in which they ran."""
    outputs: list[tuple[str, Any]] = []

    def record(path: str, module: torch.nn.Module, args: Any, output: Any) -> None:
        outputs.append((path, output))

    with torch.no_grad(), ExitStack() as hooks:
        for path, block in blocks.items():
            hooks.enter_context(block.register_forward_hook(partial(record, path)))
        model(*inputs)
    return outputs


def _stage_and_kind(path: str, output: Any) -> tuple[str, str]:
    match = UNET_STAGE.search(path)
    if match:
        return match[1], "attention" if ".attentions." in path else "resnet"
    is_map = first_tensor(output).ndim == 4
    return "map" if is_map else "tokens", "block"
