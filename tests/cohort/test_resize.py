import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill.cohort.resize import resize

FITS = ("crop", "pad", "stretch")


@st.composite
def images(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    shape = draw(st.sampled_from([(height, width), (height, width, 3)]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@settings(max_examples=80)
@given(images(), st.integers(1, 48), st.sampled_from(FITS))
def test_shape_and_dtype_are_kept_and_values_stay_in_range(pixels, size, fit):
    got = resize(pixels, size, fit)
    assert got.shape == (size, size, *pixels.shape[2:])
    assert got.dtype == pixels.dtype
    assert got.max() <= pixels.max()
    if fit != "pad":
        assert got.min() >= pixels.min()
    np.testing.assert_array_equal(got, resize(pixels.copy(), size, fit))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_of_the_working_size_is_unchanged(fit, dtype):
    pixels = np.random.default_rng(0).integers(0, 255, (17, 17), dtype)
    np.testing.assert_array_equal(resize(pixels, 17, fit), pixels)


def test_crop_takes_the_central_square_and_cuts_the_odd_pixel_at_the_end():
    pixels = np.arange(4 * 9, dtype=np.uint8).reshape(4, 9)
    np.testing.assert_array_equal(resize(pixels, 4, "crop"), pixels[:, 2:6])
    np.testing.assert_array_equal(resize(pixels.T.copy(), 4, "crop"), pixels[:, 2:6].T)


def test_pad_centres_on_black():
    got = resize(np.full((10, 20), 200, np.uint8), 8, "pad")
    np.testing.assert_array_equal(got[2:6], np.full((4, 8), 200))
    assert not got[:2].any()
    assert not got[6:].any()


def test_pad_keeps_at_least_one_row():
    assert resize(np.full((1, 500), 9, np.uint8), 4, "pad").max() == 9


def test_every_pixel_counts_when_reducing():
    pixels = np.zeros((64, 64), np.uint8)
    pixels[::2, ::2] = 255
    np.testing.assert_allclose(resize(pixels, 8)[2:-2, 2:-2], 64, atol=2)


def test_sixteen_bits_agree_with_eight():
    pixels = np.random.default_rng(1).integers(0, 256, (50, 50), np.uint8)
    wide = resize(pixels.astype(np.uint16) * 257, 13) / 257
    np.testing.assert_allclose(wide, resize(pixels, 13), atol=1.01)
