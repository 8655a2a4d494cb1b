"""Feed the package reader what a stranger might send, guided by the lines it reaches; needs `pip install atheris`.

    PYTHONPATH=src python fuzz/read_package.py fuzz/corpus -dict=fuzz/tokens.txt \\
        -runs=1000000 -timeout=20 -rss_limit_mb=512 -max_len=8192

Checksums, digests and signatures stop random bytes at the door, so an input says first which door it takes: 0 is a
whole file, 1 to 7 replace one member of a sound signed package and mend the card's digests, 8 to 14 go straight to what
reads that member. The corpus is what reached something new, minimised by ``fuzz/minimise.py``;
``tests/package/test_fuzz_corpus.py`` replays it.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType

import numpy as np

from meddistill.package import container, keys, picture, signature, tensors
from meddistill.package.audit import audit_problems
from meddistill.package.croissant import croissant_problems
from meddistill.package.members import AUDIT, CARD, CROISSANT, MEMBERS, ON_CARD, PREVIEW, README, SIGNATURE, TENSORS
from meddistill.package.read import _card, _examine, _readme_problems
from meddistill.package.types import (
    Card,
    CohortCounts,
    Images,
    Normalisation,
    Package,
    Recipe,
    Results,
    Score,
    Sizes,
    Software,
    Task,
    Terms,
)
from meddistill.package.write import encode

NAMES = tuple(MEMBERS)


@cache
def sound() -> dict[str, bytes]:
    """The members of a small signed package with an audit."""
    score = Score(mean=0.5, low=0.4, high=0.6, per_seed=(0.5, 0.5))
    card = Card(
        software=Software(name="meddistill", version="0"),
        task=Task(classes=("a", "b"), labels="soft"),
        images=Images(count=2, per_class=1, size=4, channels=1),
        normalisation=Normalisation(mean=(0.5,), std=(0.25,)),
        recipe=Recipe(method="mtt", seed=0, start="noise", network="n", plan={"k": 1}),
        cohort=CohortCounts(counts={"train": {"a": 1, "b": 2}}),
        contains_real_images=False,
        results=Results(protocol="1", network="n", seeds=2, splits={"val": {"distilled": {"auroc": score}}}),
        bytes=Sizes(cohort_train=99),
        terms=Terms(licence="CC0"),
    )
    package = Package(
        images=np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 1, 4, 4),
        labels=np.array([[0.75, 0.25], [0.25, 0.75]], np.float32),
        step_sizes=np.array([0.1], np.float32),
        card=card,
        audit={"attack": {"advantage": 0.0}},
    )
    members = {name: bytes(data) for name, data in container.unpack(encode(package), []).items()}
    return members | {SIGNATURE: _signature(members)}


def package_file(data: bytes) -> bytes:
    """The file that an input stands for."""
    door, content = (data[0] % 15, data[1:]) if data else (0, b"")
    if door == 0:
        return content
    members = {**sound(), NAMES[(door - 1) % 7]: content}
    digests = {name: hashlib.sha256(members[name]).hexdigest() for name in NAMES if name in ON_CARD}
    return container.pack({**members, CARD: _mended(members[CARD], digests)})


def examine(data: bytes) -> None:
    """Read an input; whatever it is, the reader must say so without an exception, in short lines, within a second.

    The second is one of computing: on a busy machine a clock on the wall (libFuzzer's ``-timeout``) cries wolf.
    """
    begun = time.process_time()
    if data and data[0] % 15 > 7:
        problems = member_problems(NAMES[data[0] % 15 - 8], data[1:])
    else:
        found = _examine(package_file(data))[0]
        problems = list(found.problems)
        assert found.ok == (not problems)
    assert all(len(problem) < 500 for problem in problems)
    assert time.process_time() - begun < 1


def member_problems(name: str, content: bytes) -> list[str]:
    """What one member's own checks say of it."""
    members, problems = {**sound(), name: content}, list[str]()
    if name == TENSORS:
        tensors.decode(memoryview(content), known_card(), problems)
    elif name == CARD:
        _card({CARD: memoryview(content)}, problems)
    elif name == README:
        problems += _readme_problems(memoryview(content))
    elif name == PREVIEW:
        problems += filter(None, [picture.png_problem(memoryview(content))])
    elif name == CROISSANT:
        problems += croissant_problems(content, {})
    elif name == AUDIT:
        problems += audit_problems(content)
    else:
        others = {other: hashlib.sha256(data).hexdigest() for other, data in members.items() if other != name}
        problems += filter(None, [signature.check(content, others)[1]])
    return problems


@cache
def known_card() -> Card:
    """The sound package's card."""
    return Card.from_dict(json.loads(sound()[CARD]))


def seeds() -> dict[str, bytes]:
    """An input for every door."""
    whole = container.pack(sound())
    inside = {f"member-{door}": bytes([door]) + sound()[NAMES[(door - 1) % 7]] for door in range(1, 15)}
    return {"file": b"\x00" + whole, **inside}


def _signature(members: dict[str, bytes]) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key = keys.public_half(private)
    payload = signature.statement(key, {name: hashlib.sha256(data).hexdigest() for name, data in members.items()})
    return signature.envelope(key, private.sign(signature.message(payload)), payload)


def _mended(card: bytes, digests: dict[str, str]) -> bytes:
    try:
        fields = json.loads(card)
        return json.dumps({**fields, "digests": digests}).encode()
    except (ValueError, TypeError, RecursionError):
        return card


def _functions(holder: object, module: str) -> Iterator[FunctionType]:
    """The functions that a module defines, methods included."""
    for attribute in list(vars(holder).values()):
        if isinstance(attribute, FunctionType) and attribute.__module__ == module:
            yield attribute
        elif isinstance(attribute, type) and attribute.__module__ == module:
            yield from _functions(attribute, module)


def main() -> None:
    """Fuzz; the first argument is the corpus folder, which gets the seeds if it is empty; the rest are libFuzzer's."""
    import atheris

    folder = Path(sys.argv[1])
    if not any(folder.iterdir()):
        for name, data in seeds().items():
            (folder / name).write_bytes(data)
    for module in [module for name, module in sys.modules.items() if name.startswith("meddistill.package")]:
        for function in _functions(module, module.__name__):
            atheris.instrument_func(function)
    atheris.Setup(sys.argv, examine)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
