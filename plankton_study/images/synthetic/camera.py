"""Simulated photographs of an individual: water, light, blur, marine snow and noise."""

from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from plankton_study.images.synthetic.organisms import FINE, Rng, Sketch
from plankton_study.images.synthetic.parameters import CAMERAS, TAXA

#: spread between samples of level, gradient, noise, blur, zoom and contrast
SAMPLE_SPREAD = (0.015, 0.2, 0.3, 0.2, 0.02, 0.1)
SHARE_BITTEN = 0.08
SHARE_WITH_NEIGHBOUR = 0.1


def photograph(taxon: str, camera: str, water: Rng, rng: Rng, size: int) -> Image.Image:
    """Draw the image of one organism, as a camera would crop it.

    Args:
        taxon, camera: names in parameters.toml.
        water: random generator of the sample, in the same state for all of its images.
        rng: random generator of this image.
        size: length of a typical organism, px.

    Returns:
        A grey image with a dark organism on a light background.
    """
    # the images depend on the order of all random draws below
    setting = list(CAMERAS[camera].values()) * water.lognormal(0, SAMPLE_SPREAD)
    level, gradient, noise, blur, zoom, contrast = setting.tolist()
    lit_from = water.uniform(0, 2 * np.pi)
    snow = water.lognormal(1.7, 0.7)

    description = TAXA[taxon]
    length = FINE * size * zoom * description["length"] * rng.lognormal(0, 0.25)
    sketch = Sketch(rng, length, description["bend"])
    _draw(sketch, description)
    if rng.random() < SHARE_BITTEN:
        sketch.bite()
    box = ImageChops.lighter(sketch.soft, sketch.fine).getbbox()
    box = box + FINE * rng.integers(2, 8, 4) * (-1, -1, 1, 1)
    if rng.random() < SHARE_WITH_NEIGHBOUR:
        _draw_neighbour(sketch, rng)
    _add_snow(sketch, rng, snow)

    scene = ImageChops.add(sketch.soft.reduce(FINE), sketch.fine.reduce(FINE))
    scene = _mottled(scene, rng)
    scene = scene.filter(ImageFilter.GaussianBlur(blur * rng.lognormal(0, 0.4)))
    scene = scene.crop((box // FINE).tolist())
    y, x = np.mgrid[: scene.height, : scene.width] / size - 0.5
    slope = x * np.cos(lit_from) + y * np.sin(lit_from) + rng.normal(0, 0.4)
    light = level + gradient * slope
    light *= np.exp(-np.asarray(scene, float) / 255 * contrast * rng.lognormal(0, 0.3))
    pixels = np.clip(light + rng.normal(0, noise, light.shape), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _draw(sketch: Sketch, description: dict[str, Any]) -> None:
    draw_group = getattr(sketch, description["group"])
    draw_group(**description["shape"])


def _draw_neighbour(sketch: Sketch, rng: Rng) -> None:
    """Draw a smaller organism beside the first one; the frame may cut it."""
    sketch.length = 0.6 * sketch.length
    sketch.shift = np.exp(2j * sketch.turn)
    sketch.turn = 3 * sketch.turn
    _draw(sketch, TAXA[rng.choice(list(TAXA))])


def _add_snow(sketch: Sketch, rng: Rng, amount: float) -> None:
    for _ in range(rng.poisson(amount)):
        x, y = rng.uniform(0, sketch.side, 2)
        radius = FINE * rng.lognormal(0, 0.5)
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(sketch.fine).ellipse(box, fill=int(rng.integers(40, 200)))


def _mottled(scene: Image.Image, rng: Rng) -> Image.Image:
    """Make the tissue uneven and interrupt the outlines."""
    mottle = Image.fromarray(rng.integers(50, 255, (16, 16), dtype=np.uint8))
    return ImageChops.multiply(scene, mottle.resize(scene.size))
