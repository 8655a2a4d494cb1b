"""The event log of a run: one JSON object a line, appended, never rewritten."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from meddistill.runtime.files import write_error

Listener = Callable[[Mapping[str, Any]], None]


class EventLog:
    """Appends events to a JSONL file; without a path it swallows them.

    Every line has ``time`` (Unix seconds, for people only: nothing is computed from it) and ``event`` (its kind),
    and the fields of that kind. Images, file names and patient ids are never logged. ``listener`` is told every event
    once it is written.
    """

    def __init__(self, path: Path | None = None, listener: Listener | None = None) -> None:
        self._path, self._listener = path, listener

    def write(self, event: str, **fields: Any) -> None:
        """Append one event. Raises :class:`~meddistill.runtime.errors.OutputError`."""
        if self._path is None:
            return
        told = {"time": round(time.time(), 3), "event": event, **fields}
        line = json.dumps(told, allow_nan=False)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise write_error(self._path, error) from error
        if self._listener is not None:
            self._listener(told)


def told(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events in a log that this program wrote; none without one, and none of a line that was cut short."""
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)
