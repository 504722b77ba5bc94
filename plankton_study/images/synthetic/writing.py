"""Writing the synthetic set as image files."""

from pathlib import Path

import numpy as np

from plankton_study.images.synthetic.camera import photograph
from plankton_study.images.synthetic.parameters import TAXA
from plankton_study.images.synthetic.sampling import catch
from plankton_study.run.errors import StudyError

#: modules whose code draws the images
SHAPED_BY = (
    "images.synthetic.writing",
    "images.synthetic.camera",
    "images.synthetic.sampling",
    "images.synthetic.organisms",
    "images.synthetic.outlines",
    "images.synthetic.parameters",
)
IMAGES_FOR_EACH_TAXON = 10


def write_images(folder: Path, images: int, seed: int, size: int = 64) -> None:
    """Write grey PNG files as <taxon>/SYN-<site>-<camera>-<time>-<number>.png.

    Args:
        folder: the target folder.
        images: the number of images.
        seed: determines every byte.
        size: length of a typical organism, px.

    Raises:
        StudyError: too few images to hold every taxon.
    """
    minimum = IMAGES_FOR_EACH_TAXON * len(TAXA)
    if images < minimum:
        raise StudyError(
            f"{images} synthetic images are too few for {len(TAXA)} taxa: draw at least {minimum}"
        )
    for number, (taxon, site, camera, time, sample) in enumerate(catch(images, seed)):
        water = np.random.default_rng([seed, 1, sample])
        rng = np.random.default_rng([seed, 2, number])
        file = folder / taxon / f"SYN-{site}-{camera}-{time:%Y%m%dT%H%M%S}-{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(taxon, camera, water, rng, size).save(file)
