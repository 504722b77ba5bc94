"""Training against the loop of diffusers' unconditional example with its defaults: same U-Net, same images."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.optimization import get_cosine_schedule_with_warmup
from PIL import Image
from timing import row, side_by_side
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from plankton_study import diffusion, study, train


class Files(Dataset):
    """Image files, opened and normalised one at a time, as the example's data set of images is."""

    def __init__(self, folder: Path, size: int) -> None:
        self.files, self.size = sorted(folder.glob("*.png")), size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        image = (
            Image.open(self.files[row])
            .convert("L")
            .resize((self.size, self.size), Image.Resampling.BILINEAR)
        )
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else image
        return torch.from_numpy(np.asarray(image, np.float32))[None] / 127.5 - 1


def example(
    unet: torch.nn.Module, scheduler: torch.nn.Module, files: Files, seen: int, device: str
) -> float:
    """Train as the example does by default: AdamW at 1e-4, batches of 16, float32, gradients clipped, cosine rate."""
    AcceleratorState._reset_state(reset_partial_state=True)  # of another precision
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    optimiser = torch.optim.AdamW(
        unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    loader = DataLoader(files, batch_size=16, shuffle=True, num_workers=0)
    rate = get_cosine_schedule_with_warmup(optimiser, 500, 100 * len(loader))
    unet, optimiser, loader, rate = accelerator.prepare(unet.train(), optimiser, loader, rate)
    steps = 0
    while True:
        for x in loader:
            noise = torch.randn_like(x)
            timesteps = torch.randint(
                0, scheduler.config.num_train_timesteps, (len(x),), device=x.device
            ).long()
            predicted = unet(scheduler.add_noise(x, noise, timesteps), timesteps).sample
            accelerator.backward(torch.nn.functional.mse_loss(predicted.float(), noise.float()))
            accelerator.clip_grad_norm_(unet.parameters(), 1.0)
            optimiser.step()
            rate.step()
            optimiser.zero_grad()
            steps += 1
            if steps * 16 >= seen:
                return x.sum().item()  # waits for a GPU


def bound(call: Callable[[], object]) -> float:
    """Return how much faster a call would be if all but its convolutions, products and attention took no time."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=kinds) as seen:
        call()
    times = {e.key: e.self_device_time_total or e.self_cpu_time_total for e in seen.key_averages()}
    heavy = re.compile("convolution|::(add|b)?mm$|scaled_dot_product|gemm|conv|attention", re.I)
    return sum(times.values()) / sum(time for key, time in times.items() if heavy.search(key))


def measure(seen: int = 1280, rounds: int = 3) -> list[dict]:
    """Return the rows of this section: the U-Net of `quick` at 32 px."""
    s = study.load("quick", 0)
    size, config, scheduler = (
        s.profile.images.size,
        s.profile.training,
        diffusion.build_scheduler(s.profile.noise),
    )
    pictures = np.random.default_rng(0).integers(0, 256, (seen, size, size), dtype=np.uint8)

    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(Path(folder) / f"{number:05d}.png")
        files = Files(Path(folder), size)
        every = np.arange(seen)

        def ours() -> None:
            unet = diffusion.build_unet(s.profile.unet, size, 0)
            with tempfile.TemporaryDirectory() as to:
                train.fit(
                    s,
                    Path(to),
                    unet,
                    diffusion.step_loss(scheduler),
                    pictures,
                    every,
                    seen,
                    "bench",
                    every[:32],
                )

        def theirs() -> None:
            example(diffusion.build_unet(s.profile.unet, size, 0), scheduler, files, seen, s.device)

        times = side_by_side({"ours": ours, "theirs": theirs}, rounds)
        most = bound(
            lambda: example(
                diffusion.build_unet(s.profile.unet, size, 0), scheduler, files, 320, s.device
            )
        )
        with tempfile.TemporaryDirectory() as to:
            unet = diffusion.build_unet(s.profile.unet, size, 0)
            train.fit(
                s,
                Path(to),
                unet,
                diffusion.step_loss(scheduler),
                pictures,
                every,
                64,
                "bench",
                every[:32],
            )
            flops = train.cost(Path(to))["flops"]
    gain = times["theirs"] / times["ours"]
    found = row(
        "training",
        "images a second over the example's loop",
        gain,
        "at least 1.5",
        np.median(gain) >= 1.5,
    )
    found["about"] = {
        "images a second": seen / np.median(times["ours"]),
        "batch": config.batch_size,
    }
    found["about"]["flops an image"] = flops
    what = "the example's time over that of its convolutions and products alone"
    return [found, row("training", what, np.array([most]))]
