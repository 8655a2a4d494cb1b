"""Where memory runs out: the network and the images of a stranger's package may be more than a machine has room for."""

import contextlib
from collections.abc import Iterator

from meddistill.nets.network import Network
from meddistill.runtime.device import is_out_of_memory
from meddistill.runtime.errors import InputError


@contextlib.contextmanager
def memory_for(network: Network) -> Iterator[None]:
    """What runs inside trains or applies the network. Raises :class:`InputError` where there is no memory for it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"there is not enough memory for the network {network.name} on images of {network.size} × {network.size} "
            "pixels: choose a smaller network, run fewer processes (OMP_NUM_THREADS=1), or take a machine with more"
        ) from None
