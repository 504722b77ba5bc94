"""`accelerate launch -m plankton_study PROFILE`: run the heavy part of a profile in many processes.

It trains the denoisers and extracts the features of the encoders that need no labels. The
notebooks then find both in the cache.
"""

import sys

from plankton_study.images.splits import make_splits
from plankton_study.probes.probe import read_features
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import BASIC_ENCODERS
from plankton_study.run.study import load_study


def main(arguments: list[str]) -> None:
    """Train denoisers and extract features for every set of the profile in `arguments`."""
    try:
        study = load_study(*arguments[:1])
        for name in study.profile.sets:
            splits = make_splits(study, name)
            for encoder in BASIC_ENCODERS:
                read_features(study, splits, encoder)
    except StudyError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
