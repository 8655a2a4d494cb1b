"""Distribution matching: the mean features of a class's synthetic images follow those of its real images.

Zhao & Bilen 2023 (arXiv 2110.04181), equation 4, with two changes: features are those of points on the teachers'
trajectories instead of random networks, and the distance is divided by the spread of the class means, so that its scale
does not depend on the network. No student is unrolled: an iteration costs about a tenth of one of trajectory matching.
"""

import torch
from torch import Tensor

from meddistill.distill.unroll import Learned, Outcome
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.teachers.images import LabelledImages

# Real images of each class that an iteration compares the synthetic ones with.
REAL_IMAGES = 32


def match_features(
    network: ConvNet,
    params: Params,
    learned: Learned,
    images: LabelledImages,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> Outcome:
    """The distance of class means of features and its gradient; labels and step sizes get a gradient of zero.

    A synthetic image belongs to the class that its label finds most probable. Real images are drawn with replacement.
    """
    classes = learned.label_logits.argmax(1)
    present = classes.unique().tolist()
    rows = torch.cat([_drawn(images.rows_of(label), generator) for label in present])
    with torch.no_grad():
        real = network.features(params, augmentation.draw(len(rows), generator).apply(images.inputs(rows)))
        target = real.view(len(present), REAL_IMAGES, -1).mean(1)
    variable = learned.images.detach().requires_grad_()
    made = network.features(params, augmentation.draw(len(variable), generator).apply(variable))
    means = torch.stack([made[classes == label].mean(0) for label in present])
    spread = _squared(target - target.mean(0)) if len(present) > 1 else _squared(target)
    distance = _squared(means - target) / spread.clamp_min(1e-12)
    (slope,) = torch.autograd.grad(distance, variable)
    nothing = (torch.zeros_like(learned.label_logits), torch.zeros_like(learned.log_steps))
    return Outcome(float(distance.detach()), Learned(slope, *nothing))


def _drawn(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (REAL_IMAGES,), generator=generator)]


def _squared(rows: Tensor) -> Tensor:
    return (rows**2).sum(1).mean()
