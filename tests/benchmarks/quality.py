"""Time to quality: how long it takes to train a denoiser and to read it, until it is good enough.

The first recipe of this study and ours train with the same budgets. The goal is the score of the
first recipe at the largest budget, within one standard error. Of each recipe counts the smallest
budget that reaches it; smaller budgets that were tried do not count. DDAE (Xiang et al. 2023)
trains like the first recipe, and reads each layer at each noise level in a pass of its own.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from timing import result_row

from plankton_study.features.bank import extract_features
from plankton_study.features.registry import diffusion_encoder
from plankton_study.images.splits import Splits, make_splits
from plankton_study.probes.probe import best_lda_score
from plankton_study.questions.training.variants import with_changes
from plankton_study.run.schema import DenoiserChanges
from plankton_study.run.study import Study, load_study

SECTION = "quality"
#: the row that also holds the scores and the seconds
GAIN = "the first recipe takes to the same probe score"
#: a DDPM on pixels in [-1, 1], with narrow maps of full size
FIRST_RECIPE = {
    "unet": {"unshuffle": 1, "channels": [16, 40, 80], "head_channels": 40},
    "noise": {"schedule": "linear", "prediction": "epsilon", "min_snr": "none"},
    "training": {"standardise": False},
    "features": {
        "taps": ["down16.*", "down8.*", "mid8.resnet1", "up8.attention*", "up16.*", "up32.*"],
        "timesteps": [27, 67, 98, 145, 222, 343],  # the noise levels of ours
        "predeclared": "up8.attention0@t98",
    },
}
BUDGETS = (1_000, 2_000, 4_000, 8_000, 16_000)


@dataclass(frozen=True)
class TrainedAndRead:
    """A denoiser that was trained and read.

    Attributes:
        images_seen: in training.
        score: of its best probe on validation images, in the profile's metric.
        error: standard error of the score.
        training: seconds.
        reading: seconds to extract the features of all cells.
    """

    images_seen: int
    score: float
    error: float
    training: float
    reading: float


def measure() -> list[dict]:
    """Return the rows of this section."""
    with tempfile.TemporaryDirectory() as folder:
        study = replace(load_study("demo", 0), cache=Path(folder))
        splits = make_splits(study, "synthetic")
        ours_changes, first_changes = recipes()
        ours = with_each_budget(study, splits, ours_changes)
        first = with_each_budget(study, splits, first_changes)
        each_cell = seconds_of_single_cells(with_changes(study, splits, first_changes, 1), splits)
    return result_rows(first, ours, each_cell)


def recipes() -> tuple[DenoiserChanges, DenoiserChanges]:
    """Return the recipe of `quick`, and the first one, as changes of `demo`.

    Both see about as many images a second.
    """
    quick = load_study("quick", 0).profile
    ours = {
        "unet": quick.unet.model_dump(),
        "noise": quick.noise.model_dump(),
        "training": {"precision": quick.training.precision},
        "features": {"precision": quick.features.precision},
    }
    first = {table: keys | FIRST_RECIPE[table] for table, keys in ours.items()}
    return DenoiserChanges(**ours), DenoiserChanges(**first)


def with_each_budget(
    study: Study, splits: Splits, changes: DenoiserChanges
) -> list[TrainedAndRead]:
    """Train and read a denoiser with each budget."""
    return [
        train_and_read(with_changes(study, splits, changes, budget), splits) for budget in BUDGETS
    ]


def train_and_read(study: Study, splits: Splits) -> TrainedAndRead:
    """Train a denoiser, read all its cells, and find its best probe."""
    encoder = diffusion_encoder(study, splits)
    started = time.perf_counter()
    extract_features(study, encoder, splits, splits.evaluated)
    reading = time.perf_counter() - started
    score = best_lda_score(study, splits, encoder)
    cost = encoder.cost
    seen, training = int(cost["images_seen"]), cost["seconds"]
    return TrainedAndRead(seen, score.value, score.error, training, reading)


def seconds_of_single_cells(study: Study, splits: Splits) -> float:
    """Return how long it takes to read every cell in a pass of its own."""
    elsewhere = replace(study, cache=study.cache / "single cells")  # where none has been read
    features = study.profile.features
    seconds = 0.0
    for cell in diffusion_encoder(study, splits).cells:
        at_cell = {"taps": (cell.layer,), "timesteps": (cell.timestep,)}
        encoder = diffusion_encoder(study, splits, features.model_copy(update=at_cell))
        started = time.perf_counter()
        extract_features(elsewhere, encoder, splits, splits.evaluated)
        seconds += time.perf_counter() - started
    return seconds


def first_to_reach(goal: float, tried: list[TrainedAndRead]) -> TrainedAndRead | None:
    """Return what reached the goal with the smallest budget; None if nothing did."""
    return next((one for one in tried if one.score >= goal), None)


def result_rows(
    first: list[TrainedAndRead], ours: list[TrainedAndRead], each_cell: float
) -> list[dict]:
    """Return the ratios of the seconds of training and reading.

    Args:
        first, ours: what each recipe gives, by budget.
        each_cell: seconds to read every cell in a pass of its own.
    """
    goal = first[-1].score - first[-1].error
    their_way, our_way = first_to_reach(goal, first), first_to_reach(goal, ours)
    if our_way is None:
        raise RuntimeError(f"our recipe does not reach a score of {goal:.3f} with any budget")
    our_seconds = our_way.training + our_way.reading
    gain = (their_way.training + their_way.reading) / our_seconds
    over_ddae = (their_way.training + each_cell) / our_seconds
    row = result_row(SECTION, GAIN, gain, "at least 5", gain >= 5)
    row["about"] = {
        "goal": goal,
        "first recipe": [vars(one) for one in first],
        "ours": [vars(one) for one in ours],
        "reading each cell alone": each_cell,
    }
    lead = 100 * (ours[-1].score - first[-1].score)
    return [
        row,
        result_row(SECTION, "DDAE's way takes to the same probe score", over_ddae),
        result_row(
            SECTION,
            f"our validation macro-F1 minus that of the first recipe, {BUDGETS[-1]:,} images seen",
            lead,
            unit="points",
        ),
    ]
