"""The outer file: a plain zip archive of which every byte is determined by the members' names and contents.

Because there is exactly one archive for given members, a reader need not guess what a strange one means: whatever
differs (another compression, extra fields, comments, appended or hidden bytes, a second table of contents) is refused.
"""

import re
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from meddistill.package import limits
from meddistill.package.deflate import deflate, inflate
from meddistill.package.members import DEFLATED
from meddistill.package.text import quote

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION, _FLAGS, _TIME, _DATE = 20, 0, 0, 0x21  # 1 January 1980, the earliest that zip can say
_METHODS = {0: "stored (0)", 8: "deflated (8)"}
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{limits.MAX_NAME - 1}}}")


class Entry(NamedTuple):
    """What zip says of a member: how it is packed, and of its content the CRC-32, both sizes in bytes."""

    method: int
    checksum: int
    packed: int
    size: int


def pack(members: Mapping[str, bytes]) -> bytes:
    """The archive with these members, in this order."""
    parts, entries = [], {}
    for name, data in members.items():
        method = _method(name, len(data))
        packed = deflate(data) if method else data
        entries[name] = Entry(method, zlib.crc32(data), len(packed), len(data))
        parts += [_local(name, entries[name]), packed]
    return b"".join([*parts, _table(entries)])


def unpack(data: bytes, problems: list[str]) -> dict[str, memoryview]:
    """The members of an archive, stored ones as views into ``data``; what is wrong is appended to ``problems``.

    Nothing is allocated by what the archive claims: two short texts are all that is ever decompressed.
    """
    members: dict[str, memoryview] = {}
    entries: dict[str, Entry] = {}
    view, position = memoryview(data), 0
    while data[position : position + 4] == b"PK\x03\x04":
        name, entry, problem = _header(view, position)
        if problem is None and (name in members or len(members) == limits.MAX_MEMBERS):
            problem = f"the member {quote(name)} is there twice, or there are more than {limits.MAX_MEMBERS} members"
        start = position + _LOCAL.size + len(name)
        content = _content(entry, view[start : start + entry.packed]) if problem is None else None
        if content is None:
            problems.append(problem or f"{name} is not compressed as a package's is; damaged, altered or packed anew")
            return members
        if zlib.crc32(content) != entry.checksum:
            problems.append(f"{name}: its checksum is wrong; the file was damaged or altered")
        members[name], entries[name] = content, entry
        position = start + entry.packed
    if problem := _tail_problem(data, position, entries):
        problems.append(problem)
    return members


def _method(name: str, size: int) -> int:
    """How a member of that name and size is packed: zip's number."""
    return 8 if name in DEFLATED and size <= limits.MAX_DEFLATED_BYTES else 0


def _header(view: memoryview, position: int) -> tuple[str, Entry, str | None]:
    """Name and entry of the member at ``position``, and what is wrong with its header."""
    if len(view) < position + _LOCAL.size:
        return "", Entry(0, 0, 0, 0), "the file ends inside a member's header; it was truncated"
    header = _LOCAL.unpack_from(view, position)
    _, version, flags, method, time, date, checksum, packed, size, name_length, extra_length = header
    entry, start = Entry(method, checksum, packed, size), position + _LOCAL.size
    raw = bytes(view[start : start + min(name_length, 4 * limits.MAX_NAME)])
    name = raw.decode("ascii", "replace")
    if name_length > limits.MAX_NAME or not _NAME.fullmatch(name):
        return name, entry, f"a member is named {quote(name)}; expected one of the format's names"
    if (version, flags, time, date, extra_length) != (_VERSION, _FLAGS, _TIME, _DATE, 0):
        return name, entry, f"{name}: its zip header is not a package's (repacked by another program?); write it anew"
    if start + name_length + packed > len(view):
        return name, entry, f"{name} should have {packed} bytes, but the file ends before; truncated"
    wanted = _method(name, size)
    if method != wanted or (wanted == 0 and packed != size):
        found = _METHODS.get(method, f"compressed by zip method {method}")
        return name, entry, f"{name}, {size} bytes, is {found} in {packed}; a package's is {_METHODS[wanted]}"
    return name, entry, None


def _content(entry: Entry, packed: memoryview) -> memoryview | None:
    """The member's content; ``None`` if it is compressed in another way than ours, or to another size."""
    if entry.method == 0:
        return packed
    data = inflate(packed, entry.size)
    return None if data is None else memoryview(data)


def _tail_problem(data: bytes, position: int, entries: Mapping[str, Entry]) -> str | None:
    expected = _table(entries)
    if data[position : position + len(expected) + 1] == expected:
        return None
    if not entries:
        return "this is not a package: it does not begin as a zip archive does"
    if len(data) - position < len(expected):
        return "the table of contents at the end is cut off; the file was truncated"
    return (
        "the table of contents does not agree with the members, or something follows it; damaged, altered or added to"
    )


def _local(name: str, entry: Entry) -> bytes:
    method, *numbers = entry
    fields = (_VERSION, _FLAGS, method, _TIME, _DATE, *numbers, len(name), 0)
    return _LOCAL.pack(b"PK\x03\x04", *fields) + name.encode("ascii")


def _table(entries: Mapping[str, Entry]) -> bytes:
    """Zip's central directory and end record."""
    listed, position = [], 0
    for name, (method, *numbers) in entries.items():
        fields = (_VERSION, _VERSION, _FLAGS, method, _TIME, _DATE, *numbers, len(name), 0, 0, 0, 0, 0)
        listed.append(_CENTRAL.pack(b"PK\x01\x02", *fields, position) + name.encode("ascii"))
        position += _LOCAL.size + len(name) + entries[name].packed
    directory = b"".join(listed)
    end = _END.pack(b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), position, 0)
    return directory + end
