"""A helper process that trains teachers: see :mod:`~meddistill.teachers.crew`."""

import json
import os
import pickle
import queue
import sys
import threading
from typing import IO

import torch

from meddistill.runtime.device import keep_freed_memory
from meddistill.runtime.errors import MeddistillError
from meddistill.teachers.crew import Job, train_group


def serve() -> None:
    """Train the groups that standard input names, one a line after the job; end at once when it ends."""
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not be taken for news
    keep_freed_memory()
    torch.set_num_threads(1)
    job = _job(sys.stdin.buffer)
    groups: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(groups,), daemon=True).start()
    while True:
        group = json.loads(groups.get())
        try:
            for task in job.store.waiting(group):
                train_group(job, task, lambda news: _say(said, points=news.points) if news.points else None)
            _say(said, complete=group)
        except MeddistillError as error:
            _say(said, error=type(error).__name__, text=str(error))


def _job(pipe: IO[bytes]) -> Job:
    job: Job = pickle.loads(pipe.read(int.from_bytes(pipe.read(8), "little")))
    return job


def _read(groups: "queue.SimpleQueue[str]") -> None:
    """Pass on the lines; where there are no more, the process that sent them wants no more, or is gone."""
    for line in sys.stdin.buffer:
        groups.put(line.decode())
    os._exit(0)


def _say(pipe: IO[bytes], *, points: int = 0, complete: list[int] | None = None, **more: str) -> None:
    try:
        pipe.write(json.dumps({"points": points, "complete": complete or [], **more}).encode() + b"\n")
    except OSError:
        os._exit(0)
