"""A module of somebody's own: in, small, and back into another instance, with what it could."""

import pytest
import torch
from tests.compress.conftest import drawn
from torch import nn

from meddistill.compress.essential import Effort
from meddistill.compress.load import load_model
from meddistill.compress.module import compress_module, load_module
from meddistill.runtime.errors import InputError

EFFORT = Effort(rounds=2, prune=40, quantise=60)


class Residual(nn.Module):
    """A convolution, a normalised residual block and a linear layer: what a ResNet is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.block = nn.Sequential(nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1, bias=False))
        self.end = nn.BatchNorm2d(24)
        self.linear = nn.Linear(24, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stem(images)
        features = torch.relu(self.end(features + self.block(features)))
        return self.linear(features.amax((2, 3)))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    module, data = Residual(), drawn(120, 0)
    optimiser = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(data.images), data.labels).backward()
        optimiser.step()
    return module.eval()


def known(module: nn.Module) -> float:
    data = drawn(400, 1)
    return float((module.eval()(data.images).argmax(1) == data.labels.argmax(1)).float().mean())


def test_in_small_and_back(trained, tmp_path):
    data, path = drawn(120, 0), tmp_path / "module.mdw"
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    report = compress_module(
        trained, path, data.images, data.labels.argmax(1), classes=2, size=0.15, saw="unknown", effort=EFFORT
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert path.stat().st_size == report.bytes_after <= 0.15 * report.bytes_before
    other = load_module(path, Residual())
    assert known(trained) > 0.9
    assert known(other) > known(trained) - 0.06
    assert other.end.num_batches_tracked.dtype == torch.int64 and int(other.end.num_batches_tracked) == 2


@pytest.mark.parametrize("count", [64, 65, 129])
def test_running_statistics_are_those_of_the_last_weights(tmp_path, count):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    data, path = drawn(count, 0), tmp_path / "module.mdw"
    compress_module(module, path, data.images, data.labels.argmax(1), classes=2, size=0.3, saw="unknown", effort=EFFORT)
    found = load_module(path, module)
    seen = found[1](found[0](data.images)).detach()
    assert found[2].running_mean == pytest.approx(seen.mean(0), abs=0.02)  # of 255 levels, over two batches or three
    assert found[2].running_var == pytest.approx(seen.var(0), rel=0.1)


def test_another_module_and_another_reader(trained, tmp_path):
    data, path = drawn(40, 0), tmp_path / "module.mdw"
    compress_module(
        trained,
        path,
        data.images,
        data.labels.argmax(1),
        classes=2,
        size=0.5,
        saw="unknown",
        effort=Effort(rounds=1, prune=1, quantise=1),
    )
    with pytest.raises(InputError, match="another module"):
        load_module(path, nn.Linear(3, 2))
    with pytest.raises(InputError, match="load_module"):
        load_model(path)


class Odd(nn.Module):
    def __init__(self, buffer: torch.Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("odd", buffer)


@pytest.mark.parametrize(
    "buffer",
    [torch.tensor([torch.nan]), torch.tensor([True]), torch.tensor([2**24]), torch.zeros(0)],
    ids=["not finite", "truth values", "large whole numbers", "empty"],
)
def test_what_cannot_be_stored_is_told(buffer, tmp_path):
    inputs, labels = torch.zeros(4, 2), torch.zeros(4).long()
    with pytest.raises(InputError, match="cannot be stored:\n- odd"):
        compress_module(Odd(buffer), tmp_path / "x", inputs, labels, classes=2, size=0.5, saw="unknown")
    assert not any(tmp_path.iterdir())
