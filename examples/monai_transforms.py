"""Train on a package with MONAI's transforms, in a loop of one's own.

    pip install monai
    python examples/monai_transforms.py FILE.mdz [--test SOURCE]

The package is an ordinary data set of PyTorch: (intensities, label probabilities). MONAI's transforms take the single
images; the loss takes the soft labels as they are.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.transforms import Compose, RandAffine, RandFlip, RandGaussianNoise
from torch import nn
from torch.utils.data import DataLoader

from meddistill import api


def network(channels: int, classes: int) -> nn.Module:
    """A small network of one's own; any that takes the images will do."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(64 * 16, classes)),
    )


def main() -> None:
    """Train, and tell the accuracy on real images if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--epochs", type=int, default=200)
    asked = parser.parse_args()
    torch.manual_seed(0)
    augment = Compose(
        [
            RandFlip(prob=0.5, spatial_axis=1),
            RandAffine(prob=0.8, rotate_range=0.15, translate_range=2, scale_range=0.1, padding_mode="border"),
            RandGaussianNoise(prob=0.3, std=0.02),
            lambda image: torch.as_tensor(image).float(),  # MONAI's tensors carry metadata that a loader cannot stack
        ]
    )
    data = api.package_dataset(asked.package, augment)
    net = network(data.card.images.channels, len(data.classes))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    for _ in range(asked.epochs):
        for images, labels in DataLoader(data, batch_size=32, shuffle=True):
            loss = F.cross_entropy(net(data.normalisation.apply(images)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    print(f"trained on {len(data)} images, last loss {loss:.3f}")
    if asked.test is not None:
        real = api.cohort_dataset(asked.test, "test", size=data.card.images.size, leak="drop")
        net.eval()
        with torch.no_grad():
            right = [
                (net(data.normalisation.apply(images)).argmax(1) == labels).float()
                for images, labels in DataLoader(real, batch_size=256)
            ]
        print(f"accuracy on {len(real)} real images: {torch.cat(right).mean():.1%}")


if __name__ == "__main__":
    main()
