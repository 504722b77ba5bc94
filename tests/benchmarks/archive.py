"""What an archive of WHOI-Plankton's size would cost, by the rates that the same run measured.

Work is scaled by FLOPs (training, extraction), by the square of the number of features (LDA),
and by the number of images. We assume that the machine reaches the same FLOP/s in every network.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from extraction import OVERHEAD
from scale import costs_of_stages
from stages import CHANNELS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training import GAIN

from plankton_study.features.encoders import DiffusionEncoder
from plankton_study.models.diffusion.noise_schedule import build_scheduler
from plankton_study.models.diffusion.pipeline import PlanktonPipeline
from plankton_study.models.networks.unet import build_unet
from plankton_study.run.profile import read_profile
from plankton_study.run.schema import Profile

IMAGES = 3_400_000
PROFILES = ("quick", "whoi")
#: mean and standard deviation of each channel
NUMBERS_BY_CHANNEL = 2
FLOAT_BYTES = 4
HOUR = 3600
MOST_EXACT_HOURS = 10


class Rates(NamedTuple):
    """What the sections measured.

    Attributes:
        training_flops: FLOPs a second.
        extraction_flops: FLOPs a second.
        reading_seconds: of an image.
        lda_seconds: of an image, with as many features as the bank of the section "scale".
        table_bytes: memory of an image in the stage that needs most.
    """

    training_flops: float
    extraction_flops: float
    reading_seconds: float
    lda_seconds: float
    table_bytes: float


class StepCost(NamedTuple):
    """What a step costs for all images; 0 where it does not count."""

    flops: float = 0
    seconds: float = 0
    gigabytes: float = 0

    def __str__(self) -> str:
        parts = []
        if self.flops:
            parts.append(f"{self.flops / 1e18:.2g} EFLOP")
        parts.append(f"{_hours_text(self.seconds / HOUR)} h")
        if self.gigabytes:
            parts.append(f"{self.gigabytes:.3g} GB")
        return ", ".join(parts)


def _hours_text(hours: float) -> str:
    if hours > MOST_EXACT_HOURS:
        return f"{hours:,.0f}"
    return f"{hours:.2g}"


def archive_costs(about: dict[str, dict]) -> pd.DataFrame:
    """Return a row for each step and a column for the U-Net of each profile, as text.

    Args:
        about: text of a row → what its section knows about it.
    """
    rates = measured_rates(about)
    columns = {}
    for name in PROFILES:
        profile = read_profile(name)
        title = f"U-Net of `{name}`, {profile.images.size} px"
        columns[title] = profile_costs(profile, rates)
    return pd.DataFrame(columns).rename_axis("").reset_index()


def measured_rates(about: dict[str, dict]) -> Rates:
    """Return the rates of one run of the benchmark."""
    extraction, training = about[OVERHEAD], about[GAIN]
    stages = costs_of_stages(about)
    return Rates(
        training_flops=training["flops an image"] * training["images a second"],
        extraction_flops=(
            extraction["flops an image"] * extraction["images a second and noise level"]
        ),
        reading_seconds=_seconds_of_image(stages["reading"]),
        lda_seconds=_seconds_of_image(stages["lda"]),
        table_bytes=max(stages[name]["bytes an image"] for name in ("reading", "splits")),
    )


def _seconds_of_image(stage: dict) -> float:
    """Return the seconds of an image in the largest run of a stage."""
    return stage["seconds"][-1] / stage["numbers"][-1]


def profile_costs(profile: Profile, rates: Rates) -> dict[str, str]:
    """Return step → what it costs with the U-Net of a profile, as text."""
    size = profile.images.size
    levels = len(profile.features.timesteps)
    encoder = _encoder(profile)
    channels = np.array([encoder.layers["channels"][cell.layer] for cell in encoder.cells])
    features = NUMBERS_BY_CHANNEL * channels
    bank_gigabytes = FLOAT_BYTES * IMAGES * features.sum() / 1e9
    training = IMAGES * training_flops(profile)
    extraction = IMAGES * levels * extraction_flops(encoder, profile)
    lda_effort = np.square(features / CHANNELS).sum()
    steps = {
        "reading and resizing the images": StepCost(
            seconds=rates.reading_seconds * IMAGES, gigabytes=IMAGES * size**2 / 1e9
        ),
        "training the denoiser, each image once": StepCost(
            training, training / rates.training_flops
        ),
        "reading its features": StepCost(
            extraction, extraction / rates.extraction_flops, bank_gigabytes
        ),
        "LDA probes of all cells, all images": StepCost(
            seconds=rates.lda_seconds * IMAGES * lda_effort
        ),
    }
    texts = {step: str(cost) for step, cost in steps.items()}
    table_gigabytes = IMAGES * rates.table_bytes / 1e9
    texts["memory that the table of all images needs"] = f"{table_gigabytes:.2g} GB"
    texts["layers × noise levels"] = f"{len(encoder.cells) // levels} × {levels}"
    return texts


def _encoder(profile: Profile) -> DiffusionEncoder:
    unet = build_unet(profile.unet, profile.images.size, 0)
    scheduler = build_scheduler(profile.noise)
    denoiser = PlanktonPipeline(unet, scheduler, unshuffle=profile.unet.unshuffle)
    return DiffusionEncoder(profile.name, denoiser, profile.features)


def training_flops(profile: Profile) -> int:
    """Return the FLOPs of training on one image; they are counted as in `Trainer`."""
    size = profile.images.size
    unet = build_unet(profile.unet, size, 0).train()
    config = unet.config
    x = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(x, 0).sample.sum().backward()
    return counter.get_total_flops()


def extraction_flops(encoder: DiffusionEncoder, profile: Profile) -> int:
    """Return the FLOPs of reading one image at one noise level."""
    size = profile.images.size
    timestep = profile.features.timesteps[0]
    cells = [cell for cell in encoder.cells if cell.timestep == timestep]
    images = np.zeros((1, size, size), np.uint8)
    with FlopCounterMode(display=False) as counter:
        encoder.encode(images, [""], cells)
    return counter.get_total_flops()
