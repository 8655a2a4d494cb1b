"""What a distilled set is worth besides its labels and besides augmentation: the two scores of DD-Ranking.

Li et al. 2025, arXiv 2505.13300. Accuracies are between 0 and 1; a benchmark may put balanced accuracy in their place.
Both scores are between 0 and 1. A set exactly as good as random real images has an ARS of 0.269, and an LRS of as much
only where it is, with one class for each image, also as good as all images; else of less.
"""

import math

WEIGHT = 0.5  # of the leaderboard


def label_robust(
    *, distilled: float, distilled_hard: float, random: float, full: float, weight: float = WEIGHT
) -> float:
    """LRS = (e^α − e⁻¹)/(e − e⁻¹) with α = w·IOR − (1 − w)·HLR.

    IOR, the improvement over random, is ``distilled`` − ``random``: trained on the set as it is, and on as many random
    real images with labels of the same kind. HLR, what is missing with hard labels, is ``full`` − ``distilled_hard``:
    trained on all real images, and on the set with one class for each image.
    """
    return _between_0_and_1(weight * (distilled - random) - (1 - weight) * (full - distilled_hard))


def augmentation_robust(
    *, distilled: float, random: float, distilled_plain: float, random_plain: float, weight: float = WEIGHT
) -> float:
    """ARS = (e^β − e⁻¹)/(e − e⁻¹) with β = γ·(``distilled`` − ``random``) + (1 − γ)·(the same without augmentation)."""
    return _between_0_and_1(weight * (distilled - random) + (1 - weight) * (distilled_plain - random_plain))


def _between_0_and_1(gain: float) -> float:
    return (math.exp(gain) - math.exp(-1)) / (math.e - math.exp(-1))
