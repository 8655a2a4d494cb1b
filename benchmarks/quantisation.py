"""How few levels a package's images may have: accuracy with float32 and with fewer and fewer bits, seed by seed.

    .venv/bin/python benchmarks/quantisation.py --data ../shared/data --out runs [--sets covid] [--seeds 20] [--bits 6]

Distils each set (or takes the run that is in ``--out``) and trains networks from the learned images as they are in the
run's checkpoint, in float32, and from their quantised copies. Every form sees the same seeds, hence the same initial
networks and batches, and is scored on the validation split: nothing is chosen by test images. The record is
``benchmarks/records/quantisation.json``; the number of levels in ``package/quantise.py`` is chosen from it. It was
measured with ``mtt-soft``, then the default method: its images are of full size, and its intervals are normal ones
(1.96 standard errors), where those of figures measured since have Student's t.
"""

import argparse
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from shared import read_record, write_record

from meddistill.cohort.prepare import prepare
from meddistill.cohort.types import Leak
from meddistill.nets.convnet import parse
from meddistill.package.limits import MAX_INTENSITY
from meddistill.package.quantise import dequantise, quantise
from meddistill.pipeline.plan_file import read_plan
from meddistill.runtime.enlarge import enlarge
from meddistill.runtime.streams import derive
from meddistill.teachers.images import measure_normalisation, split_images
from meddistill.train.metrics import measure, summarise
from meddistill.train.protocol import probabilities, protocol_for, train_network
from meddistill.train.received import received

RECORD = Path(__file__).parent / "records" / "quantisation.json"
BITS = (8, 6, 5, 4)
SETS: dict[str, tuple[str, Leak, tuple[str, ...]]] = {
    "pneumonia": ("pneumoniamnist.npz", "drop", ("--size", "28", "--time", "120s", "--drop-leak")),
    "covid": ("covid_cxr3_112", "stop", ("--size", "32", "--time", "150s")),
    # By the standard plan. The record has the set of `make demo`: its run, copied to demo.mdz and demo.run.
    "demo": ("pneumoniamnist.npz", "drop", ("--drop-leak",)),
    "blood": ("pbc_blood_64", "stop", ("--size", "32", "--time", "150s")),
}
METRICS = ("accuracy", "balanced_accuracy")


class Learned:
    """What a run learned, in float32, and the validation images that judge it."""

    def __init__(self, name: str, data: Path, out: Path) -> None:
        source, leak, options = SETS[name]
        package = out / f"{name}.mdz"
        words = ["distill", str(data / source), "--out", str(package), *options, "--quiet"]
        if not package.exists():
            subprocess.run([sys.executable, "-m", "meddistill", *words], check=True, stdout=subprocess.DEVNULL)
        run = package.with_suffix(".run")
        plan = read_plan(run / "plan.toml")
        cohort = prepare(data / source, size=plan.size, fit=plan.fit, leak=leak, seed=plan.seed).cohort
        learned = safetensors.numpy.load_file(run / "distilled.safetensors")
        self.normalisation, device = measure_normalisation(cohort), torch.device("cpu")
        self.val = split_images(cohort, "val", self.normalisation, device)
        self.network = parse(plan.network, channels=cohort.channels, size=cohort.size, classes=len(cohort.classes))
        images = self.normalisation.undo(torch.from_numpy(learned["learned.0"])).numpy()
        self.images, self.size = np.clip(images, -MAX_INTENSITY, MAX_INTENSITY).astype(np.float32), plan.size
        self.labels = torch.from_numpy(learned["learned.1"]).softmax(1).numpy()

    def form(self, bits: int) -> np.ndarray:
        """The images as they are stored, as they come back from so many bits; 32: as they are."""
        return self.images if bits == 32 else dequantise(*quantise(self.images, 2**bits))

    def stored_bytes(self, bits: int) -> int:
        """What a package takes for them, deflated."""
        data = self.images.tobytes() if bits == 32 else quantise(self.images, 2**bits)[0].tobytes()
        return len(zlib.compress(data, 9))

    def score(self, bits: int, seed: int) -> dict[str, float]:
        """In points."""
        data = received(enlarge(self.form(bits), self.size), self.labels, self.normalisation, torch.device("cpu"))
        params = train_network(self.network, data, protocol_for(self.network), seed)
        found = measure(probabilities(self.network, params, self.val), self.val.labels.numpy())
        return {metric: round(100 * getattr(found, metric), 3) for metric in METRICS}


def summary(differences: list[float]) -> dict[str, float]:
    """Mean and 95 % interval (Student's t) of paired differences."""
    found = summarise(differences)
    return {"mean": round(found.mean, 3), "low": round(found.low, 3), "high": round(found.high, 3)}


def record(scores: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """The paired differences to float32, in points, over all sets and for each."""
    per_set: dict[str, Any] = {}
    pooled: dict[str, dict[str, list[float]]] = {}
    for name, seeds in scores.items():
        for bits in BITS:
            pairs = [seed for seed in seeds.values() if str(bits) in seed and "32" in seed]
            for metric in METRICS:
                found = [one[str(bits)][metric] - one["32"][metric] for one in pairs]
                if found:
                    pooled.setdefault(str(bits), {}).setdefault(metric, []).extend(found)
                    row = per_set.setdefault(name, {}).setdefault(str(bits), {"seeds": len(found)})
                    row[metric] = summary(found)
    overall = {bits: {m: summary(found) for m, found in metrics.items()} for bits, metrics in pooled.items()}
    return {"difference_to_float32_in_points": {"all": overall, **per_set}, "bytes": sizes, "scores": scores}


def main() -> None:
    """Measure what is not in the record yet, and write it after every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["pneumonia", "covid", "blood"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--bits", type=int, nargs="+", choices=BITS, default=list(BITS), help="beside float32")
    options = parser.parse_args()
    known = read_record(RECORD)
    scores, sizes = known.get("scores", {}), known.get("bytes", {})
    learned = {name: Learned(name, options.data, options.out) for name in options.sets}
    for name, one in learned.items():
        sizes[name] = {str(bits): one.stored_bytes(bits) for bits in (32, *BITS)}
    for place in range(options.seeds):
        for name, one in learned.items():
            done = scores.setdefault(name, {}).setdefault(str(place), {})
            for bits in (32, *options.bits):
                if str(bits) not in done:
                    done[str(bits)] = one.score(bits, derive(0, "quantisation", place))
            write_record(RECORD, record(scores, sizes))
            print(name, place, done, flush=True)


if __name__ == "__main__":
    main()
