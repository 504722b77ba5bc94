"""Decoding the bytes of an image file to a square of grey values."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

#: errors that Pillow raises for broken files, and for files that are not images
DECODING_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class PreparedImage(NamedTuple):
    """An image as the networks see it, and its original size."""

    pixels: np.ndarray  # (R, R) uint8, dark organism on light background
    width: int  # of the original, px
    height: int


def prepare_image(content: bytes, size: int, invert: bool) -> PreparedImage:
    """Decode the bytes of an image file to a square of grey values.

    The longer side fills the square, and the shorter one is padded with the median of the border,
    so that nothing is cropped or stretched. Images are resized with Pillow's antialiased bilinear
    filter. Grey values of 16 or 32 bits are scaled to 8 bits by the maximum of each image.

    Args:
        content: bytes of the file.
        size: side R of the square, px.
        invert: whether the organism is light on a dark background. Transparent pixels then become
            black before the inversion; otherwise they become white.

    Raises:
        OSError, ValueError: the file is not a complete image, or its format is not supported.
    """
    with Image.open(io.BytesIO(content)) as opened:
        grey = _to_grey(opened, ground="black" if invert else "white")
    square = _pad_to_square(grey)
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    if invert:
        pixels = 255 - pixels
    return PreparedImage(pixels, grey.width, grey.height)


def _to_grey(image: Image.Image, ground: str) -> Image.Image:
    """Return an image of mode "L"; transparent pixels show the colour `ground`."""
    is_deep = image.mode.startswith(("I", "F"))
    if is_deep:
        image = _scale_to_8_bits(image)
    is_deep_colour = image.mode.startswith("RGB") and ";16" in str(image.tile)
    if is_deep_colour:  # Pillow would drop half of each colour's bits
        raise ValueError(
            "colours of 16 bits are not supported: save it as grey, or with 8 bits per colour"
        )
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, ground)
        image = Image.alpha_composite(background, image.convert("RGBA"))
    return image.convert("L")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    scaled = values * (255 / max(values.max(), 1))
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def _pad_to_square(image: Image.Image) -> Image.Image:
    grey = np.asarray(image)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    side = max(image.size)
    square = Image.new("L", (side, side), int(np.median(border)))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
