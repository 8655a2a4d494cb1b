"""Unusual classes of members are found out where the package memorised them, and only asked of who is misjudged."""

from dataclasses import replace

import numpy as np
import pytest

from meddistill.audit import labels, membership, references
from meddistill.audit.labels import Recovered
from meddistill.audit.people import People
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import parse
from meddistill.runtime.streams import stream
from meddistill.train.protocol import Protocol, train_network
from meddistill.train.received import received


@pytest.fixture(scope="module")
def case(cases, strangers_package):
    """Few people, so that every answer can be worked out by hand."""
    found = cases(strangers_package)
    members = People(found.members.pixels[:9], 255, found.members.labels[:9], np.array([0, 0, 1, 2, 3, 4, 5, 6, 7]))
    return replace(found, members=members, effort=replace(found.effort, students=2, steps=3))


def attacked_by(case, students, references, seen):
    own = received(case.package.enlarged, case.package.labels, case.normalisation, case.device)
    return membership.Prepared(case, students, references, references[0], seen, own, own)


@pytest.fixture(scope="module")
def attacked(case):
    """By untrained networks, half of which saw each patient."""
    nets = [case.network.init(stream(place, "test")) for place in range(6)]
    seen = {side: references.halves(case, side, case.effort.references) for side in ("members", "control")}
    return attacked_by(case, tuple(nets[4:]), tuple(nets[:4]), seen)


def chances(case, params, image):
    """The probabilities of one image and of its mirror image, averaged."""
    inputs = case.normalisation.apply(image)
    both = [case.network.apply(params, view).double().softmax(1)[0].numpy() for view in (inputs, inputs.flip(3))]
    return (both[0] + both[1]) / 2


def test_networks_that_saw_no_mirror_image_are_asked_about_none(case):
    params, sided = case.network.init(stream(0, "test")), replace(case, flip=False)
    inputs = case.normalisation.apply(case.members.images(slice(0, 9)))
    alone = case.network.apply(params, inputs).double()
    np.testing.assert_allclose(labels._answers(sided, params, case.members), alone.softmax(1), rtol=1e-6)
    margins = references.sureness_of(sided, params, case.members)
    own = alone.softmax(1)[range(9), case.members.labels]
    np.testing.assert_allclose(margins, (own / (1 - own)).log(), rtol=1e-4)
    assert not np.allclose(references.sureness_of(case, params, case.members), margins)
    assert (case.protocol.augmentation, sided.protocol.augmentation) == (Augmentation(), Augmentation(flip=0))


def test_only_those_are_asked_of_whom_networks_that_never_saw_them_are_wrong(case, attacked):
    prepared = labels.prepare(attacked)
    asked = right = hardened = 0
    for patient in range(8):
        row = int(np.flatnonzero(case.members.patient == patient)[0])
        image, own = case.members.images(slice(row, row + 1)), case.members.labels[row]
        saw = attacked.seen["members"][:, patient]
        unseen = [params for params, seen in zip(attacked.references, saw, strict=True) if not seen]
        if sum(chances(case, params, image) for params in unseen).argmax() == own:
            continue
        asked += 1
        right += sum(chances(case, params, image) for params in attacked.students).argmax() == own
        hardened += sum(chances(case, params, image) for params in prepared.hardened).argmax() == own
    assert 0 < asked < 8
    assert labels.attack(prepared, "members") == Recovered(asked, right, hardened)


def test_hard_labels_have_nothing_to_compare_with(case, attacked):
    card = replace(case.package.card, task=replace(case.package.card.task, labels="hard"))
    hard = replace(attacked, case=replace(case, package=replace(case.package, card=card)))
    assert labels.prepare(hard).hardened == ()
    assert labels.attack(labels.prepare(hard), "members").hardened is None


@pytest.mark.parametrize(
    ("members", "control", "outcome"),
    [
        (Recovered(400, 300, 210), Recovered(400, 200, 200), "alarm"),
        (Recovered(400, 300, 210), Recovered(400, 120, 120), "fail"),
        (Recovered(900, 300, 300), Recovered(900, 300, 300), "pass"),
        (Recovered(40, 15, 15), Recovered(40, 15, 15), "inconclusive"),
        (Recovered(0, 0, 0), Recovered(40, 15, 15), "inconclusive"),
    ],
)
def test_the_outcome_is_that_of_the_excess(case, members, control, outcome):
    found = labels.judge(members, control, case)
    assert found.outcome == outcome
    assert bool(found.warnings) == (outcome == "inconclusive")
    assert found.baseline in (None, 0.5)
    if outcome == "alarm":
        assert found.excess.value == pytest.approx(0.25)
        assert found.figures["excess_with_likeliest_classes_alone"]["value"] == pytest.approx(0.025)


def test_wrong_classes_that_the_package_memorised_are_recovered(cases, strangers_package):
    """The package is 48 members, a third of them with a wrong class; references know other patients alone."""
    case = cases(strangers_package)
    case = replace(case, network=parse("convnet-d2-w32", channels=1, size=28, classes=2))
    rows = np.concatenate([np.flatnonzero(case.members.labels == label)[:24] for label in (0, 1)])
    wrong = np.arange(48) % 3 == 0
    told = np.where(wrong, 1 - case.members.labels[rows], case.members.labels[rows])
    members = People(case.members.pixels[rows], 255, told, np.arange(48))
    package = replace(
        case.package, images=members.images(slice(None)).numpy(), labels=np.eye(2, dtype=np.float32)[told]
    )
    case = replace(case, members=members, package=package)
    few = case.control.images(slice(0, 200)).numpy()
    others = received(few, np.eye(2, dtype=np.float32)[case.control.labels[:200]], case.normalisation, case.device)
    own = received(package.images, package.labels, case.normalisation, case.device)
    student = train_network(case.network, own, Protocol(steps=300, epochs=0), 1)
    reference = train_network(case.network, others, Protocol(steps=60, epochs=0), 2)
    seen = {side: np.zeros((1, case.people(side).count), bool) for side in ("members", "control")}
    prepared = labels.Prepared(attacked_by(case, (student,), (reference,), seen), ())
    sides = [labels.attack(prepared, side) for side in ("members", "control")]
    found = labels.judge(*sides, case)
    assert found.outcome in ("alarm", "fail")
    assert (found.main.value, found.figures["asked"]["members"] >= 10) == (1.0, True)
