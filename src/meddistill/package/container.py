"""The outer file: a plain zip archive of which every byte is determined by the members' names and contents.

Because there is exactly one archive for given members, a reader need not guess what a strange one means: whatever
differs (compression, extra fields, comments, appended or hidden bytes, a second table of contents) is refused.
"""

import re
import struct
import zlib
from collections.abc import Mapping

from meddistill.package import limits
from meddistill.package.text import quote

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION, _FLAGS, _STORED, _TIME, _DATE = 20, 0, 0, 0, 0x21  # 1 January 1980, the earliest that zip can say
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{limits.MAX_NAME - 1}}}")

Buffer = bytes | memoryview


def pack(members: Mapping[str, bytes]) -> bytes:
    """The archive with these members, in this order."""
    parts, sums = [], {}
    for name, data in members.items():
        sums[name] = (zlib.crc32(data), len(data))
        parts += [_local(name, *sums[name]), data]
    return b"".join([*parts, _table(sums)])


def unpack(data: bytes, problems: list[str]) -> dict[str, memoryview]:
    """The members of an archive as views into ``data``; what is wrong is appended to ``problems``.

    Nothing is decompressed and nothing is allocated by what the archive claims.
    """
    members: dict[str, memoryview] = {}
    sums: dict[str, tuple[int, int]] = {}
    view, position = memoryview(data), 0
    while data[position : position + 4] == b"PK\x03\x04":
        name, end, problem = _member(view, position)
        if problem is None and (name in members or len(members) == limits.MAX_MEMBERS):
            problem = f"the member {quote(name)} is there twice, or there are more than {limits.MAX_MEMBERS} members"
        if problem is not None:
            problems.append(problem)
            return members
        members[name] = view[position + _LOCAL.size + len(name) : end]
        sums[name] = (_LOCAL.unpack_from(data, position)[6], len(members[name]))
        if zlib.crc32(members[name]) != sums[name][0]:
            problems.append(f"{name}: its checksum is wrong; the file was damaged or altered")
        position = end
    if problem := _tail_problem(data, position, sums):
        problems.append(problem)
    return members


def _member(view: memoryview, position: int) -> tuple[str, int, str | None]:
    """Name and end of the member at ``position``, and what is wrong with its header."""
    if len(view) < position + _LOCAL.size:
        return "", 0, "the file ends inside a member's header; it was truncated"
    header = _LOCAL.unpack_from(view, position)
    _, version, flags, method, time, date, _, packed, size, name_length, extra_length = header
    start = position + _LOCAL.size
    raw = bytes(view[start : start + min(name_length, 4 * limits.MAX_NAME)])
    name = raw.decode("ascii", "replace")
    if name_length > limits.MAX_NAME or not _NAME.fullmatch(name):
        return name, 0, f"a member is named {quote(name)}; expected one of the format's names"
    if method != _STORED or packed != size:
        return name, 0, f"{name} is compressed (zip method {method}); packages are stored uncompressed"
    if (version, flags, time, date, extra_length) != (_VERSION, _FLAGS, _TIME, _DATE, 0):
        return name, 0, f"{name}: its zip header is not a package's (repacked by another program?); write it anew"
    end = start + name_length + size
    problem = None if end <= len(view) else f"{name} should have {size} bytes, but the file ends before; truncated"
    return name, end, problem


def _tail_problem(data: bytes, position: int, sums: Mapping[str, tuple[int, int]]) -> str | None:
    expected = _table(sums)
    if data[position : position + len(expected) + 1] == expected:
        return None
    if not sums:
        return "this is not a package: it does not begin as a zip archive does"
    if len(data) - position < len(expected):
        return "the table of contents at the end is cut off; the file was truncated"
    return (
        "the table of contents does not agree with the members, or something follows it; damaged, altered or added to"
    )


def _local(name: str, checksum: int, size: int) -> bytes:
    fields = (_VERSION, _FLAGS, _STORED, _TIME, _DATE, checksum, size, size, len(name), 0)
    return _LOCAL.pack(b"PK\x03\x04", *fields) + name.encode("ascii")


def _table(sums: Mapping[str, tuple[int, int]]) -> bytes:
    """Zip's central directory and end record for members with these checksums and sizes."""
    entries, position = [], 0
    for name, (checksum, size) in sums.items():
        fields = (_VERSION, _VERSION, _FLAGS, _STORED, _TIME, _DATE, checksum, size, size, len(name), 0, 0, 0, 0, 0)
        entries.append(_CENTRAL.pack(b"PK\x01\x02", *fields, position) + name.encode("ascii"))
        position += _LOCAL.size + len(name) + size
    directory = b"".join(entries)
    end = _END.pack(b"PK\x05\x06", 0, 0, len(sums), len(sums), len(directory), position, 0)
    return directory + end
