"""Split PneumoniaMNIST, which comes with meddistill, into two hospitals and a joint test set.

    python examples/split_sites.py FOLDER [--share 0.5] [--seed 0] [--images N]

Writes ``pneumoniamnist_north.npz`` and ``pneumoniamnist_south.npz``, each with training, validation and test images of
its own, and ``pneumoniamnist_joint.npz`` with the test images of both. The set names no patients, so images are drawn
at random; copies of one image stay together. ``--images`` keeps only so many training images of each hospital.
"""

import argparse
import hashlib
from importlib import resources
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")


def sides(arrays: dict[str, np.ndarray], share: float, seed: int) -> dict[str, np.ndarray]:
    """For every split, whether an image goes north: decided by its pixels, so that copies go together."""
    limit = int(share * 2**32)

    def north(image: np.ndarray) -> bool:
        digest = hashlib.sha256(seed.to_bytes(8, "big") + image.tobytes()).digest()
        return int.from_bytes(digest[:4], "big") < limit

    return {split: np.array([north(image) for image in arrays[f"{split}_images"]]) for split in SPLITS}


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the images that go north")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="training images to keep of each hospital")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("meddistill") / "data" / "pneumoniamnist.npz") as source:
        arrays = dict(np.load(source))
    north = sides(arrays, asked.share, asked.seed)
    for name, wanted in (("north", True), ("south", False)):
        rows = {split: np.flatnonzero(north[split] == wanted) for split in SPLITS}
        rows["train"] = rows["train"][: asked.images]
        part = {
            f"{split}_{kind}": arrays[f"{split}_{kind}"][rows[split]]
            for split in SPLITS
            for kind in ("images", "labels")
        }
        np.savez_compressed(asked.folder / f"pneumoniamnist_{name}.npz", **part)
        print(f"{name}: " + ", ".join(f"{len(chosen)} {split}" for split, chosen in rows.items()))
    joint = {name: arrays[name] for name in ("test_images", "test_labels")}
    np.savez_compressed(asked.folder / "pneumoniamnist_joint.npz", **joint)
    print(f"joint: {len(joint['test_labels'])} test")


if __name__ == "__main__":
    main()
