"""Checks ``preview.png`` without an image library: only pixels, of a bounded size, and nothing beside them."""

import struct
import zlib

from meddistill.package import limits
from meddistill.package.text import quote

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS = {(0, 4): 4, (0, 8): 8, (2, 8): 24}  # of a pixel, by PNG colour type (0 grey, 2 RGB) and bit depth
_BLOCK = 2**16


def png_problem(data: memoryview) -> str | None:
    """Why this is not a 4- or 8-bit grey or 8-bit RGB PNG made of IHDR, IDAT and IEND alone; ``None`` if it is one."""
    if data[:8] != _SIGNATURE:
        return "not a PNG picture"
    position, kinds, blocks, header = 8, list[bytes](), list[memoryview](), b""
    while position < len(data):
        if len(data) < position + 12:
            return "the PNG is truncated"
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            return "the PNG is truncated"
        if struct.unpack_from(">I", data, end - 4)[0] != zlib.crc32(data[position + 4 : end - 4]):
            return f"the PNG's part {quote(kind)} has a wrong checksum"
        kinds.append(kind)
        header = bytes(data[position + 8 : end - 4]) if kind == b"IHDR" else header
        blocks += [data[position + 8 : end - 4]] * (kind == b"IDAT")
        position = end
    if len(kinds) < 3 or kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"] or len(header) != 13:
        return f"the PNG has the parts {quote(kinds)}; expected IHDR, IDAT, IEND and nothing else"
    return _header_problem(header) or _pixel_problem(header, blocks)


def _header_problem(header: bytes) -> str | None:
    width, height, depth, colour, *rest = struct.unpack(">2I5B", header)
    if (colour, depth) not in _BITS or rest != [0, 0, 0]:
        return (
            f"the PNG has bit depth {depth} and colour type {colour}; expected 4- or 8-bit grey or 8-bit RGB, "
            "not interlaced"
        )
    side = limits.MAX_PREVIEW_SIDE
    if not (1 <= width <= side and 1 <= height <= side and width * height <= limits.MAX_PREVIEW_PIXELS):
        return f"the PNG has {width} x {height} pixels; at most {side} a side and {limits.MAX_PREVIEW_PIXELS} in all"
    return None


def _pixel_problem(header: bytes, blocks: list[memoryview]) -> str | None:
    """Decompress without keeping: exactly as many bytes must come out as the size needs."""
    width, height, depth, colour = struct.unpack(">2I2B", header[:10])
    expected, found = height * (1 + (width * _BITS[colour, depth] + 7) // 8), 0
    stream = zlib.decompressobj()
    try:
        for block in blocks:
            rest: bytes | memoryview = block
            while len(rest) and found <= expected and not stream.eof:
                found += len(stream.decompress(rest, _BLOCK))
                rest = stream.unconsumed_tail
            if stream.eof and len(stream.unused_data):
                return "the PNG has data behind its pixels"
    except zlib.error:
        return "the PNG's pixels cannot be decompressed"
    complete = stream.eof and found == expected
    return None if complete else f"the PNG's pixels are not the {expected} bytes that its size needs"
