"""A helper process that does tasks for another one: see :mod:`~meddistill.runtime.crew`."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from typing import IO, Any

import torch

from meddistill.runtime import errors
from meddistill.runtime.crew import Work
from meddistill.runtime.device import keep_freed_memory
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.processes import answers, lines


def serve() -> None:
    """Do the tasks that standard input names, one a line after the work; end at once when it ends."""
    pipe = answers()
    keep_freed_memory()
    torch.set_num_threads(1)
    work = _work(sys.stdin.buffer)
    tasks = lines()
    while True:
        _do(work, json.loads(tasks.get()), lambda words: _say(pipe, words))


def _do(work: Work, task: Any, say: Callable[[dict[str, Any]], None]) -> None:
    try:
        work.do(task, lambda told: say({"told": told}))
        say({})
    except MeddistillError as error:
        say({"error": _told_as(type(error)), "text": str(error)})


def _told_as(kind: type[MeddistillError]) -> str:
    """The nearest kind that is made of a text alone and known to the other process."""
    return next(one.__name__ for one in kind.__mro__ if one.__module__ == errors.__name__)


def _work(pipe: IO[bytes]) -> Work:
    work: Work = pickle.loads(pipe.read(int.from_bytes(pipe.read(8), "little")))
    return work


def _say(pipe: IO[bytes], words: dict[str, Any]) -> None:
    try:
        pipe.write(json.dumps(words).encode() + b"\n")
    except OSError:
        os._exit(0)
