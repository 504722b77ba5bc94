"""One training loop for the denoiser and every other trained network, under Accelerate.

Everything random in a step (order, augmentation, noise) is drawn from a generator that is seeded
by (seed, step). So a checkpoint of weights, moving average, optimiser and step number is enough to
continue exactly.

The learning rate is constant, and falls to zero only in a short cooldown at the end. So a long
training passes through the states of all shorter ones, and these need only their own cooldown
(Hägele et al. 2024).
"""

import copy
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from plankton_study.models.batches import (
    PixelScale,
    StepRandomness,
    batch_rows,
    flip_and_turn,
    to_input,
)
from plankton_study.models.precision import to_device, uses_bfloat16
from plankton_study.run.cache import CHECKPOINT
from plankton_study.run.errors import StudyError, first_sentence
from plankton_study.run.files import write_file, write_json
from plankton_study.run.machine import processes
from plankton_study.run.progress import progress
from plankton_study.run.study import Study

#: (model, x (B, 1, R, R) standardised, rows (B,), randomness of the step) → scalar loss
StepLoss = Callable[[torch.nn.Module, torch.Tensor, np.ndarray, StepRandomness], torch.Tensor]

#: images seen at the first point of the learning curve; two points follow in each doubling
FIRST_CURVE_POINT = 250
CURVE_POINTS = 48
MAX_HELD_OUT_IMAGES = 256
#: the state of a training without cooldown, from which longer trainings start
STATE = "state.pt"
#: images used to recompute the batch-normalisation statistics for the averaged weights
IMAGES_FOR_STATISTICS = 1024


@dataclass(frozen=True)
class TrainingImages:
    """The images of one training run.

    Attributes:
        images: (N, R, R) uint8, of the whole collection.
        rows: rows to train on.
        held_out: rows on which the learning curve is measured.
        scale: what standardises the pixels.
    """

    images: np.ndarray
    rows: np.ndarray
    held_out: np.ndarray
    scale: PixelScale

    def inputs(self, rows: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
        """Return the standardised pixels of some rows, (n, 1, R, R) float32."""
        return to_input(self.images[rows], self.scale, device)


def choose_held_out(validation: np.ndarray) -> np.ndarray:
    """Return the validation rows on which learning curves are measured, sorted."""
    shuffled = np.random.default_rng(0).permutation(validation)
    return np.sort(shuffled[:MAX_HELD_OUT_IMAGES])


def learning_rate_factor(step: int, warmup: int, cooldown_start: int, steps: int) -> float:
    """Return the share of the full learning rate at a step.

    It rises linearly, stays at 1, and falls to zero as 1 - sqrt(share of the cooldown), the best
    of the shapes that Hägele et al. (2024) compare.

    Args:
        step: counted from 0.
        warmup: number of steps during which the rate rises.
        cooldown_start: the step at which it begins to fall.
        steps: number of all steps.
    """
    rising = min((step + 1) / max(warmup, 1), 1.0)
    if step < cooldown_start:
        return rising
    progressed = (step - cooldown_start + 1) / (steps - cooldown_start + 1)
    return rising * (1 - math.sqrt(progressed))


class Trainer:
    """Trains a model in place; it ends with the moving average of its weights.

    Args:
        study: provides `profile.training`, the seed and the device.
        folder: the output folder, for `curve.csv` (images_seen; loss: mean since the last row;
            held_out: loss on images that are not trained on) and `cost.json` (parameters;
            images_seen; batch_size; flops: per image seen, forward and backward; seconds;
            first_loss: of the first batch, the same on every machine up to rounding). It holds
            a checkpoint until `cache.keep` ends; training continues from an existing one.
        model: the network; it ends in evaluation mode.
        step_loss: the loss of a batch.
        data: the images.
        images_seen: the budget; the number of steps is images_seen / batch size.
        label: text of the progress display.
        changes: keys of `profile.training` that differ for this model.
        has_cooldown: whether the rate falls at the end. Otherwise the folder gets only the state
            of the training, `state.pt`, from which longer trainings start.
        start: state of a shorter training without cooldown, to start from.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        model: torch.nn.Module,
        step_loss: StepLoss,
        data: TrainingImages,
        images_seen: int,
        label: str,
        changes: dict[str, Any] | None = None,
        has_cooldown: bool = True,
        start: Path | None = None,
    ) -> None:
        self.config = study.profile.training.model_copy(update=changes or {})
        self.team = processes()
        if self.config.batch_size % self.team.count:
            raise StudyError(
                f"{label}: {self.team.count} processes cannot share batches of "
                f"{self.config.batch_size} images equally: use a number that divides the batch size"
            )
        self.seed = study.seed
        self.folder = folder
        self.data = data
        self.label = label
        self.step_loss = step_loss
        self.has_cooldown = has_cooldown
        self.start = start
        self.steps = number_of_steps(images_seen, self.config.batch_size)
        self.curve_steps = self._curve_steps()
        self.accelerator = self._make_accelerator(study.device)

        self.model = to_device(model, self.config.precision, study.device).train()
        self.wrapped = self.model  # `run` replaces it by Accelerate's wrapper
        self.average = EMAModel(model.parameters(), decay=self.config.ema, foreach=True)
        self.optimiser = torch.optim.AdamW(
            model.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.losses: list[torch.Tensor] = []  # since the last point of the curve
        self.first_loss = math.nan
        self.started = self.saved = time.monotonic()
        self.seconds_before = 0.0  # of earlier, interrupted runs

    def _set_learning_rate(self) -> None:
        """Set the learning rate of the current step."""
        warmup = self.config.warmup_images // self.config.batch_size
        cooldown_start = self.steps
        if self.has_cooldown:
            cooldown_start = steps_before_cooldown(self.steps, self.config.cooldown)
        factor = learning_rate_factor(self.step, warmup, cooldown_start, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = factor * self.config.learning_rate

    def _make_accelerator(self, device: str) -> Accelerator:
        # an earlier training run in this process may have used another precision
        AcceleratorState._reset_state(reset_partial_state=self.team.count == 1)
        precision = "bf16" if uses_bfloat16(self.config.precision, device) else "no"
        return Accelerator(cpu=device == "cpu", mixed_precision=precision)

    def run(self) -> None:
        """Train until the budget is used up.

        Raises:
            StudyError: the loss is no longer finite, or the checkpoint does not fit the model.
        """
        self._resume()
        self.started = self.saved = time.monotonic()
        flops = self._count_flops()
        self.wrapped, self.optimiser = self.accelerator.prepare(self.model, self.optimiser)
        with progress(self.label, self.steps, self.step) as bar:
            while self.step < self.steps:
                self._train_step()
                bar.update()
                if self.step in self.curve_steps:
                    self._add_curve_point()
                if self._is_checkpoint_due():
                    self._save_checkpoint()
        if self.has_cooldown:
            self._use_average()
        self.accelerator.free_memory()
        self.team.wait()
        if self.team.is_first:
            self._write_results(flops)

    def _train_step(self) -> None:
        self._set_learning_rate()
        rows = batch_rows(self.data.rows, self.step, self.config.batch_size, self.seed)
        loss = self._batch_loss(self.wrapped, rows, [self.seed, self.step], self.team.own_share)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.step(self.model.parameters())
        self.losses.append(loss.detach())
        if self.step == 0:
            self.first_loss = self.accelerator.reduce(loss.detach(), "mean").item()
        self.step += 1

    def _batch_loss(
        self, network: torch.nn.Module, rows: np.ndarray, seeds: list[int], own_share: slice
    ) -> torch.Tensor:
        """Return the loss of one process's part of a batch; `seeds` determine all random draws."""
        seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # for crops, jitter and dropout
        x = self.data.inputs(rows)
        if self.model.training:
            x = flip_and_turn(x, generator)
        randomness = StepRandomness(generator, len(rows), own_share)
        own_images = x[own_share].to(self.accelerator.device)
        return self.step_loss(network, own_images, rows[own_share], randomness)

    # --- the learning curve

    def _curve_steps(self) -> set[int]:
        """Return the steps at which the curve gets a point, whatever the budget, and the last."""
        images = FIRST_CURVE_POINT * 2 ** (np.arange(CURVE_POINTS) / 2)
        steps = {max(round(seen / self.config.batch_size), 1) for seen in images}
        if self.has_cooldown:
            steps.add(self.steps)
        return steps

    def _mean_loss(self) -> float:
        """Return the mean loss since the last point of the curve."""
        mean = torch.stack(self.losses).mean()
        if not torch.isfinite(mean):
            raise StudyError(
                f"{self.label}: the loss is no longer finite; "
                "lower the learning rate in the profile"
            )
        return self.accelerator.reduce(mean, "mean").item()

    def _add_curve_point(self) -> None:
        mean = self._mean_loss()
        self.average.store(self.model.parameters())
        self._use_average()
        point = {
            "images_seen": self.step * self.config.batch_size,
            "loss": mean,
            "held_out": self._held_out_loss(),
        }
        self.curve.append(point)
        self.model.train()
        self.average.restore(self.model.parameters())
        self.losses.clear()

    def _use_average(self) -> None:
        """Copy the averaged weights to the model and set it to evaluation mode.

        Batch-normalisation statistics are recomputed for the averaged weights.
        """
        self.average.copy_to(self.model.parameters())
        with torch.no_grad(), self.accelerator.autocast():
            update_bn(self._statistics_batches(), self.model)
        self.model.eval()

    def _statistics_batches(self) -> Iterator[torch.Tensor]:
        shuffled = np.random.default_rng(self.seed).permutation(self.data.rows)
        rows = shuffled[:IMAGES_FOR_STATISTICS]
        for part in np.array_split(rows, max(len(rows) // 128, 1)):
            yield self.data.inputs(part, self.accelerator.device)

    def _held_out_loss(self) -> float:
        """Return the mean loss on the held-out images, always with the same random draws."""
        batches = -(-len(self.data.held_out) // self.config.batch_size)
        numbered = list(enumerate(np.array_split(self.data.held_out, batches)))
        losses = []
        with torch.no_grad(), self.accelerator.autocast():
            for number, rows in numbered[self.team.own_share]:
                loss = self._batch_loss(self.model, rows, [0, number], slice(None))
                losses.append(loss.item())
        return float(np.mean(gather_object(losses)))

    # --- cost

    def _count_flops(self) -> float:
        """Return the FLOPs per image seen, forward and backward.

        They are counted on a copy, so as not to change the model, and with plain attention, since
        other implementations are not counted on every device.
        """
        copied = copy.deepcopy(self.model).train()
        rows = batch_rows(self.data.rows, 0, self.config.batch_size, self.seed)
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            loss = self._batch_loss(copied, rows, [self.seed, 0], self.team.own_share)
            loss.backward()
        return counter.get_total_flops() * self.team.count / self.config.batch_size

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _write_results(self, flops: float) -> None:
        if not self.has_cooldown:
            save_checkpoint(self.folder / STATE, self._state())
            return
        pd.DataFrame(self.curve).to_csv(self.folder / "curve.csv", index=False)
        cost = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "images_seen": self.steps * self.config.batch_size,
            "batch_size": self.config.batch_size,
            "seconds": round(self._seconds(), 1),
            "flops": flops,
            "first_loss": self.first_loss,
        }
        write_json(self.folder / "cost.json", cost)

    # --- checkpoints

    def _is_checkpoint_due(self) -> bool:
        is_last = self.step == self.steps
        is_time = time.monotonic() - self.saved > self.config.checkpoint_seconds
        return self.team.is_first and (is_last or is_time)

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "curve": self.curve,
            "losses": self.losses,
            "first_loss": self.first_loss,
            "seconds": self._seconds(),
        }

    def _save_checkpoint(self) -> None:
        if self.losses and not torch.isfinite(self.losses[-1]):
            self._mean_loss()  # stops the training, so that no broken state is kept
        save_checkpoint(self.folder / CHECKPOINT, self._state())
        self.saved = time.monotonic()

    def _resume(self) -> None:
        """Continue from the folder's checkpoint, or from the state of a shorter training."""
        if self.team.is_first:
            for unfinished in self.folder.glob(f".{CHECKPOINT}.*"):  # left by a killed run
                unfinished.unlink()
        path = self.folder / CHECKPOINT
        if not path.exists():
            path = self.start
        if path is None:
            return
        device = next(self.model.parameters()).device
        try:
            state = torch.load(path, map_location=device, weights_only=True)  # runs no code
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]
            self.curve = state["curve"]
            self.losses = state["losses"]
            self.first_loss = state["first_loss"]
            self.seconds_before = state["seconds"]
        except Exception as error:  # a broken archive, missing entries, or other shapes
            raise StudyError(
                f"the checkpoint {path} is damaged or of another model "
                f"({first_sentence(error)}): delete it"
            ) from None


def number_of_steps(images_seen: int, batch_size: int) -> int:
    """Return the number of whole batches in a budget, at least one."""
    return max(images_seen // batch_size, 1)


def steps_before_cooldown(steps: int, cooldown: float) -> int:
    """Return the number of steps at the constant rate.

    Args:
        steps: number of all steps.
        cooldown: its share.
    """
    return steps - round(cooldown * steps)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    content = io.BytesIO()  # torch does not report a full disk, `write_file` does
    torch.save(state, content)
    write_file(path, content.getvalue())
