"""The error bound, exact arithmetic, and that quantising twice is quantising once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meddistill.package.limits import INTENSITY_UNIT, MIN_SCALE
from meddistill.package.quantise import LEVELS, dequantise, quantise, round_trip
from meddistill.runtime.errors import InputError

IMAGES = hnp.arrays(np.float32, (2, 3, 4, 4), elements=st.floats(-8, 8, width=32))


@given(images=IMAGES, narrow=st.sampled_from([1.0, 0.1, 1e-3, 1e-6, 0.0]), count=st.sampled_from([LEVELS, 256, 2]))
@settings(max_examples=300)
def test_error_and_idempotence(images: np.ndarray, narrow: float, count: int) -> None:
    images = (images[:1, :, :1, :1] * (1 - narrow) + images * narrow).astype(np.float32)
    levels, scale, offset = quantise(images, count)
    assert levels.max() < count
    back = dequantise(levels, scale, offset)
    error = np.abs(back.astype(np.float64) - images).max(axis=(0, 2, 3))
    spread = (images.max(axis=(0, 2, 3)).astype(np.float64) - images.min(axis=(0, 2, 3))) / (count - 1)
    assert (error <= scale / 2).all()
    assert (scale <= np.maximum(spread + 2 * INTENSITY_UNIT, MIN_SCALE)).all()
    exact = levels.astype(np.float64) * scale.reshape(-1, 1, 1) + offset.reshape(-1, 1, 1)
    np.testing.assert_array_equal(back.astype(np.float64), exact)
    for first, second in zip((levels, scale, offset), quantise(back, count), strict=True):
        np.testing.assert_array_equal(first, second)


def test_eight_bit_images_survive_closely() -> None:
    images = (np.arange(256, dtype=np.float32) / 255).reshape(1, 1, 16, 16)
    levels, scale, offset = quantise(images, 256)
    assert levels.reshape(-1).tolist() == list(range(256))
    assert abs(scale[0] - 1 / 255) < INTENSITY_UNIT
    assert np.abs(dequantise(levels, scale, offset) - images).max() < 0.001
    assert np.abs(round_trip(images) - images).max() < 0.51 / (LEVELS - 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 8.5, -8.01])
def test_impossible_values_are_refused(value: float) -> None:
    images = np.zeros((1, 1, 4, 4), np.float32)
    images[0, 0, 1, 2] = value
    with pytest.raises(InputError, match="intensities go from"):
        quantise(images)


def test_wrong_shapes_are_refused() -> None:
    for shape in [(4, 4), (0, 1, 4, 4)]:
        with pytest.raises(InputError, match="shape"):
            quantise(np.zeros(shape, np.float32))
