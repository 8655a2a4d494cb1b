"""What tests of several folders need."""

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Shells start background jobs with Ctrl-C ignored, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes is for benchmarks: on a busy machine the first call of anything takes seconds.
settings.register_profile("meddistill", deadline=None)
settings.load_profile("meddistill")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums in the same order everywhere; and tiny networks gain nothing from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
