"""Split a cohort into two hospitals and a joint test set.

    python examples/split_sites.py FOLDER [--share 0.5] [--seed 0] [--images N] [--prefix pneumoniamnist-]
    python examples/split_sites.py FOLDER --source SOURCE --patient-pattern REGEX

Writes ``north``, ``south`` and ``joint``: the two hospitals, with training, validation and test images of their own,
and the test images of both. Without ``--source`` it is PneumoniaMNIST, which comes with meddistill, in ``.npz`` files;
it names no patients, so images are drawn at random, and copies of one image stay together. A SOURCE of class folders
becomes ``.csv`` files that name its images in their place; patients, or copies, stay together, and of the patients of
a hospital seven in ten are for training, one for validation, two for testing. ``--images`` keeps only so many training
images of each hospital. ``--prefix`` stands before the files' names: with ``pneumoniamnist-`` meddistill knows what the
classes are called, which are numbers otherwise.
"""

import argparse
import csv
import hashlib
from importlib import resources
from pathlib import Path

import numpy as np

from meddistill.cohort.options import ReadOptions
from meddistill.cohort.read import read

SPLITS = ("train", "val", "test")
SITES = ("north", "south")


def draw(what: bytes, seed: int) -> float:
    """A number in [0, 1) that is always the same for the same patient or the same pixels."""
    digest = hashlib.sha256(seed.to_bytes(8, "big") + what).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def embedded(folder: Path, share: float, seed: int, images: int | None, prefix: str) -> None:
    """PneumoniaMNIST as three ``.npz`` files."""
    with resources.as_file(resources.files("meddistill") / "data" / "pneumoniamnist.npz") as source:
        arrays = dict(np.load(source))
    is_north = {
        split: np.array([draw(image.tobytes(), seed) < share for image in arrays[f"{split}_images"]])
        for split in SPLITS
    }
    for site in SITES:
        rows = {split: np.flatnonzero(is_north[split] == (site == "north")) for split in SPLITS}
        rows["train"] = rows["train"][:images]
        part = {
            f"{split}_{kind}": arrays[f"{split}_{kind}"][rows[split]]
            for split in SPLITS
            for kind in ("images", "labels")
        }
        np.savez_compressed(folder / f"{prefix}{site}.npz", **part)
        print(f"{site}: " + ", ".join(f"{len(chosen)} {split}" for split, chosen in rows.items()))
    joint = {name: arrays[name] for name in ("test_images", "test_labels")}
    np.savez_compressed(folder / f"{prefix}joint.npz", **joint)
    print(f"joint: {len(joint['test_labels'])} test")


def folders(folder: Path, source: Path, pattern: str | None, share: float, seed: int, images: int | None) -> None:
    """The images of class folders as three ``.csv`` files that name them."""
    parts: dict[str, list[dict[str, str]]] = {site: [] for site in SITES}
    for record in read(source, ReadOptions(patient_pattern=pattern)).records:
        path = source / record.where
        patient = record.patient or hashlib.sha256(path.read_bytes()).hexdigest()
        place = draw(patient.encode(), seed + 1)
        row = {"path": str(path.resolve()), "label": record.label, "patient": patient}
        site = SITES[draw(patient.encode(), seed) >= share]
        parts[site].append({**row, "split": SPLITS[int(place >= 0.7) + int(place >= 0.8)]})
    for site, rows in parts.items():
        learned = [row for row in rows if row["split"] == "train"]
        # In the order of a draw: source order would keep the first classes alone.
        kept = sorted(learned, key=lambda row: draw(row["path"].encode(), seed))[:images]
        write(folder / f"{site}.csv", kept + [row for row in rows if row["split"] != "train"])
    write(folder / "joint.csv", [row for rows in parts.values() for row in rows if row["split"] == "test"])


def write(file: Path, rows: list[dict[str, str]]) -> None:
    """One row an image."""
    with file.open("w", newline="") as opened:
        table = csv.DictWriter(opened, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    counts = {split: sum(row["split"] == split for row in rows) for split in SPLITS}
    print(f"{file.stem}: " + ", ".join(f"{count} {split}" for split, count in counts.items() if count))


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, help="class folders, with or without splits")
    parser.add_argument("--patient-pattern", help="regular expression that takes the patient from a file name")
    parser.add_argument("--share", type=float, default=0.5, help="of the patients that go north")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="training images to keep of each hospital")
    parser.add_argument("--prefix", default="", help="of the .npz files' names, such as pneumoniamnist-")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.source is None:
        embedded(asked.folder, asked.share, asked.seed, asked.images, asked.prefix)
    else:
        folders(asked.folder, asked.source, asked.patient_pattern, asked.share, asked.seed, asked.images)


if __name__ == "__main__":
    main()
