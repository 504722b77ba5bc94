"""Training and extraction by as many processes as were launched.

`python sharing.py PROFILE`, alone or under a launcher, trains on the set "bench" of a profile and
reads its features. The first process prints the seconds of both as JSON.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from timing import seconds_of
from training import train_as_study

from plankton_study.features.bank import extract_features
from plankton_study.features.encoders import DiffusionEncoder
from plankton_study.images.splits import Splits, make_splits
from plankton_study.models.batches import MINUS_ONE_TO_ONE
from plankton_study.models.diffusion.denoiser import initial_denoiser
from plankton_study.run.machine import processes
from plankton_study.run.schema import Features
from plankton_study.run.study import Study, load_study

STEPS = 20
IMAGES = 512
HELD_OUT_IMAGES = 2


def train(study: Study, splits: Splits, steps: int) -> None:
    """Train a new U-Net for some steps."""
    images_seen = steps * study.profile.training.batch_size
    held_out = splits["validation"][:HELD_OUT_IMAGES]
    images, rows = splits.collection.images, splits["pool"]
    with tempfile.TemporaryDirectory() as folder:
        train_as_study(study, Path(folder), images, rows, held_out, images_seen)


def extract(study: Study, splits: Splits, encoder: DiffusionEncoder, images: int) -> None:
    """Read the features of the first images of the pool."""
    rows = splits["pool"][:images]
    batch_size = study.profile.training.batch_size
    extract_features(study, encoder, splits, rows, batch_size=batch_size)


def seconds_of_more(call: Callable[[int], None], few: int, more: int) -> float:
    """Return how much longer a call takes for `few + more` than for `few`.

    So nothing counts that happens once, whatever the number.
    """
    seconds_of_few = _seconds_together(partial(call, few))
    return _seconds_together(partial(call, few + more)) - seconds_of_few


def _seconds_together(call: Callable[[], None]) -> float:
    """Return how long all processes need until the last one has finished."""
    team = processes()

    def call_and_wait() -> None:
        call()
        team.wait()

    team.wait()
    return seconds_of(call_and_wait)


def main(profile: str) -> None:
    """Measure both, and print the seconds and the number of processes."""
    study = load_study(profile, 0)
    splits = make_splits(study, "bench")
    settings = Features(timesteps=(15,))
    encoder = DiffusionEncoder("bench", initial_denoiser(study, MINUS_ONE_TO_ONE), settings)
    two_batches = 2 * study.profile.training.batch_size
    seconds = {
        "training": seconds_of_more(partial(train, study, splits), few=1, more=STEPS),
        "extraction": seconds_of_more(
            partial(extract, study, splits, encoder), few=two_batches, more=IMAGES
        ),
    }
    team = processes()
    if team.is_first:
        print(json.dumps(seconds | {"processes": team.count}))


if __name__ == "__main__":
    main(sys.argv[1])
