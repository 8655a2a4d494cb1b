"""An encoder on disk: safetensors, tensor by tensor in the network's order. It is trained on patients' images."""

from pathlib import Path

import safetensors
import safetensors.torch

from meddistill.nets.network import Network
from meddistill.nets.params import Params
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic

_REMEDY = "delete it, and the .json of that name, to have it pretrained again"


def save_encoder(path: Path, encoder: Params) -> int:
    """Write the file; its bytes, which are what sharing the encoder takes."""
    data = safetensors.torch.save({f"{place:03}": param.cpu().contiguous() for place, param in enumerate(encoder)})
    write_atomic(path, data)
    return len(data)


def load_encoder(path: Path, network: Network) -> Params:
    """The encoder of ``network`` in the file. Raises :class:`InputError` if it is not that."""
    try:
        found = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"cannot read the encoder {path} ({error}): {_REMEDY}") from None
    params = tuple(found[name] for name in sorted(found))
    if tuple(param.shape for param in params) != network.shapes[:-2]:
        raise InputError(f"{path} is not an encoder of {network.name}: {_REMEDY}")
    return params
