"""DEFLATE (RFC 1951) in exactly one way, so that the same text is the same bytes wherever it is packed.

Libraries pack alike only within one version of one of them. Here every choice is fixed, and a reader can pack what it
unpacked once more and compare: there is then no room in the packed bytes for anything but the text. ``FORMAT.md`` says
the rules; any inflate unpacks the result. Meant for short texts: about a second a megabyte.
"""

import heapq
import zlib
from collections.abc import Iterator, Mapping, Sequence

NEAREST = 16  # earlier places of the same three bytes that are compared
SHORTEST, LONGEST, FARTHEST = 3, 258, 32_768
_LONGEST_CODE, _LONGEST_LENGTH_CODE = 15, 7
_END = 256
_LENGTH_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)

Bits = tuple[int, int]  # a value, and in how many bits it is written, the lowest first
Symbol = tuple[int, Bits]  # a symbol of an alphabet, and the bits behind its code


def deflate(data: bytes) -> bytes:
    """``data`` as one final block with codes of its own."""
    tokens = list(_tokens(data))
    literals = _code_lengths(_counts((symbol for symbol, _, _ in tokens), 286), _LONGEST_CODE)
    distances = _code_lengths(_counts((far[0] for _, _, far in tokens if far), 30), _LONGEST_CODE)
    literal_codes, distance_codes = _codes(literals), _codes(distances)
    bits: list[Bits] = [(1, 1), (2, 2), *_described(_trimmed(literals, 257), _trimmed(distances, 1))]
    for symbol, more, far in tokens:
        bits += [literal_codes[symbol], more]
        if far:
            bits += [distance_codes[far[0]], far[1]]
    return _written(bits)


def zlib_stream(data: bytes) -> bytes:
    """``data`` as a zlib stream (RFC 1950), as PNG has it."""
    return b"\x78\x01" + deflate(data) + zlib.adler32(data).to_bytes(4, "big")


def inflate(packed: bytes | memoryview, size: int) -> bytes | None:
    """The ``size`` bytes that :func:`deflate` packed so; ``None`` for anything else. Never unpacks more than that."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(packed, size + 1)
    except zlib.error:
        return None
    return data if len(data) == size and deflate(data) == packed else None


def _tokens(data: bytes) -> Iterator[tuple[int, Bits, Symbol | None]]:
    """Literals and, wherever there is one, the longest match (the nearest of several); last the end of the block.

    A token is a symbol of the literal and length alphabet, its extra bits, and the distance of a match.
    """
    places: dict[bytes, list[int]] = {}
    position = 0
    while position < len(data):
        length, distance = _match(data, position, places.get(data[position : position + SHORTEST], []))
        if length:
            symbol, more = _symbol(length, _LENGTHS, 257)
            yield symbol, more, _symbol(distance, _DISTANCES, 0)
        else:
            yield data[position], (0, 0), None
        for place in range(position, position + max(length, 1)):
            places.setdefault(data[place : place + SHORTEST], []).append(place)
        position += max(length, 1)
    yield _END, (0, 0), None


def _match(data: bytes, position: int, places: Sequence[int]) -> tuple[int, int]:
    """Length and distance of the match at ``position`` among the last of ``places``; ``(0, 0)`` without one."""
    most = min(LONGEST, len(data) - position)
    length, found = 0, position
    for place in reversed(places[-NEAREST:]):
        if most < SHORTEST or position - place > FARTHEST or length == most:
            break
        if data[place + length] == data[position + length]:
            candidate = _common(data, place, position, most)
            length, found = (candidate, place) if candidate > length else (length, found)
    return length, position - found


def _common(data: bytes, first: int, second: int, most: int) -> int:
    """How many bytes from ``first`` on are those from ``second`` on, at most ``most``."""
    low, high = SHORTEST, most  # the first `low` agree
    while low < high:
        middle = (low + high + 1) // 2
        agree = data[first + low : first + middle] == data[second + low : second + middle]
        low, high = (middle, high) if agree else (low, middle - 1)
    return low


def _symbol(value: int, starts: Sequence[Bits], first: int) -> Symbol:
    """The symbol of a length or distance, and how far it lies behind the symbol's smallest one."""
    index = max(i for i, (start, _) in enumerate(starts) if start <= value)
    start, width = starts[index]
    return first + index, (value - start, width)


def _starts(first: int, widths: Sequence[int]) -> tuple[Bits, ...]:
    """The smallest value of each symbol and its number of extra bits, as RFC 1951 lays them out (3.2.5)."""
    found, start = [], first
    for width in widths:
        found.append((start, width))
        start += 1 << width
    return tuple(found)


_LENGTHS = (*_starts(3, [0] * 8 + [width for width in range(1, 6) for _ in range(4)]), (LONGEST, 0))
_DISTANCES = _starts(1, [0] * 4 + [width for width in range(1, 14) for _ in range(2)])


def _counts(symbols: Iterator[int], size: int) -> list[int]:
    counts = [0] * size
    for symbol in symbols:
        counts[symbol] += 1
    return counts


def _code_lengths(counts: Sequence[int], longest: int) -> list[int]:
    """Huffman's code lengths; among equal weights the lower symbol, then the older pair, is joined first.

    Fewer than two symbols are made two by the lowest unused ones; too deep a tree is built anew from halved counts.
    """
    used = {symbol: count for symbol, count in enumerate(counts) if count}
    for symbol in (0, 1):
        if len(used) < 2:
            used.setdefault(symbol, 1)
    lengths = _depths(used, len(counts))
    while max(lengths) > longest:
        used = {symbol: (count + 1) // 2 for symbol, count in used.items()}
        lengths = _depths(used, len(counts))
    return lengths


def _depths(counts: Mapping[int, int], size: int) -> list[int]:
    """Of every symbol in Huffman's tree, 0 for those that have no count."""
    depths, heap = [0] * size, [(count, symbol, [symbol]) for symbol, count in counts.items()]
    heapq.heapify(heap)
    for pair in range(size, size + len(heap) - 1):
        (one, _, left), (other, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in left + right:
            depths[symbol] += 1
        heapq.heappush(heap, (one + other, pair, left + right))
    return depths


def _codes(lengths: Sequence[int]) -> dict[int, Bits]:
    """The code of every symbol that has a length (RFC 1951, 3.2.2), its bits turned round for writing."""
    codes: dict[int, Bits] = {}
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - before
        codes[symbol] = int(f"{code:0{length}b}"[::-1], 2), length
        code, before = code + 1, length
    return codes


def _trimmed(lengths: list[int], least: int) -> list[int]:
    """Without the zeros at the end, but at least so many."""
    return lengths[: max([least, *(index + 1 for index, length in enumerate(lengths) if length)])]


def _described(literals: list[int], distances: list[int]) -> Iterator[Bits]:
    """The head of the block: both sets of code lengths, run by run, in a code of their own."""
    runs = list(_runs(literals + distances))
    lengths = _code_lengths(_counts((symbol for symbol, _ in runs), 19), _LONGEST_LENGTH_CODE)
    ordered, codes = _trimmed([lengths[symbol] for symbol in _LENGTH_ORDER], 4), _codes(lengths)
    yield from ((len(literals) - 257, 5), (len(distances) - 1, 5), (len(ordered) - 4, 4))
    yield from ((length, 3) for length in ordered)
    for symbol, more in runs:
        yield from (codes[symbol], more)


def _runs(lengths: Sequence[int]) -> Iterator[Symbol]:
    """Code lengths, with 16 for 3 to 6 more of the same, 17 and 18 for 3 to 10 and 11 to 138 zeros; longest first."""
    position = 0
    while position < len(lengths):
        value = lengths[position]
        run = next((n for n, other in enumerate(lengths[position:]) if other != value), len(lengths) - position)
        if value == 0 and run >= 3:
            run = min(run, 138)
            yield (18, (run - 11, 7)) if run > 10 else (17, (run - 3, 3))
        elif position and value == lengths[position - 1] and run >= 3:
            run = min(run, 6)
            yield 16, (run - 3, 2)
        else:
            run = 1
            yield value, (0, 0)
        position += run


def _written(bits: Sequence[Bits]) -> bytes:
    """The bits as bytes, from the lowest bit of each up; zeros fill the last one."""
    out, held, count = bytearray(), 0, 0
    for value, width in bits:
        held |= value << count
        count += width
        while count >= 8:
            out.append(held & 255)
            held, count = held >> 8, count - 8
    if count:
        out.append(held)
    return bytes(out)
