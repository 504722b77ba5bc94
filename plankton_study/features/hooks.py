"""Forward hooks: read all taps of a frozen network in one pass that ends at the deepest one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch

from plankton_study.features.pooling import pool
from plankton_study.features.taps import Tap


class _DeepestTapReached(Exception):
    """Raised by the hook of the deepest tap, since later layers are not needed."""


@contextmanager
def tapped(
    model: torch.nn.Module, taps: list[Tap], pooling: str = "mean_std"
) -> Iterator[Callable[..., dict[str, torch.Tensor]]]:
    """Yield a function that calls the model and returns the features of its taps.

    The function takes the model's arguments and returns tap name → (B, C') float32, on the
    model's device. The pass ends at the deepest tap. Leaving the context removes the hooks, also
    after an error.

    Args:
        model: any network; it is not changed.
        taps: from `find_taps`.
        pooling: see `pool`.
    """
    features: dict[str, torch.Tensor] = {}
    deepest = max(taps, key=lambda tap: tap.order)

    def record(tap: Tap, module: torch.nn.Module, args: Any, output: Any) -> None:
        features[tap.name] = pool(output, pooling)
        if tap == deepest:
            raise _DeepestTapReached

    @torch.no_grad()
    def read(*inputs: Any) -> dict[str, torch.Tensor]:
        features.clear()
        with suppress(_DeepestTapReached):
            model(*inputs)
        return dict(features)

    with ExitStack() as hooks:
        for tap in taps:
            module = model.get_submodule(tap.path)
            hooks.enter_context(module.register_forward_hook(partial(record, tap)))
        yield read
