"""Fine-tune a model that was trained on a package with a few images of one's own.

    meddistill train lungs.mdz --out model.safetensors
    python examples/fine_tune.py model.safetensors SOURCE [--images 20] [--out tuned.safetensors]

Compares three networks on the source's test images: the package's, the same after a few steps on local images, and one
trained on the local images alone. The local images are drawn from the source's training split, so many of each class.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from meddistill import api
from meddistill.nets.params import Params, leaves
from meddistill.train.model import Model, load_model, save_model

STEPS, RATE = 60, 0.003


def drawn(data: torch.utils.data.Dataset, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` images of each class, at random."""
    labels = torch.tensor([label for _, label in data])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rows = [order[labels[order] == label][:count] for label in labels.unique()]
    chosen = torch.cat(rows)
    return torch.stack([data[int(row)][0] for row in chosen]), labels[chosen]


def tuned(model: Model, start: Params, images: torch.Tensor, labels: torch.Tensor, steps: int, rate: float) -> Model:
    """The model after ``steps`` of SGD with momentum on all the images, from ``start``."""
    params, inputs = leaves(start), model.normalisation.apply(images)
    optimiser = torch.optim.SGD(params, rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        loss = F.cross_entropy(model.network.apply(params, inputs), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return replace(model, params=tuple(param.detach() for param in params))


def main() -> None:
    """Print the three accuracies; write the tuned model if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--images", type=int, default=20, help="local images of each class")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    model = load_model(asked.model)
    read = {"size": model.network.size, "fit": model.fit, "leak": model.leak, "seed": model.seed}
    train, test = (api.cohort_dataset(asked.source, split, **read) for split in ("train", "test"))
    assert train.classes == model.classes, "the source must have the model's classes"
    images, labels = drawn(train, asked.images, asked.seed)
    fresh = model.network.init(torch.Generator().manual_seed(asked.seed))
    rows = {
        "the package alone": model,
        f"and {len(labels)} local images": tuned(model, model.params, images, labels, STEPS, RATE),
        f"{len(labels)} local images alone": tuned(model, fresh, images, labels, 5 * STEPS, 10 * RATE),
    }
    inputs = model.normalisation.apply(torch.stack([image for image, _ in test]))
    wanted = torch.tensor([label for _, label in test])
    for name, found in rows.items():
        with torch.no_grad():
            right = found.network.apply(found.params, inputs).argmax(1) == wanted
        print(f"{name:<28}{right.float().mean():.1%} of {len(wanted)} test images right")
    if asked.out is not None:
        save_model(asked.out, rows[f"and {len(labels)} local images"])


if __name__ == "__main__":
    main()
