"""What planted records prove of a noised release: no more than its epsilon, and more where noise is missing."""

import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from meddistill import api
from meddistill.audit.case import Effort
from meddistill.audit.finding import Finding
from meddistill.audit.released import Drawn, Movement
from meddistill.audit.run import audit
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.pipeline.run import Report
from meddistill.privacy import noise
from meddistill.privacy.patients import patients_of
from meddistill.privacy.sgd import NoisyPlan, noised_counts, sampling_rates, train_noisily
from meddistill.privacy.statistics import fixed_normalisation
from meddistill.teachers.images import LabelledImages

COUNT = 200
PLAN = """
images_per_class = 4
size = 28
network = "convnet-d2-w8"
formation = 1
start = "noise"
[teachers]
steps = 30
snapshot_every = 5
[matching]
warm_up = 0
iterations = 1
student_steps = 1
segment = 1
batch = 4
[evaluation]
seeds = 0
random_sets = 0
[privacy]
sampling_rate = 0.3
"""


@dataclass(frozen=True)
class Maker:
    """Makes private packages with canaries, and says what the attack on their release finds."""

    source: Path
    folder: Path

    def package(self, name: str, **choices: object) -> Report:
        (self.folder / "plan.toml").write_text(PLAN)
        out = self.folder / f"{name}.mdz"
        return api.distill(
            self.source, out, plan=self.folder / "plan.toml", epsilon=1.0, canaries=COUNT, device="cpu", **choices
        )

    def found(self, made: Report) -> Finding:
        return self.of(made.package, made.canaries)

    def of(self, package: Path, secret: Path) -> Finding:
        report = audit(package, str(self.source), planted=secret, effort=Effort(references=0, recogniser_steps=1))
        (finding,) = (one for one in report.findings if one.attack == "release")
        return finding


@pytest.fixture(scope="module")
def maker(sources, tmp_path_factory):
    return Maker(sources["members"], tmp_path_factory.mktemp("released"))


@pytest.fixture
def quiet(monkeypatch):
    """A hundredth of the noise that is claimed."""
    whole = noise.normal
    monkeypatch.setattr(noise, "normal", lambda count, source=noise.SYSTEM: whole(count, source) / 100)


@pytest.mark.parametrize("choices", [{"method": "dm"}, {"dp_route": "teachers"}], ids=["statistics", "teachers"])
def test_a_sound_release_shows_no_more_than_its_epsilon(maker, choices):
    pytest.importorskip("opacus")
    found = maker.found(maker.package(f"sound-{choices.get('dp_route', 'statistics')}", **choices))
    assert found.figures["epsilon_at_least"] <= found.figures["epsilon_stated"] == 1.0
    assert found.figures["canaries"] == COUNT
    assert found.outcome == "pass"  # 200 canaries could have shown 2.8


def test_a_sum_with_too_little_noise_is_found_out(maker, quiet):
    found = maker.found(maker.package("quiet-statistics", method="dm"))
    assert found.outcome == "fail"
    assert found.figures["epsilon_at_least"] > 1.5
    assert "more than the card proves" in found.warnings[0]


def test_without_the_run_folder_nothing_is_claimed(maker, tmp_path):
    made = maker.package("sound-statistics", method="dm")
    moved = tmp_path / "canaries.safetensors"
    shutil.copy(made.canaries, moved)
    found = maker.of(made.package, moved)
    assert (found.outcome, found.main) == ("inconclusive", None)
    assert "was not attacked" in found.warnings[0]
    assert str(tmp_path) not in "".join(found.warnings)


@given(st.integers(0, 1000), st.floats(0.1, 3), st.integers(1, 4))
@settings(max_examples=25)
def test_ratios_are_those_of_normal_densities(seed, spread, steps):
    rng = np.random.default_rng(seed)
    left, planted, others = (torch.from_numpy(rng.normal(size=shape)) for shape in (9, (3, 9), (5, 9)))
    covariance = steps * spread**2 * torch.eye(9, dtype=torch.float64) + others.T @ others
    found = Movement(left, planted, others, steps).ratios(spread)
    for ratio, part in zip(found, planted, strict=True):
        with_it, without = (MultivariateNormal(sign * part / 2, covariance).log_prob(left) for sign in (1, -1))
        assert float(ratio) == pytest.approx(float(with_it - without), abs=1e-9)


def test_teachers_with_hardly_any_noise_tell_who_was_in():
    """Without augmentation, of which an attacker only knows how it is drawn."""
    rng, network = np.random.default_rng(0), ConvNet(4, 2, 1, 8, 2)
    images = torch.from_numpy(rng.integers(0, 256, (220, 1, 8, 8)).astype(np.uint8))
    labels, included = torch.from_numpy(rng.integers(0, 2, 220)), torch.from_numpy(rng.random(60) < 0.5)
    people = LabelledImages(images, labels, 255, 2, fixed_normalisation(1))
    canaries, rest = torch.arange(60), torch.arange(60, 220)
    groups = (canaries, rest, torch.cat([canaries[included], rest]))
    planted, known, everyone = (patients_of(people.subset(rows), rows.numpy()) for rows in groups)
    plan = NoisyPlan(20, 1, 0.5, 1.0, 0.3, 1, Augmentation(0, 0, 0, 0, 0, 0))
    counts = noised_counts(everyone, 0.0)
    (rates, expected), (known_rates, _) = (sampling_rates(some, 0.3, counts) for some in (planted, known))
    drawn = Drawn(planted, rates, known, known_rates, 1.0, expected / 0.5, 0.01, plan, noise.SYSTEM)
    points = train_noisily(network, everyone, plan, 0.01, counts, 0, 0)
    ratios = sum(drawn.movement(network, a, (a - b).double()).ratios(0.01) for a, b in pairwise(points))
    right = (ratios[included][:, None] > ratios[~included][None]).double().mean()
    assert right > 0.8
