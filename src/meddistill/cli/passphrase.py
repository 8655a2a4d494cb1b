"""Passphrases: from ``MEDDISTILL_PASSPHRASE``, or typed where nobody sees them; never from the command line."""

import os
import sys

from meddistill.runtime.errors import InputError

VARIABLE = "MEDDISTILL_PASSPHRASE"


def passphrase() -> str:
    """The passphrase of a key that is locked."""
    return os.environ.get(VARIABLE) or _typed("Passphrase: ")


def new_passphrase() -> str:
    """The passphrase of a new key; typed twice."""
    if given := os.environ.get(VARIABLE):
        return given
    first = _typed("New passphrase: ")
    if not first or first != _typed("The same again: "):
        raise InputError("the two passphrases differ, or are empty: no key was made")
    return first


def _typed(prompt: str) -> str:
    from getpass import getpass

    if not sys.stdin.isatty():
        raise InputError(f"a passphrase is needed and nobody is there to type it: put it into {VARIABLE}")
    try:
        return getpass(prompt, sys.stderr)
    except EOFError:
        raise InputError("no passphrase was given") from None
