"""Read a stranger's package: everything is checked before anything is used, in bounded memory and time.

The file is read once, at most 140 MiB of it. Checks go from the outside inwards (archive, digests, signature, card,
tensors, texts) and list all they find. Needs numpy and safetensors, and cryptography where a file is signed; runs
nothing that is in the file.
"""

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from meddistill.package import (
    container,
    croissant,
    keys,
    limits,
    mistaken,
    picture,
    schema,
    signature,
    strict_json,
    tensors,
    text,
)
from meddistill.package.audit import audit_problems
from meddistill.package.members import (
    AUDIT,
    CARD,
    CROISSANT,
    MEMBERS,
    ON_CARD,
    OPTIONAL,
    PREVIEW,
    README,
    SIGNATURE,
    TENSORS,
)
from meddistill.package.types import Card, Package
from meddistill.runtime.errors import InputError, VerificationError

Answer = Literal["trusted", "stranger", "unsigned", "broken"]
EXIT_CODES: dict[Answer, int] = {"trusted": 0, "broken": VerificationError.exit_code, "unsigned": 4, "stranger": 5}

# Behind the closing bracket of every link and reference; one behind an odd number of backslashes closes nothing.
_LINK = re.compile(r"(?<!\\)(?:\\\\)*\](?:\((?!preview\.png\))|:)")


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What :func:`verify` found: ``members`` are sizes in bytes, ``digests`` SHA-256 as computed from the file.

    ``signer`` is the fingerprint of the key whose signature holds; ``signer_name`` what whoever trusts it calls it.
    """

    ok: bool
    problems: tuple[str, ...]
    members: Mapping[str, int]
    digests: Mapping[str, str]
    card: Card | None = None
    signer: str | None = None
    signer_name: str | None = None

    @property
    def answer(self) -> Answer:
        """``trusted`` (signed by a key the user trusts), ``stranger`` (by another), ``unsigned``, ``broken``."""
        if not self.ok:
            return "broken"
        if self.signer is None:
            return "unsigned"
        return "stranger" if self.signer_name is None else "trusted"

    @property
    def exit_code(self) -> int:
        """What ``meddistill verify`` ends with."""
        return EXIT_CODES[self.answer]

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        members = {name: {"bytes": size, "sha256": self.digests[name]} for name, size in self.members.items()}
        signer = None if self.signer is None else {"fingerprint": self.signer, "name": self.signer_name}
        return {
            "ok": self.ok,
            "answer": self.answer,
            "signer": signer,
            "problems": list(self.problems),
            "members": members,
        }


def read(path: Path) -> Package:
    """The package in the file at ``path``.

    Raises :class:`InputError` where there is no such file or it is a model, and :class:`VerificationError` listing
    every problem of a file that is broken, altered or not a package.
    """
    return read_judged(path)[0]


def read_judged(path: Path) -> tuple[Package, Verification]:
    """The package in the file at ``path``, and who signed it. Raises as :func:`read`."""
    members: dict[str, memoryview] = {}
    found, arrays = _examined(path, members)
    _require_sound(path, found)
    assert found.card is not None  # it is None only where problems say why
    package = Package(
        images=tensors.images(arrays),
        labels=arrays["labels"],
        step_sizes=arrays["step_sizes"],
        card=found.card,
        audit=strict_json.parse(bytes(members[AUDIT]), MEMBERS[AUDIT]) if AUDIT in members else None,
    )
    return package, found


def open_sound(path: Path) -> tuple[dict[str, memoryview], Mapping[str, str]]:
    """The members of a sound package as they are in the file, and their digests. Raises as :func:`read`."""
    members: dict[str, memoryview] = {}
    found, _ = _examined(path, members)
    _require_sound(path, found)
    return members, found.digests


def verify(path: Path) -> Verification:
    """Check the file at ``path`` as :func:`read` does and report.

    Raises :class:`InputError` for a missing file and a model.
    """
    try:
        return _examined(path, {})[0]
    except VerificationError as error:
        return Verification(ok=False, problems=(str(error),), members={}, digests={})


def _examined(path: Path, members: dict[str, memoryview]) -> tuple[Verification, dict[str, tensors.Array]]:
    data = _load(path)
    found, arrays = _examine(data, members)
    if not found.ok:
        mistaken.refuse_model(path, data)
    return found, arrays


def _require_sound(path: Path, found: Verification) -> None:
    if not found.ok:
        listed = "\n".join(f"- {problem}" for problem in found.problems)
        raise VerificationError(
            f"{path} is not a sound package:\n{listed}\nDo not use it; ask the sender for the file anew."
        )


def _load(path: Path) -> bytes:
    """The file's bytes, never more than the limit."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
            raise InputError(f"{path} is {kind}; expected a package file (NAME.mdz)")
        with open(path, "rb") as file:
            # One byte more than there should be, so that a file that grows meanwhile is read no further, yet noticed.
            data = b"" if facts.st_size > limits.MAX_FILE_BYTES else file.read(facts.st_size + 1)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; give the path of a package (NAME.mdz)") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if facts.st_size > limits.MAX_FILE_BYTES:
        raise VerificationError(f"{path} has {facts.st_size} bytes; a package has at most {limits.MAX_FILE_BYTES}")
    return data


def _examine(
    data: bytes, members: dict[str, memoryview] | None = None
) -> tuple[Verification, dict[str, tensors.Array]]:
    """All that can be found out about a file, and its arrays; its members are put into ``members``."""
    problems: list[str] = []
    members = {} if members is None else members
    members |= container.unpack(data, problems)
    _member_problems(members, problems)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    signer = _signer(members, digests, problems)
    card = _card(members, problems)
    arrays: dict[str, tensors.Array] = {}
    if card is not None:
        _digest_problems(card, digests, problems)
    if TENSORS in members and len(members[TENSORS]) <= limits.MAX_TENSORS_BYTES:
        arrays = tensors.decode(members[TENSORS], card, problems)
    problems += [f"{README}: {problem}" for problem in _readme_problems(members.get(README))]
    if CROISSANT in members:
        found = croissant.croissant_problems(bytes(members[CROISSANT]), digests)
        problems += [f"{CROISSANT}: {problem}" for problem in found]
    if PREVIEW in members and (problem := picture.png_problem(members[PREVIEW])):
        problems.append(f"{PREVIEW}: {problem}")
    if AUDIT in members:
        problems += [f"{AUDIT}: {problem}" for problem in audit_problems(bytes(members[AUDIT]))]
    sizes = {name: len(content) for name, content in members.items()}
    listed = tuple(problems[: limits.MAX_PROBLEMS])
    verification = Verification(
        ok=not problems, problems=listed, members=sizes, digests=digests, card=card, signer=signer
    )
    return verification, arrays


def _signer(members: Mapping[str, memoryview], digests: Mapping[str, str], problems: list[str]) -> str | None:
    """The fingerprint of the key whose signature holds; ``None`` without a signature or after a problem."""
    if SIGNATURE not in members:
        return None
    others = {name: digest for name, digest in digests.items() if name != SIGNATURE}
    key, problem = signature.check(bytes(members[SIGNATURE]), others)
    if key is None:
        problems.append(f"{SIGNATURE}: {problem}")
    return None if key is None else keys.fingerprint(key)


def _card(members: Mapping[str, memoryview], problems: list[str]) -> Card | None:
    if CARD not in members or len(members[CARD]) > limits.MAX_CARD_BYTES:
        return None
    found: list[str] = []
    try:
        card = schema.read_card(strict_json.parse(bytes(members[CARD]), limits.MAX_CARD_BYTES), found)
    except ValueError as error:
        card, found = None, [str(error)]
    problems += [f"{CARD}: {problem}" for problem in found]
    return card


def _member_problems(members: Mapping[str, memoryview], problems: list[str]) -> None:
    missing = [name for name in MEMBERS if name not in members and name not in OPTIONAL]
    unknown = [name for name in members if name not in MEMBERS]
    if missing:
        problems.append(f"missing members: {', '.join(missing)}")
    if unknown:
        problems.append(f"members that the format does not know: {', '.join(map(text.quote, unknown))}")
    if not (missing or unknown) and list(members) != [name for name in MEMBERS if name in members]:
        problems.append(f"the members are in another order than {', '.join(MEMBERS)}")
    for name, limit in MEMBERS.items():
        if len(members.get(name, b"")) > limit:
            problems.append(f"{name}: {len(members[name])} bytes; at most {limit} are allowed")


def _digest_problems(card: Card, digests: Mapping[str, str], problems: list[str]) -> None:
    expected = (ON_CARD - OPTIONAL) | (ON_CARD & digests.keys())
    if card.digests.keys() != expected:
        problems.append(f"{CARD}: digests are given for {text.quote(sorted(card.digests), 200)}, not for each member")
    problems += [
        f"{name}: its digest is not the one on the card; it was altered or swapped"
        for name in sorted(expected & card.digests.keys() & digests.keys())
        if card.digests[name] != digests[name]
    ]


def _readme_problems(data: memoryview | None) -> list[str]:
    """People's programs show this text: nothing in it may act, hide or lead elsewhere."""
    if data is None or len(data) > limits.MAX_README_BYTES:
        return []
    try:
        content = str(data, "utf-8")
    except UnicodeDecodeError as error:
        return [f"not UTF-8 at byte {error.start}"]
    problems = ["HTML (the character '<')"] if "<" in content else []
    if _LINK.search(content):
        problems.append("a link or picture other than preview.png")
    if text.refused("".join(content.split("\n"))):
        problems.append("control or invisible characters")
    return [f"it holds {problem}, which a package's must not" for problem in problems]
