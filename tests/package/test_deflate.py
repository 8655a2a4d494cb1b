"""The one way to deflate: any inflate reads it, close to the best libraries in size, and nothing else passes."""

import hashlib
import time
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meddistill.package.deflate import deflate, inflate, zlib_stream

RNG = np.random.default_rng(3)
FIBONACCI = [1, 1]
while len(FIBONACCI) < 22:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])
DEEP = np.repeat(np.arange(22, dtype=np.uint8), FIBONACCI)  # Huffman's own tree is deeper than DEFLATE allows


TEXTS = {
    "nothing": b"",
    "one": b"a",
    "two": b"ab",
    "three-alike": b"aaa",
    "run-of-258": b"a" * 259,
    "run-of-259": b"a" * 260,
    "zeros": bytes(32_768),
    "all-bytes": bytes(range(256)) * 3,
    "noise": RNG.bytes(32_768),
    "few-letters": RNG.integers(0, 3, 32_768, dtype=np.uint8).tobytes(),
    "deep-tree": RNG.permutation(DEEP).tobytes(),
    "far": RNG.bytes(300) + bytes(32_768 - 600) + RNG.bytes(300),
    "farthest": (start := RNG.bytes(50)) + RNG.bytes(32_768 - 50) + start,
    "too-far": start + RNG.bytes(32_768 - 49) + start,
    "same-three": b"".join(b"abc" + bytes([i % 251]) for i in range(8_192)),
    "same-start": b"".join(b"abcdefghijklmnop" * 15 + bytes([i % 251]) for i in range(130)),
    "prose": b"The quick brown fox jumps over the lazy dog, number %d. " * 300,
}

STABLE = ("all-bytes", "one", "prose", "run-of-258", "same-start", "same-three", "three-alike", "two", "zeros")


@pytest.mark.parametrize("data", TEXTS.values(), ids=TEXTS)
def test_any_inflate_reads_it(data: bytes) -> None:
    packed = deflate(data)
    stream = zlib.decompressobj(-15)
    assert stream.decompress(packed) == data
    assert stream.eof
    assert not stream.unused_data
    assert inflate(packed, len(data)) == data
    assert zlib.decompress(zlib_stream(data)) == data


@given(st.binary(max_size=600) | st.text("ab01,", max_size=3_000).map(str.encode))
@example(b"")
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(data: bytes) -> None:
    assert inflate(deflate(data), len(data)) == data


@pytest.mark.parametrize("data", TEXTS.values(), ids=TEXTS)
def test_a_text_takes_less_than_half_a_second(data: bytes) -> None:
    """A reader deflates again what strangers sent: no text may make that slow."""
    start = time.process_time()
    deflate(data)
    assert time.process_time() - start < 0.5


def test_as_small_as_a_library_makes_it(members: dict[str, bytes]) -> None:
    for name in ("card.json", "README.md"):
        assert len(deflate(members[name])) < 1.05 * len(zlib.compress(members[name], 9))


def test_these_bytes_never_change() -> None:
    """A change here is another version of the format: files that were sound would be refused."""
    assert deflate(b"").hex() == "05c181000000000010ffd508"
    assert hashlib.sha256(b"".join(deflate(TEXTS[name]) for name in STABLE)).hexdigest()[:16] == "b14d9586b1c86c97"


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_the_same_text_packed_by_a_library_is_refused(level: int) -> None:
    data = TEXTS["prose"]
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed = stream.compress(data) + stream.flush()
    assert zlib.decompress(packed, -15) == data
    assert inflate(packed, len(data)) is None


def test_a_wrong_size_and_what_stands_behind_are_refused() -> None:
    packed = deflate(b"hello hello hello")
    assert inflate(packed, 17) == b"hello hello hello"
    for changed, size in [(packed, 16), (packed, 18), (packed + b"x", 17), (packed[:-1], 17), (b"", 0), (b"\xff", 1)]:
        assert inflate(changed, size) is None


@given(st.binary(max_size=200), st.integers(0, 300))
@settings(max_examples=300, deadline=None)
def test_noise_is_refused_without_another_exception(packed: bytes, size: int) -> None:
    found = inflate(packed, size)
    assert found is None or deflate(found) == packed
