"""What does not fit into a package is known before hours of work."""

import pytest

from meddistill.package import limits
from meddistill.package.limits import limits_problems


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ((65_537, 1, 8, 2), "at most 65536"),
        ((10, 1, 1025, 2), "at most 1024"),
        ((2000, 1, 28, 1001), "at most 1000"),
        ((10, 2, 28, 2), "2 channels"),
        ((50_000, 3, 32, 2), "pixel values in all"),
        ((65_000, 1, 40, 1000), "images and labels take"),
    ],
)
def test_what_does_not_fit(facts: tuple[int, int, int, int], reason: str) -> None:
    assert any(reason in problem for problem in limits_problems(*facts))


@pytest.mark.parametrize("facts", [(10, 1, 28, 2), (65_536, 1, 45, 2), (1000, 3, 209, 1000), (128, 1, 1024, 10)])
def test_what_fits(facts: tuple[int, int, int, int]) -> None:
    assert limits_problems(*facts) == []


def test_the_largest_set_fits_the_member() -> None:
    assert limits.MAX_PIXELS + 4 * limits.MAX_IMAGES < limits.MAX_TENSORS_BYTES
