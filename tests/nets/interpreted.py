"""A GPU's kernels in Triton's interpreter, against the plain functions in float64.

Run by ``test_gates.py`` in a process of its own: Triton must be told before it is imported.
"""

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meddistill.nets import gates, gates_triton

# Relative. Bfloat16 has 8 bits, and the interpreter cuts off the others, where a GPU rounds.
EXACT, ROUNDED = 1e-5, 2**-7


@given(
    students=st.integers(1, 2),
    count=st.integers(1, 2),
    channels=st.integers(1, 3),
    width=st.integers(1, 40),
    sides=st.tuples(st.integers(2, 11), st.integers(2, 11)),
    exact=st.booleans(),
    seed=st.integers(0, 10**6),
)
@example(students=1, count=1, channels=1, width=1, sides=(2, 2), exact=True, seed=0)  # one pooled pixel
@example(students=2, count=2, channels=3, width=70, sides=(3, 11), exact=False, seed=1)
@example(students=1, count=2, channels=1, width=33, sides=(19, 13), exact=False, seed=2)  # more tiles than one a part
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
def test_kernels_are_the_plain_functions(students, count, channels, width, sides, exact, seed):
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    images, numbers = noise(students, count, channels, *sides), 9 * channels
    weight, weight_along = noise(2, students, numbers, width)
    factor, threshold, factor_along, threshold_along = noise(4, students, count, width)
    low = (count, students * width, sides[0] // 2, sides[1] // 2)
    kept = torch.float32 if exact else torch.bfloat16
    slope, slope_along = (noise(*low).to(kept) for _ in range(2))
    rest = noise(students, count, numbers + 1, numbers)
    images += 3  # means are not small beside what is around them
    gate, both = (images, weight, factor, threshold), (images, weight, weight_along, factor, threshold, factor_along)
    for name, arguments in (
        ("moments", (images,)),
        ("ahead", gate),
        ("along", (*both, threshold_along, exact)),
        ("sums", (*gate, slope, exact)),
        ("onto", (*both, slope, slope_along, rest, exact)),
    ):
        wide = [one.double() if isinstance(one, torch.Tensor) else True for one in arguments]
        found, expected = getattr(gates_triton, name)(*arguments), getattr(gates, name)(*wide)
        alike = getattr(gates, name)(*arguments)  # in dtype and layout
        pairs = zip(found, expected, alike, strict=True) if name == "moments" else [(found, expected, alike)]
        for one, other, plain in pairs:
            assert (one.shape, one.dtype) == (plain.shape, plain.dtype)
            assert one.stride() == plain.stride()
            limit = ROUNDED if one.dtype == torch.bfloat16 else EXACT
            assert float((one.double() - other).norm()) <= limit * float(other.norm()), name


def test_what_is_not_a_number_stays_so():
    """A student that ran away is known by it."""
    images, weight, planes = torch.ones(1, 1, 1, 4, 4), torch.ones(1, 9, 2), torch.ones(1, 1, 2)
    weight[0, 3, 1] = torch.nan
    found = gates_triton.ahead(images, weight, planes, planes)
    assert torch.equal(found.isnan().all((0, 2, 3)), torch.tensor([False, True]))
    assert not found[:, 0].isnan().any()
