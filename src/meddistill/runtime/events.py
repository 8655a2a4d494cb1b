"""The event log of a run: one JSON object a line, appended, never rewritten."""

import json
import time
from pathlib import Path
from typing import Any

from meddistill.runtime.files import write_error


class EventLog:
    """Appends events to a JSONL file; without a path it swallows them.

    Every line has ``time`` (Unix seconds, for people only: nothing is computed from it) and ``event`` (its kind),
    and the fields of that kind. Images, file names and patient ids are never logged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def write(self, event: str, **fields: Any) -> None:
        """Append one event. Raises :class:`~meddistill.runtime.errors.OutputError`."""
        if self._path is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, allow_nan=False)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise write_error(self._path, error) from error
