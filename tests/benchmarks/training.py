"""Training against the loop of diffusers' unconditional example with its defaults.

Both train the same U-Net on the same images.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from diffusers.optimization import get_cosine_schedule_with_warmup
from pictures import random_images
from PIL import Image
from timing import result_row, time_in_turn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from plankton_study.models.batches import MINUS_ONE_TO_ONE
from plankton_study.models.diffusion.denoiser import batch_denoising_loss
from plankton_study.models.diffusion.noise_schedule import build_scheduler
from plankton_study.models.networks.unet import build_unet, to_unet
from plankton_study.models.recipe import training_cost
from plankton_study.models.training import Trainer, TrainingImages
from plankton_study.run.study import Study, load_study

SECTION = "training"
#: the row that also holds the rates
GAIN = "images a second over the example's loop"
HELD_OUT_IMAGES = 32
PROFILED_IMAGES = 320
#: enough to learn the FLOPs of an image
FEW_IMAGES = 64

EXAMPLE_BATCH_SIZE = 16
EXAMPLE_EPOCHS = 100
EXAMPLE_WARMUP_STEPS = 500
#: operations of convolutions, matrix products and attention, in PyTorch's and CUDA's names
HEAVY_OPERATION = re.compile(
    "convolution|::(add|b)?mm$|scaled_dot_product|gemm|conv|attention", re.IGNORECASE
)


class ImageFiles(Dataset):
    """Image files that are opened and normalised one at a time, as in the example."""

    def __init__(self, folder: Path, size: int) -> None:
        self.files = sorted(folder.glob("*.png"))
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        image = Image.open(self.files[row]).convert("L")
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.asarray(image, np.float32))[None] / 127.5 - 1


def write_images(folder: Path, images: np.ndarray) -> None:
    """Write images as PNG files."""
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:05d}.png")


def train_as_study(
    study: Study,
    folder: Path,
    images: np.ndarray,
    rows: np.ndarray,
    held_out: np.ndarray,
    images_seen: int,
) -> None:
    """Train the study's U-Net as the study does; see `Trainer` for the arguments."""
    profile = study.profile
    unet = build_unet(profile.unet, profile.images.size, study.seed)
    loss = batch_denoising_loss(profile.noise, profile.unet.unshuffle)
    data = TrainingImages(images, rows, held_out, MINUS_ONE_TO_ONE)
    Trainer(study, folder, unet, loss, data, images_seen, label="bench").run()


def train_as_example(
    unet: torch.nn.Module,
    scheduler: DDPMScheduler,
    files: ImageFiles,
    images_seen: int,
    device: str,
) -> None:
    """Train as the example does by default.

    It uses AdamW at 1e-4 with a cosine rate, batches of 16 in float32, and clipped gradients.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # it may have another precision
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    optimiser = torch.optim.AdamW(
        unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    loader = DataLoader(files, batch_size=EXAMPLE_BATCH_SIZE, shuffle=True, num_workers=0)
    all_steps = EXAMPLE_EPOCHS * len(loader)
    rate = get_cosine_schedule_with_warmup(optimiser, EXAMPLE_WARMUP_STEPS, all_steps)
    unet, optimiser, loader, rate = accelerator.prepare(unet.train(), optimiser, loader, rate)
    steps = -(-images_seen // EXAMPLE_BATCH_SIZE)
    for x in islice(_batches_of_all_epochs(loader), steps):
        accelerator.backward(_example_loss(unet, scheduler, x))
        accelerator.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        rate.step()
        optimiser.zero_grad()
    next(unet.parameters()).sum().item()  # waits for a GPU


def _batches_of_all_epochs(loader: DataLoader) -> Iterator[torch.Tensor]:
    while True:
        yield from loader


def _example_loss(unet: torch.nn.Module, scheduler: DDPMScheduler, x: torch.Tensor) -> torch.Tensor:
    squares = isqrt(unet.config.in_channels)
    x = to_unet(x, unet.config.in_channels, squares)
    noise = torch.randn_like(x)
    levels = scheduler.config.num_train_timesteps
    timesteps = torch.randint(0, levels, (len(x),), device=x.device).long()
    predicted = unet(scheduler.add_noise(x, noise, timesteps), timesteps).sample
    target = scheduler.get_velocity(x, noise, timesteps)
    return torch.nn.functional.mse_loss(predicted.float(), target.float())


def time_over_heavy_operations(call: Callable[[], object]) -> float:
    """Return the time of a call over that of its convolutions, products and attention alone.

    It would be so much faster if all the rest took no time.
    """
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        call()
    total = heavy = 0.0
    for event in profiled.key_averages():
        microseconds = event.self_device_time_total or event.self_cpu_time_total
        total += microseconds
        if HEAVY_OPERATION.search(event.key):
            heavy += microseconds
    return total / heavy


class Workload:
    """The U-Net of `quick` at 32 px, and images as an array and as files.

    Args:
        folder: of the image files.
        number: of random images.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.study = load_study("quick", 0)
        size = self.study.profile.images.size
        self.scheduler = build_scheduler(self.study.profile.noise)
        self.images = random_images(number, size)
        write_images(folder, self.images)
        self.files = ImageFiles(folder, size)

    def run_ours(self) -> None:
        """Train on every image once, as the study does."""
        self.cost_of_ours(len(self.images))

    def run_example(self) -> None:
        """Train on every image once, as the example does."""
        self._train_as_example(len(self.images))

    def run_example_briefly(self) -> None:
        """Train as the example does on as many images as are profiled."""
        self._train_as_example(PROFILED_IMAGES)

    def cost_of_ours(self, images_seen: int) -> dict[str, float]:
        """Train as the study does, and return what that costs."""
        rows = np.arange(len(self.images))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            train_as_study(self.study, path, self.images, rows, rows[:HELD_OUT_IMAGES], images_seen)
            return training_cost(path)

    def _train_as_example(self, images_seen: int) -> None:
        profile = self.study.profile
        unet = build_unet(profile.unet, profile.images.size, self.study.seed)
        train_as_example(unet, self.scheduler, self.files, images_seen, self.study.device)


def measure(images: int = 1280, rounds: int = 3) -> list[dict]:
    """Return the rows of this section."""
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(Path(folder), images)
        seconds = time_in_turn({"ours": workload.run_ours, "theirs": workload.run_example}, rounds)
        most = time_over_heavy_operations(workload.run_example_briefly)
        flops = workload.cost_of_ours(FEW_IMAGES)["flops"]
    gain = seconds["theirs"] / seconds["ours"]
    row = result_row(SECTION, GAIN, gain, "at least 1.5", np.median(gain) >= 1.5)
    row["about"] = {
        "images a second": images / np.median(seconds["ours"]),
        "batch": workload.study.profile.training.batch_size,
        "flops an image": flops,
    }
    what = "the example's time over that of its convolutions and products alone"
    return [row, result_row(SECTION, what, most)]
