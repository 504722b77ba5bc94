"""Decoding the bytes of an image file to a square of grey values."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from plankton_study.images.catalogue import Polarity

#: errors that Pillow raises for broken files, and for files that are not images
DECODING_ERRORS = (
    *(OSError, ValueError, SyntaxError, Image.DecompressionBombError),
    *(IndexError, KeyError, TypeError, EOFError, OverflowError, struct.error, zlib.error),
)

#: EXIF tag of the orientation, and its value if nothing has to be turned
ORIENTATION, UPRIGHT = 0x0112, 1
#: percentiles between which the organism and its ground lie
EXTREMES = (1, 99)
#: largest values of cameras and formats: 8, 10, 12, 14 and 16 bits
FULL_SCALES = (255, 1023, 4095, 16383, 65535)
#: a deep image that uses less of its scale stands on a pedestal, which is removed
SHARE_OF_SCALE = 1 / 4
#: side up to which an image is padded before it is resized, px
MAX_PADDED_SIDE = 4096


class PreparedImage(NamedTuple):
    """An image as the networks see it, and what is known of the original."""

    pixels: np.ndarray  # (R, R) uint8, dark organism on light background
    width: int  # px
    height: int
    frames: int  # pages or frames of the file, of which the first is used
    has_dark_ground: bool  # whether the organism is lighter than the median of the border


def prepare_image(
    content: bytes, size: int, polarity: Polarity, crop: Mapping[str, int] | None = None
) -> PreparedImage:
    """Decode the bytes of an image file to a square of grey values.

    First the image is turned as its EXIF data say, then the crop is cut off. The longer side fills
    the square, and the shorter one is padded with the median of the border, so that nothing is
    stretched. Images are resized with Pillow's antialiased bilinear filter. Deep grey values become
    8 bits by the smallest usual full scale that holds them (10, 12, 14 or 16 bits; 1 for
    fractions); where an image uses less than a quarter of it, the range that it uses is stretched.

    Args:
        content: bytes of the file.
        size: side R of the square, px.
        polarity: what the original shows; "by_border" compares the organism with the median of
            the border, for each image. Transparent pixels become the ground: black under
            "light_on_dark", otherwise white.
        crop: "left", "top", "right", "bottom" → px to cut off there, such as a scale bar.

    Raises:
        OSError, ValueError: the file is not a complete image, or its format is not supported.
    """
    with Image.open(io.BytesIO(content)) as opened:
        frames = getattr(opened, "n_frames", 1)
        upright = _upright(opened)
        cropped = _without_margins(upright, crop) if crop else upright
        grey = _to_grey(cropped, ground="black" if polarity == "light_on_dark" else "white")
    ground = _median_of_border(grey)
    has_dark_ground = _is_light_on(ground, grey)
    pixels = np.asarray(_square(grey, size, ground))
    if polarity == "light_on_dark" or (polarity == "by_border" and has_dark_ground):
        pixels = 255 - pixels
    return PreparedImage(pixels, grey.width, grey.height, frames, has_dark_ground)


def why_unreadable(error: Exception, content: bytes) -> str:
    """Return in a few words why a file cannot be read.

    Args:
        error: one of `DECODING_ERRORS`.
        content: bytes of the file.
    """
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image" if content else "it is empty"
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        return f"it has more than {most} megapixels: shrink it"
    return str(error).splitlines()[0]


def _upright(image: Image.Image) -> Image.Image:
    """Return an opened image turned as its EXIF data say; refuse colours of 16 bits."""
    is_deep_colour = image.mode.startswith("RGB") and ";16" in str(image.tile)
    if is_deep_colour:  # Pillow would drop half of each colour's bits
        raise ValueError(
            "colours of 16 bits are not supported: save it as grey, or with 8 bits per colour"
        )
    if image.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT:
        return image
    return ImageOps.exif_transpose(image)


def _without_margins(image: Image.Image, crop: Mapping[str, int]) -> Image.Image:
    left, top = crop.get("left", 0), crop.get("top", 0)
    right = image.width - crop.get("right", 0)
    bottom = image.height - crop.get("bottom", 0)
    if left >= right or top >= bottom:
        raise ValueError(f"the crop leaves nothing of {image.width} × {image.height} px")
    return image.crop((left, top, right, bottom))


def _to_grey(image: Image.Image, ground: str) -> Image.Image:
    """Return an image of mode "L"; transparent pixels show the colour `ground`."""
    if image.mode.startswith(("I", "F")):
        image = _scale_to_8_bits(image)
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, ground)
        image = Image.alpha_composite(background, image.convert("RGBA"))
    return image.convert("L")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    is_known = np.isfinite(values)
    if not is_known.any():
        raise ValueError("none of its values is a number")
    values = np.where(is_known, values, np.median(values[is_known]))
    low, high = values.min(), values.max()
    full_scale = 1.0 if high <= 1 and image.mode == "F" else _full_scale(high)
    if 0 < high - low < SHARE_OF_SCALE * full_scale:
        values, full_scale = values - low, high - low
    scaled = values * (255 / full_scale)
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))


def _full_scale(highest: float) -> float:
    """Return the smallest usual full scale that holds a value; beyond all of them, the value."""
    return next((float(scale) for scale in FULL_SCALES if highest <= scale), highest)


def _median_of_border(image: Image.Image) -> int:
    grey = np.asarray(image)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return int(np.median(border))


def _is_light_on(ground: int, image: Image.Image) -> bool:
    """Return whether an organism is lighter than its ground.

    It is what differs most from the ground, apart from a few extreme pixels.
    """
    darkest, lightest = np.percentile(np.asarray(image), EXTREMES)
    return bool(lightest - ground > ground - darkest)


def _square(image: Image.Image, size: int, ground: int) -> Image.Image:
    """Return the image in the middle of a square of a size, on the ground."""
    side = max(image.size)
    if side > MAX_PADDED_SIDE:  # the padded square of a long strip would fill the memory
        width, height = (max(round(length * size / side), 1) for length in image.size)
        return _padded(image.resize((width, height), Image.Resampling.BILINEAR), ground)
    return _padded(image, ground).resize((size, size), Image.Resampling.BILINEAR)


def _padded(image: Image.Image, ground: int) -> Image.Image:
    side = max(image.size)
    square = Image.new("L", (side, side), ground)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
