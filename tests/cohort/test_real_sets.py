"""The five real sets, where they are at hand: everything is read, and what their authors planted is found."""

import numpy as np
import pytest

from meddistill.cohort.prepare import CohortError, prepare, survey
from meddistill.cohort.read import ReadOptions


def leaks(problems):
    return [(found.code, found.count, found.message) for found in problems if found.level == "leak"]


def totals(fingerprint):
    return [sum(fingerprint.counts[split].values()) for split in ("train", "val", "test")]


def test_pneumoniamnist(data):
    found = survey(data / "pneumoniamnist.npz")
    assert totals(found.fingerprint) == [4708, 524, 624]
    assert found.fingerprint.classes == ("normal", "pneumonia")
    assert found.fingerprint.proposed_size == 28
    [(code, count, message)] = leaks(found.problems)
    assert (code, count) == ("duplicate-across-splits", 8)
    assert "8 images in both train and val" in message
    with pytest.raises(CohortError, match="--drop-leak"):
        prepare(data / "pneumoniamnist.npz", size=28)
    dropped = prepare(data / "pneumoniamnist.npz", size=28, leak="drop")
    assert totals(dropped.fingerprint) == [4708, 516, 624]
    told = {problem.code: problem for problem in dropped.problems}
    assert told["duplicate-across-splits"].level == "warning"
    assert told["duplicate-across-splits"].message == (
        "8 images in both train and val, pixel for pixel (18 copies): resolved as asked"
    )
    assert len(told["duplicate-across-splits"].places) == 5


def test_kermany(data):
    source = data / "kermany_pneumonia_224"
    found = survey(source, options=ReadOptions(patient_pattern=r"person\d+"))
    assert totals(found.fingerprint) == [3650, 782, 784]
    assert found.fingerprint.channels == 1
    assert [(code, count) for code, count, _ in leaks(found.problems)] == [
        ("patient-across-splits", 343),
        ("patient-across-splits", 142),
        ("patient-across-splits", 336),
        ("duplicate-across-splits", 6),
        ("duplicate-across-splits", 1),
        ("duplicate-across-splits", 4),
    ]
    assert leaks(found.problems)[0][2].startswith("343 patients are in both train and test")
    assert "6 of them byte for byte" in leaks(found.problems)[3][2]


def test_ham10000_is_split_by_lesion(data):
    options = ReadOptions("image_id", "dx", "lesion_id", images=data / "ham10000" / "images")
    prepared = prepare(data / "ham10000" / "HAM10000_metadata.csv", size=16, options=options)
    fingerprint = prepared.fingerprint
    # Whole lesions only; which ones is the choice of scikit-learn's splitter, and another version's is another.
    assert np.allclose(np.array(totals(fingerprint)) / 10015, [0.7, 0.1, 0.2], atol=0.005)
    assert sum(fingerprint.patients.values()) == 7470
    assert (fingerprint.channels, fingerprint.proposed_size) == (3, 64)
    assert fingerprint.counts["test"]["df"] == 23


@pytest.mark.parametrize(
    ("name", "counts", "channels"),
    [("covid_cxr3_112", [7199, 1547, 1538], 1), ("pbc_blood_64", [11951, 1708, 3415], 3)],
)
def test_sets_without_leaks(data, name, counts, channels):
    found = survey(data / name)
    assert totals(found.fingerprint) == counts
    assert found.fingerprint.channels == channels
    assert found.problems == ()
