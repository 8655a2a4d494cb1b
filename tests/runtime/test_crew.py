"""What a helper process says, and what is made of it; that tasks are done is tested where there are tasks."""

import io
import json
from collections import deque
from types import SimpleNamespace

import pytest

from meddistill.cohort.problems import CohortError, problem
from meddistill.runtime import crew, crew_worker, processes
from meddistill.runtime.errors import InputError, MeddistillError, VerificationError


class OtherError(MeddistillError):
    """Such as a method of another package may raise."""


@pytest.fixture
def told(monkeypatch):
    """What the thread that listens to a helper tells, of a helper that answers a task with these bytes."""

    def told(said: bytes) -> list[object]:
        process = SimpleNamespace(stdin=io.BytesIO(), stdout=io.BytesIO(said), wait=lambda: 7)
        monkeypatch.setattr(processes, "start", lambda code: process)
        found: list[object] = []
        crew._Helper(b"", deque(["a task"]), found.append)._thread.join()
        return found

    return told


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (VerificationError("why"), VerificationError),
        (CohortError("why", [problem("code", "error", "it")]), InputError),
        (OtherError("why"), MeddistillError),
    ],
    ids=["known", "of another module", "of another package"],
)
def test_an_error_of_any_kind_is_raised_as_the_nearest_that_is_known(told, raised, kind):
    class Work:
        def do(self, task, tell):
            raise raised

    said = []
    crew_worker._do(Work(), "a task", said.append)
    (error,) = told(json.dumps(said[0]).encode() + b"\n")
    assert type(error) is kind
    assert "why" in str(error)


def test_what_cannot_be_understood_is_raised_not_lost(told):
    (error,) = told(b"no json\n")
    assert isinstance(error, ValueError)


def test_an_answer_that_breaks_off_is_a_helper_that_is_lost(told):
    assert told(b'{"told": 1}\n{"to') == [crew.News(told=1), crew.News(lost=7)]
