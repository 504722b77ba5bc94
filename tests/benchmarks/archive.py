"""What an archive of WHOI-Plankton's size would cost, from the rates measured in the same run."""

import numpy as np
import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plankton_study import diffusion, encoders
from plankton_study.profile import read_profile

IMAGES = 3_400_000
PROFILES = ("quick", "whoi")


def costs(about: dict[str, dict]) -> pd.DataFrame:
    """Return a row a step: FLOPs, hours on this machine and gigabytes for the U-Nets of two profiles.

    `about` holds what the sections measured. Work is scaled by FLOPs (training, features), by the square of the number
    of features (ridge) and by the number of images; the machine is taken to reach the same FLOP/s in every network.
    """
    extraction, training = (
        about["over the bare passes it needs"],
        about["images a second over the example's loop"],
    )
    read_rate = extraction["flops an image"] * extraction["images a second and noise level"]
    train_rate = training["flops an image"] * training["images a second"]
    stages = {what.partition(",")[0]: entry for what, entry in about.items() if "numbers" in entry}
    seconds = {
        name: stages[name]["seconds"][-1] / stages[name]["numbers"][-1]
        for name in ("reading", "ridge")
    }
    memory = IMAGES * max(stages[name]["bytes an image"] for name in ("reading", "splits")) / 1e9
    rows: dict[str, dict[str, str]] = {}
    for name in PROFILES:
        profile = read_profile(name)
        size, settings = profile.images.size, profile.features
        unet = diffusion.build_unet(profile.unet, size, 0)
        encoder = encoders.DiffusionEncoder(
            name, unet, diffusion.build_scheduler(profile.noise), settings
        )
        x = torch.zeros(1, 1, size, size)
        with (
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):  # counted as in `train.fit`
            unet.train().requires_grad_(True)(x, 0).sample.sum().backward()
        training_flops = IMAGES * counter.get_total_flops()
        images = np.zeros((1, size, size), np.uint8)
        at = settings.timesteps[0]
        with FlopCounterMode(display=False) as counter:
            encoder.encode(images, [""], [cell for cell in encoder.cells if cell.timestep == at])
        features_flops = IMAGES * len(settings.timesteps) * counter.get_total_flops()
        widths = np.array([2 * encoder.layers["channels"][cell.layer] for cell in encoder.cells])
        shown = f"U-Net of `{name}`, {size} px"
        ridge = seconds["ridge"] * IMAGES * np.square(widths / 64).sum()
        layers = len(encoder.cells) // len(settings.timesteps)
        steps = {
            "reading and resizing the images": (
                0,
                seconds["reading"] * IMAGES,
                IMAGES * size**2 / 1e9,
            ),
            "training the denoiser, each image once": (
                training_flops,
                training_flops / train_rate,
                0,
            ),
            "reading its features": (
                features_flops,
                features_flops / read_rate,
                4 * IMAGES * widths.sum() / 1e9,
            ),
            "ridge probes of all cells, all images": (0, ridge, 0),
        }
        for step, (flops, took, gigabytes) in steps.items():
            hours = f"{took / 3600:,.0f}" if took > 36_000 else f"{took / 3600:.2g}"
            parts = [
                f"{flops / 1e18:.2g} EFLOP" if flops else "",
                f"{hours} h",
                f"{gigabytes:.3g} GB" if gigabytes else "",
            ]
            rows.setdefault(step, {})[shown] = ", ".join(part for part in parts if part)
        rows.setdefault("memory that the table of all images needs", {})[shown] = f"{memory:.2g} GB"
        rows.setdefault("layers × noise levels", {})[shown] = (
            f"{layers} × {len(settings.timesteps)}"
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("").reset_index()
