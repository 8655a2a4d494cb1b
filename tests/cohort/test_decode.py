import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from meddistill.cohort.decode import decode, load_file, peek_file

# Pillow warns of what is refused anyway; scan() keeps such warnings from the user.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


def noise(height=12, width=9, channels=1, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_give_the_stored_pixels(form, channels):
    pixels = noise(channels=channels)
    got, mode = decode(encoded(Image.fromarray(pixels), form))
    np.testing.assert_array_equal(got, pixels)
    assert mode == ("grey 8-bit" if channels == 1 else "colour 8-bit")


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_stays_sixteen_bit(form):
    pixels = np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16)
    got, mode = decode(encoded(Image.fromarray(pixels), form))
    assert got.dtype == np.uint16
    assert mode == "grey 16-bit"
    np.testing.assert_array_equal(got, pixels)


def test_big_endian_tiff():
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    tiff = encoded(Image.fromarray(pixels.astype(">u2")), "TIFF")
    np.testing.assert_array_equal(decode(tiff)[0], pixels)


def test_white_is_zero_tiff_is_turned_round_at_sixteen_bits():
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    # Tag 262 (photometric interpretation) of Pillow's own TIFF is 1, black is zero.
    tiff = bytearray(encoded(Image.fromarray(pixels), "TIFF"))
    tag = tiff.index(struct.pack("<HHI", 262, 3, 1))
    tiff[tag + 8] = 0
    np.testing.assert_array_equal(decode(bytes(tiff))[0], 65535 - pixels)


def test_grey_stored_as_colour_is_grey():
    pixels = noise()
    got, mode = decode(encoded(Image.fromarray(np.stack([pixels] * 3, axis=-1))))
    np.testing.assert_array_equal(got, pixels)
    assert mode == "grey 8-bit"


def test_one_bit_palette_and_cmyk():
    black_and_white = Image.fromarray(noise() > 127)
    assert set(np.unique(decode(encoded(black_and_white))[0])) == {0, 255}
    colour = Image.fromarray(noise(channels=3)).quantize(16)
    np.testing.assert_array_equal(decode(encoded(colour))[0], np.asarray(colour.convert("RGB")))
    cmyk = Image.fromarray(noise(channels=3)).convert("CMYK")
    assert decode(encoded(cmyk, "TIFF"))[0].shape == (12, 9, 3)


def test_transparency_is_laid_on_black():
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[0, 0, 3], pixels[1, 1, 3] = 0, 255
    got, _ = decode(encoded(Image.fromarray(pixels)))
    assert (got[0, 0], got[1, 1], got[2, 2]) == (0, 200, 157)


def test_the_transparent_value_of_16_bit_grey_becomes_black():
    pixels = np.array([[40_000, 40_001], [7, 65535]], np.uint16)
    got, mode = decode(encoded(Image.fromarray(pixels), transparency=40_000))
    assert (got.tolist(), mode) == ([[0, 40_001], [7, 65535]], "grey 16-bit")


def test_orientation_is_applied():
    pixels = noise(8, 16)
    exif = Image.Exif()
    exif[274] = 6
    got, _ = decode(encoded(Image.fromarray(pixels), "PNG", exif=exif))
    np.testing.assert_array_equal(got, np.rot90(pixels, -1))


def test_sixteen_bit_colour_says_that_it_is_reduced():
    rows = b"".join(b"\0" + bytes([200, 1, 100, 2, 50, 3]) * 4 for _ in range(4))
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    png += _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    pixels, mode = decode(png)
    assert pixels.shape == (4, 4, 3)
    assert pixels.dtype == np.uint8
    assert mode == "colour 8-bit (stored with 16)"


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_refused_by_name():
    cases = {
        b"": "empty",
        b"just text, whatever the name": "not a PNG, JPEG, TIFF or BMP",
        encoded(Image.fromarray(noise()), "GIF"): "not a PNG, JPEG, TIFF or BMP",
        encoded(Image.fromarray(noise().astype(np.float32)), "TIFF"): "floating-point",
        encoded(Image.fromarray(np.full((4, 4), -5, np.int32)), "TIFF"): "from -5 to -5",
        encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"): "70000",
    }
    for data, reason in cases.items():
        with pytest.raises(ValueError, match=reason):
            decode(data)


def test_a_stack_is_refused():
    slices = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    with pytest.raises(ValueError, match="stack of 3"):
        decode(encoded(slices[0], "TIFF", save_all=True, append_images=slices[1:]))


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b""))
    with pytest.raises(ValueError, match="pixels"):
        load_file(path)


WHOLE = {
    "jpeg": encoded(Image.fromarray(noise(64, 64, 3)), "JPEG", quality=80),
    "progressive": encoded(Image.fromarray(noise(64, 64, 3)), "JPEG", progressive=True),
    "png": encoded(Image.fromarray(noise(64, 64, 3)), "PNG"),
    "tiff": encoded(Image.fromarray(noise(64, 64, 3)), "TIFF"),
    "lzw": encoded(Image.fromarray(noise(64, 64, 3)), "TIFF", compression="tiff_lzw"),
    "bmp": encoded(Image.fromarray(noise(64, 64, 3)), "BMP"),
}


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=60)
@given(st.data())
def test_a_file_cut_short_is_an_error_or_whole_never_half_an_image(kind, data):
    whole = WHOLE[kind]
    length = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - 40, len(whole) - 1))
    try:
        got, _ = decode(whole[:length])
    except ValueError:
        return
    np.testing.assert_array_equal(got, decode(whole)[0])


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_raises_nothing_but_value_errors(kind, data):
    damaged = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1) | st.integers(0, 60))] = data.draw(st.integers(0, 255))
    try:
        pixels, _ = decode(bytes(damaged))
    except ValueError:
        return
    assert pixels.dtype in (np.uint8, np.uint16)


def test_peek_gives_the_size_of_the_header(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(5, 7)).save(path)
    assert peek_file(path) == (7, 5)
    path.write_text("text")
    with pytest.raises(ValueError, match="not a PNG"):
        peek_file(path)
