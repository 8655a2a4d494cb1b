"""Images on the device: normalisation as numpy measures it, and integers that lose nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from meddistill.runtime.streams import stream
from meddistill.teachers import images as images_module
from meddistill.teachers.images import Normalisation, measure_normalisation, split_images

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [60, 1000])
def test_the_normalisation_is_that_of_numpy_over_the_training_split(make_cohort, dtype, channels, count):
    cohort = make_cohort(dtype, channels, count)
    train = cohort.images[cohort.splits == 0].astype(np.float64) / np.iinfo(dtype).max
    measured = measure_normalisation(cohort)
    np.testing.assert_allclose(measured.mean, train.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(measured.std, train.std(axis=(0, 2, 3)), rtol=1e-9)


def test_only_the_training_split_is_measured(make_cohort):
    cohort = make_cohort(np.uint8)
    altered = cohort.images.copy()
    altered[cohort.splits != 0] = 255
    assert measure_normalisation(replace(cohort, images=altered)) == measure_normalisation(cohort)


def test_a_constant_channel_is_centred_and_not_divided(make_cohort):
    cohort = make_cohort(np.uint8, 3)
    flat = cohort.images.copy()
    flat[:, 1] = 51
    measured = measure_normalisation(replace(cohort, images=flat))
    assert measured.std[1] == 1.0
    assert measured.mean[1] == pytest.approx(0.2)


def test_normalise_and_undo():
    normalisation = Normalisation((0.2, 0.5, 0.7), (0.1, 0.3, 2.0))
    intensities = torch.rand(4, 3, 5, 5, dtype=torch.float64, generator=stream(0, "intensities"))
    normal = normalisation.apply(intensities)
    torch.testing.assert_close(normal[:, 1], (intensities[:, 1] - 0.5) / 0.3)
    torch.testing.assert_close(normalisation.undo(normal), intensities)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("split", "place"), [("train", 0), ("val", 1)])
def test_a_split_holds_its_images_exactly(make_cohort, dtype, split, place):
    cohort = make_cohort(dtype)
    images = split_images(cohort, split, measure_normalisation(cohort), CPU)
    expected = cohort.images[cohort.splits == place]
    assert len(images) == len(expected)
    assert images.pixels.dtype == (torch.uint8 if dtype is np.uint8 else torch.int32)
    np.testing.assert_array_equal(images.pixels.numpy(), expected)
    np.testing.assert_array_equal(images.labels.numpy(), cohort.labels[cohort.splits == place])
    assert (images.peak, images.classes) == (np.iinfo(dtype).max, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_inputs_are_centred_and_scaled_over_the_whole_range(make_cohort, dtype):
    cohort = make_cohort(dtype)
    images = split_images(cohort, "train", measure_normalisation(cohort), CPU)
    assert cohort.images.max() > 0.95 * cohort.peak  # 16-bit values above 32767 must not turn negative
    inputs = images.inputs(torch.arange(len(images)))
    assert inputs.dtype == torch.float32
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inputs.std(correction=0)) == pytest.approx(1, abs=1e-5)
    rows = torch.tensor([3, 0, 3])
    torch.testing.assert_close(images.inputs(rows), inputs[rows])


def test_a_subset_keeps_everything_but_the_other_rows(make_cohort):
    cohort = make_cohort(np.uint16)
    images = split_images(cohort, "train", measure_normalisation(cohort), CPU)
    rows = images.rows_of(1)
    assert rows.tolist() == np.flatnonzero(cohort.labels[cohort.splits == 0] == 1).tolist()
    part = images.subset(rows)
    assert part.labels.tolist() == [1] * len(rows)
    assert torch.equal(part.inputs(torch.arange(len(rows))), images.inputs(rows))


def test_means_and_spreads_are_made_once_for_a_kind_of_numbers(monkeypatch):
    """On a GPU every making of a tensor from numbers is waited for."""
    normalisation, made, tensor = Normalisation((0.25, 0.75), (0.5, 2.0)), [], torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *given, **how: made.append(given) or tensor(*given, **how))
    images_module._kept_column.cache_clear()
    for dtype in (torch.float32, torch.float32, torch.float64):
        intensities = torch.rand(3, 2, 4, 4, dtype=dtype)
        seen = normalisation.apply(intensities)
        assert seen.dtype == dtype
        torch.testing.assert_close(seen[:, 1], (intensities[:, 1] - 0.75) / 2)
        torch.testing.assert_close(normalisation.undo(seen), intensities)
    assert len(made) == 4
