"""`accelerate launch -m plankton_study PROFILE`: the heavy part of a profile, in as many processes as there are.

Denoisers are trained and features read; the notebooks then find both in the cache.
"""

import sys

from plankton_study import probes, splits, study
from plankton_study.profile import StudyError
from plankton_study.schema import BASIC


def main() -> None:
    """Make everything of the encoders that learn without labels from the denoiser's images, and of the baselines."""
    try:
        s = study.load(*sys.argv[1:2])
        for name in s.profile.sets:
            parts = splits.make(s, name)
            for encoder in BASIC:
                probes.read(s, parts, encoder)
    except StudyError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
