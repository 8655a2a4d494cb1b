"""Whom this user trusts: public keys under names of the user's own choice, in one file of the configuration folder.

The folder is ``$MEDDISTILL_CONFIG`` if that is set; else ``meddistill`` in ``$XDG_CONFIG_HOME`` or ``~/.config``
(Linux), ``~/Library/Application Support`` (macOS) or ``%APPDATA%`` (Windows). A name in a package would be worth
nothing, anybody can write it; the name beside a key here is what the user found out by telephone.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from meddistill.package import keys, strict_json, text
from meddistill.package.read import Verification
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic

MAX_NAME = 100  # characters
_MAX_STORE_BYTES = 2**20


def config_folder() -> Path:
    """The user's configuration folder of this program; it need not exist."""
    if chosen := os.environ.get("MEDDISTILL_CONFIG"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "meddistill"


def store_file() -> Path:
    """Where the trusted keys are."""
    return config_folder() / "trusted.json"


def trusted() -> dict[str, bytes]:
    """The trusted public keys by name. Raises :class:`InputError` where the store is damaged."""
    path = store_file()
    try:
        with open(path, "rb") as file:
            entries = strict_json.parse(file.read(_MAX_STORE_BYTES + 1), _MAX_STORE_BYTES)
        return {name: keys.parse_public(pem) for name, pem in entries.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read the trusted keys in {path}: {error.strerror or error}") from error
    except (ValueError, AttributeError) as error:
        raise InputError(f"the trusted keys in {path} are damaged ({error}): mend the file, or delete it") from None


def add(key: bytes, name: str) -> None:
    """Trust a public key under a name. Raises :class:`InputError` for a name or key that is there under another one."""
    known = trusted()
    if not name.strip() or len(name) > MAX_NAME or text.refused(name):
        raise InputError(f"{text.quote(name)} cannot be a key's name: give 1 to {MAX_NAME} visible characters")
    if known.get(name, key) != key:
        raise InputError(
            f"another key is trusted as {text.quote(name)} already: remove it first, or choose another name"
        )
    if other := next((known_name for known_name, one in known.items() if one == key and known_name != name), None):
        raise InputError(f"this key is trusted as {text.quote(other)} already: remove that first to rename it")
    _save(known | {name: key})


def remove(name: str) -> None:
    """Trust a key no longer. Raises :class:`InputError` for an unknown name."""
    known = trusted()
    if name not in known:
        listed = ", ".join(map(text.quote, known)) or "nobody"
        raise InputError(f"no key is trusted as {text.quote(name)}; trusted are: {listed}")
    _save({other: key for other, key in known.items() if other != name})


def judge(found: Verification, key: bytes | None = None) -> Verification:
    """What was found, with the name of its signer if ``key`` is the signer's or, without one, if the store knows it."""
    if found.signer is None:
        return found
    names = trusted() if key is None else {"the key that was given": key}
    name = next((name for name, known in names.items() if keys.fingerprint(known) == found.signer), None)
    return replace(found, signer_name=name)


def warning(found: Verification) -> str | None:
    """What to tell somebody who uses a sound package; ``None`` where its signer is trusted."""
    if found.answer == "unsigned":
        return "the package is not signed: nobody vouches for who made it; use it only if you had it from a safe hand"
    if found.answer == "stranger":
        return (
            f"the package is signed by a key that you do not trust ({found.signer}): compare the fingerprint with the "
            "sender by telephone, then `meddistill trust KEY.pub.pem --name NAME`"
        )
    return None


def _save(known: Mapping[str, bytes]) -> None:
    document = {name: keys.public_pem(key) for name, key in sorted(known.items())}
    write_atomic(store_file(), (json.dumps(document, indent=1) + "\n").encode())
