"""The coder: what goes in comes out, in about as few bytes as the entropy allows, and garbage ends soon."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from meddistill.compress.coding import MAX_LEVELS, CodingError, decode, encode


@st.composite
def coded(draw):
    levels = draw(st.integers(0, MAX_LEVELS))
    shape = draw(array_shapes(min_dims=0, max_dims=4, max_side=6))
    return draw(arrays(np.int64, shape, elements=st.integers(0, levels))), levels


@settings(max_examples=40)
@given(st.lists(coded(), max_size=3))
def test_what_goes_in_comes_out(tensors):
    data = encode(tensors)
    found = decode(data, [(codes.shape, levels) for codes, levels in tensors])
    assert all(np.array_equal(a, b) and a.shape == b.shape for a, (b, _) in zip(found, tensors, strict=True))


def entropy_bytes(codes: np.ndarray) -> float:
    share = np.bincount(codes.reshape(-1)) / codes.size
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum() * codes.size / 8)


@pytest.mark.parametrize("zeros", [0.0, 0.6, 0.95])
def test_it_takes_little_more_than_the_entropy(zeros):
    rng = np.random.default_rng(1)
    drawn = np.clip(rng.normal(8, 3, (40, 20, 3, 3)).round(), 1, 15)
    codes = np.where(rng.random(drawn.shape) < zeros, 0, drawn).astype(np.int64)
    assert len(encode([(codes, 15)])) < 1.05 * entropy_bytes(codes) + 16


def test_whole_channels_of_zeros_cost_next_to_nothing():
    rng = np.random.default_rng(1)
    scattered = np.where(rng.random((32, 32, 3, 3)) < 0.1, 1, 0)
    together = np.zeros((32, 32, 3, 3), np.int64)
    together[:3] = np.where(rng.random((3, 32, 3, 3)) < 0.97, 1, 0)
    assert scattered.sum() == pytest.approx(together.sum(), rel=0.1)
    assert len(encode([(together, 1)])) < 0.3 * len(encode([(scattered, 1)]))


def test_a_long_row_of_bytes_carries():
    rng = np.random.default_rng(0)
    for seed in range(200):  # some of them end with a carry through many bytes of 255
        codes = np.random.default_rng(seed).integers(0, 256, 300) * (rng.random(300) < 0.7)
        assert np.array_equal(decode(encode([(codes, 255)]), [((300,), 255)])[0], codes)


def test_many_zeros_are_padded_so_that_a_reader_may_do_the_work():
    codes = np.zeros((2**21,), np.int64)
    data = encode([(codes, 3)])
    assert 0 < len(data) < 1000
    assert not decode(data, [((2**21,), 3)])[0].any()


@settings(max_examples=100)
@given(st.binary(max_size=200), st.integers(0, 20))
def test_garbage_is_codes_within_bounds_or_refused(data, levels):
    try:
        found = decode(data, [((7, 5, 3, 3), levels), ((40,), levels)])
    except CodingError:
        return
    assert all(codes.min() >= 0 and codes.max() <= levels for codes in found)


def test_a_few_bytes_cannot_claim_millions_of_weights():
    begun = time.process_time()
    for shape in ((2**24,), (2**12, 2**12), (2**20, 1, 4, 4)):
        with pytest.raises(CodingError, match="too few bytes"):
            decode(b"\xff" * 40, [(shape, 255)])
    assert time.process_time() - begun < 5


def test_bytes_behind_the_last_weight_are_refused():
    data = encode([(np.arange(16), 16)])
    with pytest.raises(CodingError, match="left over"):
        decode(data.ljust(len(data) + 8, b"\1"), [((16,), 16)])
