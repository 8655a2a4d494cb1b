"""A display that keeps what it is told."""

from meddistill.runtime.progress import Silent


class Told(Silent):
    """``warnings`` and ``notes``, in order."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)
