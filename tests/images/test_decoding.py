"""Decoding: whatever an image file looks like, it becomes a square of grey values."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plankton_study.images.decoding import DECODING_ERRORS, prepare_image, why_unreadable

POLARITIES = st.sampled_from(["dark_on_light", "light_on_dark", "by_border"])
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
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 16, 32]), POLARITIES)
def test_an_even_image_stays_even_whatever_its_shape(height, width, size, polarity):
    content = encode_array(np.full((height, width), 200, np.uint8))
    image = prepare_image(content, size, polarity)
    assert image.pixels.shape == (size, size) and image.pixels.dtype == np.uint8
    assert (image.pixels == (55 if polarity == "light_on_dark" else 200)).all()
    assert not image.has_dark_ground and image.frames == 1
    assert (image.width, image.height) == (width, height)


def test_the_border_pads_an_image_and_its_proportions_stay():
    pixels = np.full((10, 40), 240, np.uint8)
    pixels[3:7, 10:30] = 20
    square = prepare_image(encode_array(pixels), 40, "dark_on_light").pixels
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
    square = prepare_image(encode(image), 16, "dark_on_light").pixels
    assert square[:, 0].mean() < 60 < 190 < square[:, -1].mean()


@pytest.mark.parametrize(
    ("mode", "polarity", "organism"),
    [("RGBA", "dark_on_light", 90), ("LA", "dark_on_light", 90), ("RGBA", "light_on_dark", 165)],
)
def test_transparent_ground_is_not_an_organism(mode, polarity, organism):
    image = Image.new(mode, (20, 20))  # all of it transparent, and black
    opaque_grey = (90,) * (len(mode) - 1) + (255,)
    image.paste(Image.new(mode, (6, 6), opaque_grey), (7, 7))
    square = prepare_image(encode(image), 20, polarity).pixels
    assert square[0, 0] == 255 and square[10, 10] == organism


def test_colours_of_16_bits_are_refused_rather_than_darkened():
    """Pillow would keep each high byte: an image of a 12-bit camera would be nearly black."""
    header = struct.pack(">2I5B", 4, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + struct.pack(">12H", *[4000] * 12) for _ in range(4))
    content = PNG_SIGNATURE + png_chunk(b"IHDR", header)
    content += png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="colours of 16 bits"):
        prepare_image(content, 16, "dark_on_light")


# --- files as cameras, phones and programs write them


def drawing() -> np.ndarray:
    """Return a dark bar on light ground, (20, 32) uint8, left of the middle."""
    pixels = np.full((20, 32), 232, np.uint8)
    pixels[8:12, 4:14] = 60
    return pixels


def encoded_as(pixels: np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def read_grey(content: bytes) -> np.ndarray:
    return prepare_image(content, 32, "dark_on_light").pixels.astype(int)


AS_EXPECTED = read_grey(encoded_as(drawing(), "PNG"))


@pytest.mark.parametrize(
    "pixels",
    [
        drawing().astype(np.uint16) * 257,
        drawing().astype(np.uint16) * 16,
        drawing().astype(np.float32) / 255,
        drawing().astype(np.float32),
    ],
    ids=["16 bits", "12 bits", "fractions", "floats to 255"],
)
def test_deep_grey_values_look_like_those_of_8_bits(pixels):
    kind = "TIFF" if pixels.dtype == np.float32 else "PNG"
    assert abs(read_grey(encoded_as(pixels, kind)) - AS_EXPECTED).max() <= 2


def test_deep_grey_values_on_a_pedestal_keep_their_contrast():
    square = read_grey(encoded_as(3000 + drawing().astype(np.uint16) * 4, "PNG"))
    assert square.max() == 255 and square.min() <= 5


def test_a_value_that_is_no_number_does_not_blacken_the_image():
    pixels = drawing().astype(np.float32) / 255
    pixels[0, 0] = np.nan
    assert abs(read_grey(encoded_as(pixels, "TIFF")) - AS_EXPECTED).max() <= 2


def test_a_photograph_is_turned_as_its_exif_data_say():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = np.ascontiguousarray(np.rot90(drawing()))
    square = read_grey(encoded_as(turned, "JPEG", exif=exif, quality=95))
    assert abs(square - AS_EXPECTED).max() <= 12


def test_further_pages_are_counted():
    pages = {"save_all": True, "append_images": [Image.new("L", (32, 20))]}
    image = prepare_image(encoded_as(drawing(), "TIFF", **pages), 32, "dark_on_light")
    assert image.frames == 2
    assert abs(image.pixels.astype(int) - AS_EXPECTED).max() == 0


def test_the_border_decides_the_polarity_of_a_mixed_set():
    dark = encoded_as(255 - drawing(), "PNG")
    image = prepare_image(dark, 32, "by_border")
    assert image.has_dark_ground
    assert abs(image.pixels.astype(int) - AS_EXPECTED).max() <= 1


def test_a_long_strip_needs_no_more_memory_than_its_pixels():
    import tracemalloc

    strip = np.full((20, 40_000), 230, np.uint8)
    content = encoded_as(strip, "PNG")
    tracemalloc.start()
    image = prepare_image(content, 32, "dark_on_light")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (image.pixels == 230).all() and image.width == 40_000
    assert peak < 10 * strip.size


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"just text", "it is not an image"),
        (encode(Image.new("L", (50, 50)))[:60], ""),
    ],
)
def test_a_broken_file_is_described_in_a_few_words(content, words):
    with pytest.raises(DECODING_ERRORS) as raised:
        prepare_image(content, 16, "dark_on_light")
    said = why_unreadable(raised.value, content)
    assert said.startswith(words) and said and "object at" not in said


def test_a_far_too_large_image_is_called_too_large(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
    content = encode(Image.new("1", (1200, 1200)))
    with pytest.raises(DECODING_ERRORS) as raised:
        prepare_image(content, 16, "dark_on_light")
    assert why_unreadable(raised.value, content) == "it has more than 1 megapixels: shrink it"


def test_a_cropped_scale_bar_leaves_the_pixels_of_the_plain_image():
    with_bar = np.vstack([drawing(), np.zeros((31, 32), np.uint8)])
    content = encoded_as(with_bar, "PNG")
    image = prepare_image(content, 32, "dark_on_light", {"bottom": 31})
    assert (image.pixels == AS_EXPECTED).all() and image.height == 20
    with pytest.raises(ValueError, match="the crop leaves nothing of 32 × 51 px"):
        prepare_image(content, 32, "dark_on_light", {"left": 20, "right": 12})


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "1"])
def test_every_mode_can_be_cropped(mode):
    image = Image.fromarray(drawing()).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image.save(stream := io.BytesIO(), kind)
    cropped = prepare_image(stream.getvalue(), 32, "dark_on_light", {"bottom": 2, "left": 1})
    assert (cropped.width, cropped.height) == (31, 18)


def test_a_grey_ground_is_judged_by_what_differs_from_it():
    pixels = np.full((20, 32), 118, np.uint8)
    pixels[8:12, 4:14] = 30
    assert not prepare_image(encode_array(pixels), 32, "dark_on_light").has_dark_ground
    assert prepare_image(encode_array(255 - pixels), 32, "dark_on_light").has_dark_ground


def test_a_cut_animation_is_an_unreadable_file():
    frames = [Image.fromarray(drawing()).convert("P") for _ in range(3)]
    frames[0].save(stream := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    whole = stream.getvalue()
    for length in range(20, len(whole), 7):
        try:
            prepare_image(whole[:length], 16, "dark_on_light")
        except DECODING_ERRORS as error:
            assert why_unreadable(error, whole[:length])
