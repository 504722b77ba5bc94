"""Extraction against the bare passes, a pass for each cell, naive hooks, and the machine's own rates."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from timing import row, side_by_side
from torch.utils.flop_counter import FlopCounterMode

from plankton_study import diffusion, encoders, features, study, train
from plankton_study.features import Cell

TIMESTEPS = (15, 100)


class Deepest(Exception):
    """Ends a pass."""


def stop(*_: object) -> None:
    raise Deepest


def best_rate(make, flops, rounds: int = 7) -> float:
    """Return the best FLOP/s of a call over some repetitions."""
    call = make()
    call()
    return flops / side_by_side({"it": call}, rounds)["it"].min()


def machine(dtype: torch.dtype, device: str) -> tuple[float, float]:
    """Return the best rates of 3 x 3 convolutions and of matrix products over common shapes, FLOP/s."""
    convolutions, products = [], []
    for channels, side, batch in (
        (64, 32, 32),
        (128, 16, 32),
        (128, 32, 32),
        (256, 16, 32),
        (256, 32, 16),
        (512, 16, 16),
    ):
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(
            device, dtype, memory_format=torch.channels_last
        )
        x = torch.randn(batch, channels, side, side, device=device, dtype=dtype).to(
            memory_format=torch.channels_last
        )
        flops = 2 * 9 * channels**2 * side**2 * batch
        convolutions.append(
            best_rate(lambda layer=layer, x=x: lambda: synchronised(device, layer, x), flops)
        )
    for side in (512, 1024, 2048):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        products.append(
            best_rate(lambda a=a, b=b: lambda: synchronised(device, torch.mm, a, b), 2 * side**3)
        )
    return max(convolutions), max(products)


def synchronised(device: str, call, *given: torch.Tensor) -> None:
    with torch.no_grad():
        call(*given)
    if device == "cuda":
        torch.cuda.synchronize()


def measure(images: int = 1024) -> list[dict]:
    """Return the rows of this section: the U-Net of `quick` at 32 px, all taps, two noise levels."""
    s = study.load("quick", 0)
    config, size = s.profile.features, s.profile.images.size
    settings = config.model_copy(update={"timesteps": TIMESTEPS})
    unet = diffusion.build_unet(s.profile.unet, size, 0).to(s.device)
    scheduler = diffusion.build_scheduler(s.profile.noise)
    encoder = encoders.DiffusionEncoder("bench", unet, scheduler, settings)
    pictures = np.random.default_rng(0).integers(0, 256, (images, size, size), dtype=np.uint8)
    collection = SimpleNamespace(
        images=pictures, records=pd.DataFrame({"id": map(str, range(images))}), name="bench"
    )
    batches = [pictures[i : i + config.batch_size] for i in range(0, images, config.batch_size)]
    taps = [encoder.taps[cell.layer] for cell in encoder.cells if cell.timestep == TIMESTEPS[0]]
    deepest = max(taps, key=lambda tap: tap.order)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            features._extract(
                study.ALONE, encoder, collection, np.arange(images), config.batch_size, Path(folder)
            )

    prepared = [(encoder.inputs(batch, [], t, 0)) for t in TIMESTEPS for batch in batches]

    def bare() -> None:
        handle = unet.get_submodule(deepest.path).register_forward_hook(stop)
        with torch.no_grad(), train.autocast(config.precision, s.device):
            for inputs in prepared:
                try:
                    unet(*inputs)
                except Deepest:
                    continue
        if s.device == "cuda":
            torch.cuda.synchronize()
        handle.remove()

    def pass_for_each_cell() -> None:  # as DDAE does: one layer, one noise level, the whole network
        for batch in batches[:1]:
            for tap in taps:
                found = {}
                keep = unet.get_submodule(tap.path).register_forward_hook(
                    lambda module, given, out, found=found: found.update(x=out)
                )
                with torch.no_grad(), train.autocast(config.precision, s.device):
                    unet(*encoder.inputs(batch, [], TIMESTEPS[0], 0))
                keep.remove()
                features.pool(found["x"], config.pooling).cpu().numpy()

    def naive() -> None:  # full maps of all layers on the host, pooled when all are there
        maps: dict[str, list[torch.Tensor]] = {tap.name: [] for tap in taps}
        hooks = [
            unet.get_submodule(tap.path).register_forward_hook(
                lambda module, given, out, name=tap.name: maps[name].append(out.float().cpu())
            )
            for tap in taps
        ]
        with torch.no_grad(), train.autocast(config.precision, s.device):
            for batch in batches:
                unet(*encoder.inputs(batch, [], TIMESTEPS[0], 0))
        for hook in hooks:
            hook.remove()
        for kept in maps.values():
            features.pool(torch.cat(kept), config.pooling)

    times = side_by_side({"ours": ours, "bare": bare, "each": pass_for_each_cell, "naive": naive})
    rows = [
        row(
            "extraction",
            "over the bare passes it needs",
            times["ours"] / times["bare"],
            "at most 1.10",
        )
    ]
    rows[-1]["met"] = bool(rows[-1]["median"] <= 1.1)
    each = (
        times["each"] / config.batch_size / (times["ours"] / images / len(TIMESTEPS))
    )  # seconds an image and level
    rows.append(
        row(
            "extraction",
            "a pass for each layer and noise level takes",
            each,
            f"at least {len(taps)} (layers)",
        )
    )
    rows[-1]["met"] = rows[-1]["median"] >= len(taps)
    rows.append(
        row(
            "extraction",
            "naive hooks that keep full maps take",
            times["naive"] * len(TIMESTEPS) / times["ours"],
        )
    )
    kept = sum(tap.channels * tap.resolution**2 for tap in taps) / sum(
        2 * tap.channels for tap in taps
    )
    rows.append(row("extraction", "and keep so many more numbers", np.array([kept])))

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        read = features.tapped(unet, taps)
        with read as call:
            call(*encoder.inputs(pictures[:1], [], TIMESTEPS[0], 0))
    flops = counter.get_total_flops() * images * len(TIMESTEPS)
    dtype = torch.bfloat16 if train.bfloat16(config.precision, s.device) else torch.float32
    convolution, product = machine(dtype, s.device)
    name = str(dtype).removeprefix("torch.")
    share = flops / times["ours"] / convolution
    rows.append(
        row(
            "extraction",
            f"share of the best {name} convolution rate",
            share,
            "at least 0.5",
            unit="",
        )
    )
    rows[-1]["met"] = rows[-1]["median"] >= 0.5
    rows.append(
        row(
            "extraction",
            f"share of the best {name} matrix rate",
            flops / times["ours"] / product,
            unit="",
        )
    )
    exact = encoders.DiffusionEncoder(
        "exact", unet, scheduler, settings.model_copy(update={"precision": "float32"})
    )
    cells = [Cell(tap.name, TIMESTEPS[0]) for tap in taps]
    both = [e.encode(batches[0], [], cells) for e in (encoder, exact)]
    away = [np.abs(both[0][cell] - both[1][cell]).mean() / both[1][cell].std() for cell in cells]
    rows.append(
        row(
            "extraction",
            f"{name} features off from float32 (of a standard deviation)",
            np.array(away),
            "at most 0.02",
            unit="",
        )
    )
    rows[-1]["met"] = bool(rows[-1]["high"] <= 0.02)
    rates = {"images a second and noise level": images * len(TIMESTEPS) / np.median(times["ours"])}
    rates |= {
        "flops an image": flops / images / len(TIMESTEPS),
        "best convolution GFLOP/s": convolution / 1e9,
    }
    rows[0]["about"] = rates | {
        "best matrix GFLOP/s": product / 1e9,
        "precision": name,
        "layers": len(taps),
    }
    return rows
