"""Processes that work for this one: they are told lines on standard input and answer on standard output.

Such a process ends when its standard input does, hence with the one that started it, however that ends.
"""

import os
import queue
import subprocess
import sys
import threading
import weakref
from typing import IO

_started: "list[weakref.ref[subprocess.Popen[bytes]]]" = []


def start(code: str) -> "subprocess.Popen[bytes]":
    """A Python process that runs ``code``, in which ``{path!r}`` becomes this one's module path."""
    # A session of its own: Ctrl-C in a terminal is for this process, which ends the other in its own time.
    process = subprocess.Popen(
        [sys.executable, "-c", code.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    _started.append(weakref.ref(process, _started.remove))
    return process


def running() -> list[int]:
    """The numbers of those that were started here and have not ended."""
    known = [found() for found in list(_started)]
    return [one.pid for one in known if one is not None and one.poll() is None]


def answers() -> IO[bytes]:
    """In such a process: where its answers go. What a library prints goes to standard error from now on."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return pipe


def lines() -> "queue.SimpleQueue[str]":
    """In such a process: what it is told from now on, line by line, without the ends of lines."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    return told


def _listen(told: "queue.SimpleQueue[str]") -> None:
    """Pass on the lines; where there are no more, the process that sent them wants no more, or is gone."""
    for line in sys.stdin.buffer:
        told.put(line.decode().rstrip("\n"))
    os._exit(0)
