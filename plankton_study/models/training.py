"""One training loop for the denoiser and every other trained network, under Accelerate.

Everything random in a step (order, augmentation, noise) is drawn from a generator that is seeded
by (seed, step). So a checkpoint of weights, moving average, optimiser, learning-rate schedule and
step number is enough to continue exactly.
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
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import update_bn
from torch.utils.flop_counter import FlopCounterMode

from plankton_study.images.splits import Splits
from plankton_study.models.batches import StepRandomness, batch_rows, flip_and_turn, to_input
from plankton_study.models.precision import resolved_precision, to_device, uses_bfloat16
from plankton_study.run.cache import CHECKPOINT, digest
from plankton_study.run.errors import StudyError, first_sentence
from plankton_study.run.files import read_json, write_file, write_json
from plankton_study.run.machine import processes
from plankton_study.run.progress import progress
from plankton_study.run.study import Study

#: modules whose code turns images and a loss into trained weights
SHAPED_BY = ("models.training", "models.batches", "models.precision")

#: (model, x (B, 1, R, R) in [-1, 1], rows (B,), randomness of the step) → scalar loss
StepLoss = Callable[[torch.nn.Module, torch.Tensor, np.ndarray, StepRandomness], torch.Tensor]

CURVE_POINTS = 10
MAX_HELD_OUT_IMAGES = 256
#: images used to recompute the batch-normalisation statistics for the averaged weights
IMAGES_FOR_STATISTICS = 1024


@dataclass(frozen=True)
class TrainingImages:
    """The images of one training run.

    Attributes:
        images: (N, R, R) uint8, of the whole collection.
        rows: rows to train on.
        held_out: rows on which the learning curve is measured.
    """

    images: np.ndarray
    rows: np.ndarray
    held_out: np.ndarray


def images_to_see(study: Study, splits: Splits) -> int:
    """Return the number of images that every network sees when trained on a set."""
    config = study.profile.sets[splits.collection.name]
    return config.images_seen or study.profile.training.images_seen


def choose_held_out(validation: np.ndarray) -> np.ndarray:
    """Return the validation rows on which learning curves are measured, sorted."""
    shuffled = np.random.default_rng(0).permutation(validation)
    return np.sort(shuffled[:MAX_HELD_OUT_IMAGES])


def training_inputs(
    study: Study, splits: Splits, rows: np.ndarray, held_out: np.ndarray, images_seen: int
) -> dict[str, Any]:
    """Return what determines a training run besides network and loss, for the cache key."""
    settings = study.profile.training.model_dump(exclude={"checkpoint_seconds", "images_seen"})
    # on another machine, "auto" may mean another precision, which gives other weights
    settings["precision"] = resolved_precision(settings["precision"], study.device)
    return {
        "images": splits.collection.digest,
        "rows": digest(rows),
        "held out": digest(held_out),
        "training": settings,
        "images_seen": images_seen,
        "size": study.profile.images.size,
        "seed": study.seed,
    }


def training_cost(folder: Path) -> dict[str, float]:
    """Return the cost that `Trainer` wrote to a folder; empty for models not trained here."""
    path = folder / "cost.json"
    return read_json(path) if path.is_file() else {}


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
        self.steps = max(images_seen // self.config.batch_size, 1)
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
        self.schedule = get_cosine_schedule_with_warmup(
            self.optimiser, round(self.config.warmup * self.steps), self.steps
        )
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.losses: list[torch.Tensor] = []  # since the last point of the curve
        self.first_loss = math.nan
        self.started = self.saved = time.monotonic()
        self.seconds_before = 0.0  # of earlier, interrupted runs

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
                if self.step in self._curve_steps():
                    self._add_curve_point()
                if self._is_checkpoint_due():
                    self._save_checkpoint()
        self._use_average()
        self.accelerator.free_memory()
        self.team.wait()
        if self.team.is_first:
            self._write_results(flops)

    def _train_step(self) -> None:
        rows = batch_rows(self.data.rows, self.step, self.config.batch_size, self.seed)
        loss = self._batch_loss(self.wrapped, rows, [self.seed, self.step], self.team.own_share)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.config.clip)
        self.optimiser.step()
        self.schedule.step()
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
        x = to_input(self.data.images[rows])
        if self.model.training:
            x = flip_and_turn(x, generator)
        randomness = StepRandomness(generator, len(rows), own_share)
        own_images = x[own_share].to(self.accelerator.device)
        return self.step_loss(network, own_images, rows[own_share], randomness)

    # --- the learning curve

    def _curve_steps(self) -> set[int]:
        points = range(1, CURVE_POINTS + 1)
        return {round(self.steps * point / CURVE_POINTS) for point in points}

    def _add_curve_point(self) -> None:
        mean = self.accelerator.reduce(torch.stack(self.losses).mean(), "mean").item()
        if not math.isfinite(mean):
            raise StudyError(
                f"{self.label}: the loss is no longer finite; "
                "lower the learning rate in the profile"
            )
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
            yield to_input(self.data.images[part], self.accelerator.device)

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

    def _save_checkpoint(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "curve": self.curve,
            "losses": self.losses,
            "first_loss": self.first_loss,
            "seconds": self._seconds(),
        }
        save_checkpoint(self.folder / CHECKPOINT, state)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        """Continue from the folder's checkpoint, if there is one."""
        if self.team.is_first:
            for unfinished in self.folder.glob(f".{CHECKPOINT}.*"):  # left by a killed run
                unfinished.unlink()
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        device = next(self.model.parameters()).device
        try:
            state = torch.load(path, map_location=device, weights_only=True)  # runs no code
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
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


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    content = io.BytesIO()  # torch does not report a full disk, `write_file` does
    torch.save(state, content)
    write_file(path, content.getvalue())
