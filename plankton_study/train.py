"""One training loop for the denoiser and every other trained encoder, under Accelerate.

Everything random in a step (order, augmentation, noise) is drawn from a generator seeded by (seed, step). A checkpoint
therefore needs weights, moving average, optimiser and step to continue exactly where it was written.
"""

import copy
import io
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import update_bn
from torch.utils.flop_counter import FlopCounterMode

from plankton_study.profile import StudyError, reason
from plankton_study.progress import progress
from plankton_study.schema import Training
from plankton_study.splits import Splits
from plankton_study.store import digest, write, write_json
from plankton_study.study import Study


class Chance(NamedTuple):
    """The chance of a step: drawn for its whole batch in every process, each of which takes its own images' part."""

    generator: torch.Generator
    batch: int
    mine: slice

    def __call__(self, draw: Callable[..., torch.Tensor], *shape: int) -> torch.Tensor:
        """Return what e.g. `torch.randn` draws, (images of this process, *shape)."""
        return draw((self.batch, *shape), generator=self.generator)[self.mine]


StepLoss = Callable[[torch.nn.Module, torch.Tensor, np.ndarray, Chance], torch.Tensor]


def to_model(images: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return uint8 images (N, R, R) as the float32 tensor (N, 1, R, R) in [-1, 1] that every network reads."""
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return (x.float() / 127.5 - 1).unsqueeze(1)


def flips_and_turns(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Give each image of (N, C, R, R) one of the 8 flips and quarter turns: plankton has no upright."""
    which = torch.randint(8, (len(x),), generator=generator)
    for kind in range(1, 8):
        chosen = which == kind
        turned = torch.rot90(x[chosen], kind % 4, (2, 3))
        x[chosen] = turned.flip(3) if kind >= 4 else turned
    return x


def bfloat16(wanted: str, device: str) -> bool:
    """Say whether to compute in bfloat16: "auto" does where the hardware has it, since emulated it is far slower."""
    if wanted != "auto":
        return wanted == "bfloat16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(wanted: str, device: str) -> Any:
    """Return the autocast context of a precision key of the profile."""
    return torch.autocast(device, torch.bfloat16) if bfloat16(wanted, device) else nullcontext()


def to_device(model: torch.nn.Module, wanted: str, device: str) -> torch.nn.Module:
    """Move a network to a device in the layout that is fastest there for a precision key of the profile.

    Channels last, but on a processor in bfloat16 group norm would take three times as long in it, its gradient eight.
    """
    norms = any(isinstance(module, torch.nn.GroupNorm) for module in model.modules())
    plain = norms and device == "cpu" and bfloat16(wanted, device)
    return model.to(device, memory_format=torch.contiguous_format if plain else torch.channels_last)


def learning_rate(step: int, steps: int, config: Training) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine down to zero."""
    warm = max(round(config.warmup * steps), 1)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def batch_rows(rows: np.ndarray, step: int, batch: int, seed: int) -> np.ndarray:
    """Return the rows of a step: the pool is shuffled anew each pass, and no image waits longer than that."""
    places = np.arange(step * batch, (step + 1) * batch)
    epochs, within = np.divmod(places, len(rows))
    each = [_order(len(rows), seed, epoch)[within[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
    return rows[np.concatenate(each)]


@lru_cache(maxsize=2)  # else every step would shuffle the whole pool
def _order(number: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(number)


def budget(study: Study, splits: Splits) -> int:
    """Return how many images every training on a set sees: the comparison's primary equality."""
    return study.profile.sets[splits.collection.name].images_seen or study.profile.training.images_seen


def held_out_rows(validation: np.ndarray, most: int = 256) -> np.ndarray:
    """Return those of the rows that learning curves and losses per noise level are measured on, sorted."""
    return np.sort(np.random.default_rng(0).permutation(validation)[:most])


def inputs(study: Study, splits: Splits, rows: np.ndarray, held_out: np.ndarray, images_seen: int) -> dict[str, Any]:
    """Return what determines a training besides its network and loss (JSON values), for the cache's key."""
    return {
        "images": splits.collection.digest,
        "rows": digest(rows),
        "held out": digest(held_out),
        "training": study.profile.training.model_dump(exclude={"checkpoint_seconds", "images_seen"}),
        "images_seen": images_seen,
        "size": study.profile.images.size,
        "seed": study.seed,
    }


def cost(folder: Path) -> dict[str, float]:
    """Return the `cost.json` that `fit` left in a folder; nothing for a model made elsewhere."""
    path = folder / "cost.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def fit(
    study: Study,
    folder: Path,
    model: torch.nn.Module,
    step_loss: StepLoss,
    images: np.ndarray,
    rows: np.ndarray,
    images_seen: int,
    what: str,
    held_out: np.ndarray,
    changes: dict[str, Any] | None = None,
) -> None:
    """Train a model in place and leave its moving average in it; continue if the folder holds a checkpoint.

    The folder gets `curve.csv` (images_seen, loss: mean since the last row, held_out: loss on images not trained on)
    and `cost.json` (parameters, images_seen, batch_size, flops an image seen, forward and backward; seconds).

    Args:
        study: gives `profile.training`, the seed and the device; `folder` keeps a checkpoint until `store.keep` ends.
        model: any module; ends in evaluation mode.
        step_loss: (model, x (B, 1, R, R) in [-1, 1], rows (B,), chance) → scalar loss.
        images, rows: (N, R, R) uint8, and the int64 rows to train on.
        images_seen: the budget; steps = images_seen / batch size. `what` is shown with the progress.
        held_out: rows for the learning curve.
        changes: keys of `profile.training` that differ for this model.

    Raises:
        StudyError: the loss is no longer finite, or the checkpoint does not fit the model.
    """
    config = study.profile.training.model_copy(update=changes or {})
    team = study.team
    # an earlier fit may have had another precision
    AcceleratorState._reset_state(reset_partial_state=team.num_processes == 1)
    mixed = "bf16" if bfloat16(config.precision, study.device) else "no"
    accelerator = Accelerator(cpu=study.device == "cpu", mixed_precision=mixed)
    if config.batch_size % team.num_processes:
        raise StudyError(f"{what}: {team.num_processes} processes cannot share batches of {config.batch_size} images")
    to_device(model, config.precision, study.device).train()
    average = EMAModel(model.parameters(), decay=config.ema, foreach=True)
    rates = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    optimiser = torch.optim.AdamW(model.parameters(), **rates, fused=True)
    checkpoint = folder / "checkpoint.pt"
    for half in folder.glob(".checkpoint.pt.*") if team.is_main_process else ():  # of a run that was killed
        half.unlink()
    step, curve, losses, spent = 0, [], [], 0.0
    if checkpoint.exists():
        step, curve, losses, spent = _restore(checkpoint, model, average, optimiser)
    wrapped, optimiser = accelerator.prepare(model, optimiser)
    steps = max(images_seen // config.batch_size, 1)
    marks = {round(steps * part / 10) for part in range(1, 11)}
    started = time.monotonic() - spent
    saved = time.monotonic()

    mine = slice(team.process_index, None, team.num_processes)

    def batch_loss(chosen: np.ndarray, seeds: list[int], network: torch.nn.Module, mine: slice) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        torch.manual_seed(generator.initial_seed())  # of crops, jitter and dropout
        x = to_model(images[chosen])
        x = flips_and_turns(x, generator) if model.training else x
        chance = Chance(generator, len(chosen), mine)
        return step_loss(network, x[mine].to(accelerator.device), chosen[mine], chance)

    some = np.random.default_rng(study.seed).permutation(rows)[:1024]
    some = np.array_split(some, max(len(some) // 128, 1))

    def settle() -> None:
        average.copy_to(model.parameters())
        with torch.no_grad(), accelerator.autocast():  # averaged weights need batch statistics of their own
            update_bn((to_model(images[part], accelerator.device) for part in some), model)
        model.eval()

    def check() -> float:
        with torch.no_grad(), accelerator.autocast():
            parts = list(enumerate(np.array_split(held_out, -(-len(held_out) // config.batch_size))))
            own = [batch_loss(part, [0, number], model, slice(None)).item() for number, part in parts[mine]]
            return float(np.mean(gather_object(own)))

    twin, counter = copy.deepcopy(model).train(), FlopCounterMode(display=False)  # counting must not touch the model
    with sdpa_kernel(SDPBackend.MATH), counter:  # other kinds of attention are not counted on every device
        batch_loss(batch_rows(rows, 0, config.batch_size, study.seed), [study.seed, 0], twin, mine).backward()
    with progress(what, steps, step) as bar:
        while step < steps:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps, config)
            chosen = batch_rows(rows, step, config.batch_size, study.seed)
            loss = batch_loss(chosen, [study.seed, step], wrapped, mine)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(wrapped.parameters(), config.clip)
            optimiser.step()
            optimiser.zero_grad()
            average.step(model.parameters())
            losses.append(loss.detach())
            step += 1
            bar.update()
            if step in marks:
                mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
                if not math.isfinite(mean):
                    raise StudyError(f"{what}: the loss is no longer finite; lower the learning rate in the profile")
                average.store(model.parameters())
                settle()
                seen = step * config.batch_size
                curve.append({"images_seen": seen, "loss": mean, "held_out": check()})
                model.train()
                average.restore(model.parameters())
                losses.clear()
            if team.is_main_process and (step == steps or time.monotonic() - saved > config.checkpoint_seconds):
                state = {"model": model.state_dict(), "average": average.state_dict(), "step": step, "curve": curve}
                state |= {"optimiser": optimiser.state_dict(), "losses": losses, "seconds": time.monotonic() - started}
                _save(checkpoint, state)
                saved = time.monotonic()
    settle()
    accelerator.free_memory()
    team.wait_for_everyone()
    if not team.is_main_process:
        return
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    cost = {"parameters": sum(p.numel() for p in model.parameters()), "images_seen": steps * config.batch_size}
    cost |= {"batch_size": config.batch_size, "seconds": round(time.monotonic() - started, 1)}
    cost["flops"] = counter.get_total_flops() * team.num_processes / config.batch_size
    write_json(folder / "cost.json", cost)


def _save(path: Path, state: dict[str, Any]) -> None:
    content = io.BytesIO()  # torch itself would not say that the disk is full
    torch.save(state, content)
    write(path, content.getvalue())


def _restore(path: Path, model: torch.nn.Module, average: EMAModel, optimiser: torch.optim.Optimizer) -> list[Any]:
    try:
        state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)  # runs no code
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        return [state[key] for key in ("step", "curve", "losses", "seconds")]
    except Exception as error:  # of the archive, its content, or the shapes in it
        raise StudyError(f"the checkpoint {path} is damaged or of another model ({reason(error)}): delete it") from None
