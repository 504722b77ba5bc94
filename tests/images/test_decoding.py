"""Decoding: whatever an image file looks like, it becomes a square of grey values."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plankton_study.images.decoding import prepare_image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def encode_array(pixels: np.ndarray) -> bytes:
    return encode(Image.fromarray(pixels))


def png_chunk(name: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + checksum


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 16, 32]), st.booleans())
def test_an_even_image_stays_even_whatever_its_shape(height, width, size, invert):
    content = encode_array(np.full((height, width), 200, np.uint8))
    image = prepare_image(content, size, invert)
    assert image.pixels.shape == (size, size) and image.pixels.dtype == np.uint8
    assert (image.pixels == (55 if invert else 200)).all()
    assert (image.width, image.height) == (width, height)


def test_the_border_pads_an_image_and_its_proportions_stay():
    pixels = np.full((10, 40), 240, np.uint8)
    pixels[3:7, 10:30] = 20
    square = prepare_image(encode_array(pixels), 40, False).pixels
    dark = np.argwhere(square < 128)
    assert dark.min(axis=0).tolist() == [18, 10]
    assert dark.max(axis=0).tolist() == [21, 29]
    assert (square[:15] == 240).all()


def ramp_of_16_bits(ramp: np.ndarray) -> Image.Image:
    return Image.fromarray(ramp.astype(np.uint16) * 257)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16"])
def test_every_common_mode_is_read(mode):
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    image = ramp_of_16_bits(ramp) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    square = prepare_image(encode(image), 16, False).pixels
    assert square[:, 0].mean() < 60 < 190 < square[:, -1].mean()


@pytest.mark.parametrize(
    ("mode", "invert", "organism"), [("RGBA", False, 90), ("LA", False, 90), ("RGBA", True, 165)]
)
def test_transparent_ground_is_not_an_organism(mode, invert, organism):
    image = Image.new(mode, (20, 20))  # all of it transparent, and black
    opaque_grey = (90,) * (len(mode) - 1) + (255,)
    image.paste(Image.new(mode, (6, 6), opaque_grey), (7, 7))
    square = prepare_image(encode(image), 20, invert).pixels
    assert square[0, 0] == 255 and square[10, 10] == organism


def test_colours_of_16_bits_are_refused_rather_than_darkened():
    """Pillow would keep each high byte: an image of a 12-bit camera would be nearly black."""
    header = struct.pack(">2I5B", 4, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + struct.pack(">12H", *[4000] * 12) for _ in range(4))
    content = PNG_SIGNATURE + png_chunk(b"IHDR", header)
    content += png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="colours of 16 bits"):
        prepare_image(content, 16, False)
