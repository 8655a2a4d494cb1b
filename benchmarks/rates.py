"""Which learning rate other networks than the ConvNet need: random real images, scored on validation images.

    .venv/bin/python benchmarks/rates.py --data ../shared/data [--networks resnet18-w16] [--sets pneumonia]

With ``-tutored`` behind its name a network learns by way of a ConvNet that was trained on the images at the usual rate.
A network, a set and a rate are one entry of ``benchmarks/records/rates.json``: balanced accuracy for each seed, each of
10 other random images a class. What is in it is not measured again; ``--table`` prints it. No test image is read.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from shared import read_record, write_record

from meddistill.cohort.prepare import prepare
from meddistill.nets.find import find
from meddistill.nets.network import Network
from meddistill.runtime.streams import derive
from meddistill.teachers.images import LabelledImages, measure_normalisation, split_images
from meddistill.train.baselines import random_real
from meddistill.train.metrics import measure
from meddistill.train.protocol import TUTORED, Lesson, Protocol, TrainingSet, probabilities, real_set, train_network
from meddistill.train.tutored import Tutor

RECORD = Path(__file__).parent / "records" / "rates.json"
SETS = {
    "pneumonia": ("PneumoniaMNIST, 28 px", "pneumoniamnist.npz", 28),
    "blood": ("PBC blood cells, 32 px", "pbc_blood_64", 32),
}
NETWORKS = ("resnet18-w16", "resnet18-w16-tutored", "vgg11-w16", "vgg11-w16-tutored")
TUTOR = "convnet-d3-w32"
RATES = (0.001, 0.003, 0.01, 0.03)
PER_CLASS, SEEDS, SCORED = 10, 2, 1500


def splits(name: str, data: Path) -> tuple[LabelledImages, LabelledImages]:
    """Training images, and up to 1500 validation images."""
    _, source, size = SETS[name]
    cohort = prepare(data / source, size=size, leak="drop").cohort
    norm = measure_normalisation(cohort)
    train, val = (split_images(cohort, split, norm, torch.device("cpu")) for split in ("train", "val"))
    rows = torch.randperm(len(val), generator=torch.Generator().manual_seed(0))[:SCORED]
    return train, val.subset(rows) if len(val) > SCORED else val


def score(network: str, rate: float, train: LabelledImages, val: LabelledImages) -> list[float]:
    """Balanced accuracy for each seed, in per cent."""
    built, tutor = (_built(name, train) for name in (network.removesuffix(TUTORED), TUTOR))
    found = []
    for seed in range(SEEDS):
        data = real_set(random_real(train, PER_CLASS, seed))
        lesson = _lesson(tutor, data, seed) if network.endswith(TUTORED) else None
        params = train_network(built, data, replace(Protocol(), learning_rate=rate), seed, lesson=lesson)
        judged = measure(probabilities(built, params, val), val.labels.numpy())
        found.append(round(100 * judged.balanced_accuracy, 1))
    return found


def _built(name: str, train: LabelledImages) -> Network:
    return find(name, channels=train.pixels.shape[1], size=train.pixels.shape[-1], classes=train.classes)


def _lesson(tutor: Network, data: TrainingSet, seed: int) -> Lesson:
    return Tutor(tutor, train_network(tutor, data, Protocol(), derive(seed, "tutor"))).lesson


def table(record: dict[str, list[float]]) -> str:
    """The record as Markdown: means over the seeds."""
    lines = [f"| network | set | {' | '.join(map(str, RATES))} |", "|---" * (2 + len(RATES)) + "|"]
    for network in NETWORKS:
        for name, (title, _, _) in SETS.items():
            found = [record.get(f"{network} {name} {rate}") for rate in RATES]
            cells = ["–" if one is None else f"{sum(one) / len(one):.1f}" for one in found]
            lines.append(f"| `{network}` | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for and is not in the record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    record = read_record(RECORD)
    for name in [] if asked.table else asked.sets:
        train, val = splits(name, Path(asked.data))
        for network in asked.networks:
            for rate in asked.rates:
                if f"{network} {name} {rate}" not in record:
                    record[f"{network} {name} {rate}"] = score(network, rate, train, val)
                    write_record(RECORD, record)
    print(table(record))


if __name__ == "__main__":
    main()
