"""Weights from a file: the function is the classic network's, and whatever else the file is, it is refused by name."""

import pickle

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from meddistill.pretrain import imagenet
from meddistill.pretrain.imagenet import read_encoder
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream

WIDTH = 4


class Block(nn.Module):
    """The basic block of He et al. 2016, with the names that public weights have."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps):
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(inner + (maps if self.downsample is None else self.downsample(maps)))


class Classic(nn.Module):
    """A narrow ResNet-18 for photographs."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTH)
        widths = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
        for stage in range(4):
            blocks = (
                Block(widths[stage], widths[stage + 1], 2 if stage else 1),
                Block(widths[stage + 1], widths[stage + 1], 1),
            )
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(8 * WIDTH, 10)

    def forward(self, images):
        maps = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(maps)))).mean((2, 3))


@pytest.fixture(scope="module")
def classic():
    """With statistics of its own, as training leaves them."""
    torch.manual_seed(0)
    network = Classic()
    network.train()
    for _ in range(3):
        network(torch.randn(8, 3, 64, 64) * 2 + 1)
    return network.eval()


@pytest.fixture
def state(classic):
    return {name: tensor.clone() for name, tensor in classic.state_dict().items()}


def saved(tmp_path, state):
    torch.save(state, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def affine(named, channels=3, size=128):
    return named(f"resnet18-w{WIDTH}-affine", channels=channels, size=size)


def test_features_are_those_of_the_classic_network(tmp_path, classic, state, named):
    network, images = affine(named), torch.randn(2, 3, 128, 128, generator=stream(0, "x"))
    encoder = read_encoder(saved(tmp_path, state), network)
    assert tuple(param.shape for param in encoder) == network.shapes[:-2]
    with torch.no_grad():
        torch.testing.assert_close(network.features(encoder, images), classic(images), rtol=1e-4, atol=1e-5)


def test_a_grey_image_is_seen_as_its_three_channels_would_be(tmp_path, classic, state, named):
    network, grey = affine(named, channels=1), torch.randn(2, 1, 128, 128, generator=stream(0, "x"))
    encoder = read_encoder(saved(tmp_path, state), network)
    with torch.no_grad():
        expected = classic(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(network.features(encoder, grey), expected, rtol=1e-4, atol=1e-5)


def test_small_images_are_enlarged(tmp_path, classic, state, named):
    network, small = affine(named, size=28), torch.randn(2, 3, 28, 28, generator=stream(0, "x"))
    encoder = read_encoder(saved(tmp_path, state), network)
    with torch.no_grad():
        large = F.interpolate(small, size=(112, 112), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network.features(encoder, small), classic(large), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrap", [lambda s: {"state_dict": s}, lambda s: {"model": {f"module.{k}": v for k, v in s.items()}}]
)
def test_wrapped_and_prefixed_files_and_safetensors_are_the_same(tmp_path, state, named, wrap):
    plain, wrapped = (
        read_encoder(saved(tmp_path, state), affine(named)),
        read_encoder(saved(tmp_path, wrap(state)), affine(named)),
    )
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    safe = read_encoder(tmp_path / "weights.safetensors", affine(named))
    for others in (wrapped, safe):
        assert all(torch.equal(a, b) for a, b in zip(plain, others, strict=True))


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: without(s, "layer3.0.downsample.1.running_var"), r"has no layer3.0.downsample.1.running_var"),
        (lambda s: {}, r"has no conv1.weight, bn1.weight, bn1.bias and \d+ more"),
        (lambda s: s | {"conv1.weight": torch.zeros(WIDTH, 3, 3, 3)}, r"conv1.weight has the shape \[4, 3, 3, 3\]"),
        (lambda s: s | {"conv1.weight": torch.zeros(7)}, r"conv1.weight has the shape \[7\]"),
        (lambda s: s | {"bn1.bias": torch.full((WIDTH,), torch.nan)}, "bn1.bias has numbers that are none"),
        (lambda s: s | {"bn1.bias": torch.zeros(WIDTH, dtype=torch.int64)}, "bn1.bias has numbers that are none"),
        (lambda s: s | {"bn1.running_var": -torch.ones(WIDTH)}, "bn1.running_var has a negative variance"),
        (lambda s: torch.zeros(3), "holds a Tensor"),
        (lambda s: [s], "holds a list"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, state, named, change, expected):
    with pytest.raises(InputError, match=expected):
        read_encoder(saved(tmp_path, change(state)), affine(named))


class Harmful:
    def __reduce__(self):
        return (open, ("harm", "w"))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_nothing_in_a_file_is_executed_and_broken_ones_are_refused(tmp_path, named, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    for data in (pickle.dumps(Harmful()), b"", b"PK\x03\x04 not a zip", b"\xff" * 64, b"{}"):
        path.write_bytes(data)
        with pytest.raises(InputError, match="cannot read weights"):
            read_encoder(path, affine(named))
    torch.save({"conv1.weight": Harmful()}, path)
    with pytest.raises(InputError, match="cannot read weights"):
        read_encoder(path, affine(named))
    assert not (tmp_path / "harm").exists()


def test_files_that_are_missing_or_too_large_and_other_networks_are_refused(tmp_path, state, named, monkeypatch):
    with pytest.raises(InputError, match=r"there is no file .*none.pth"):
        read_encoder(tmp_path / "none.pth", affine(named))
    path = saved(tmp_path, state)
    with pytest.raises(InputError, match="do not fit resnet18-w4: choose resnet18-affine"):
        read_encoder(path, named("resnet18-w4"))
    with pytest.raises(InputError, match="has the shape"):
        read_encoder(path, named("resnet18-w8-affine", channels=3))
    monkeypatch.setattr(imagenet, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="more than 1000 bytes"):
        read_encoder(path, affine(named))
