"""What the pages of the documentation take for granted, small: images of every kind, a package, a run, keys, grids."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import tomlkit
from pages import ROOT, blocks
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from tests.report.conftest import OTHER, OWN, cell

import meddistill
from meddistill import api
from meddistill.compress.essential import Effort
from meddistill.pipeline.compress import compress

NAMES = ["normal", "pneumonia"]
QUICK = """
images_per_class = 2
size = 12
network = "convnet-d2-w8"
[teachers]
count = 1
steps = 12
snapshot_every = 3
batch = 16
[matching]
warm_up = 3
iterations = 3
student_steps = 2
segment = 2
batch = 4
[soft_label]
real_batch = 16
[privacy]
looks = 2
[evaluation]
seeds = 2
"""
GRID = {
    "images_per_class": [1],
    "seeds": 2,
    "distillations": 1,
    "matching": ["convnet-d2-w8"],
    "evaluation": ["matching"],
    "robust": False,
}
PRETRAINING = {"steps": 2, "encoders": 1}


def fill(folder):
    """Everything by a name of its own; ``folder`` is the working folder."""
    (folder / "quick.toml").write_text(QUICK)
    draw(folder / "pictures", 60)
    shutil.copy(folder / "pictures/normal/P000-person000.png", "picture.png")
    save_xrays(folder / "xrays.npz", 60)
    save_volumes(folder / "volumes")
    save_scans(folder)
    save_data(folder)
    save_grids(folder)
    (folder / "examples").mkdir()
    shutil.copy(ROOT / "examples/split_sites.py", "examples")
    (folder / "examples/exchange.toml").write_text(QUICK)
    (folder / "compared").mkdir()
    (folder / "compared/results.jsonl").write_text(json.dumps(cell("mtt", OWN, OTHER, 0.8, 0.1)))
    api.distill(Path("pictures"), Path("lungs.mdz"), plan=Path("quick.toml"))
    api.distill(Path("pictures"), Path("other.mdz"), plan=Path("quick.toml"), seed=1)
    api.train(Path("lungs.mdz"), Path("model"), net="convnet-d1-w64", seeds=1)
    effort = Effort(narrow=2, fresh=2, rounds=1, prune=2, quantise=2)
    compress(Path("model"), Path("pictures"), Path("model.mdw"), size=0.5, route="essential", effort=effort)
    api.keygen(Path("key.pem"))
    api.audit(Path("lungs.mdz"), "pictures", out=Path("audit.json"), references=0)
    (folder / "demo").mkdir()
    shutil.copy("lungs.mdz", "demo")


def draw(folder, count):
    """Class folders of pictures, one of each patient, named so that every pattern of the pages finds the patient."""
    rng = np.random.default_rng(3)
    for place, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for patient in range(count * place, count * (place + 1)):
            picture(rng, place).save(folder / name / f"P{patient:03}-person{patient:03}.png")


def picture(rng, place):
    """Noise, with stripes if ``place`` is 1."""
    stripes = np.tile(np.arange(12) % 4 // 2 * 130, (12, 1)) if place else np.full((12, 12), 60)
    return Image.fromarray((stripes + rng.integers(0, 120, (12, 12))).astype(np.uint8))


def save_xrays(file, count):
    """The first training images of each class of the embedded set, a sixth as many of the other splits."""
    arrays = dict(np.load(Path(meddistill.__file__).parent / "data/pneumoniamnist.npz"))
    for split, most in (("train", count), ("val", count // 6), ("test", count // 3)):
        labels = arrays[f"{split}_labels"].ravel()
        rows = np.concatenate([np.flatnonzero(labels == name)[:most] for name in (0, 1)])
        for kind in ("images", "labels"):
            arrays[f"{split}_{kind}"] = arrays[f"{split}_{kind}"][rows]
    np.savez(file, **arrays)


def save_volumes(folder):
    rng = np.random.default_rng(4)
    for place in range(16):
        (folder / NAMES[place % 2]).mkdir(parents=True, exist_ok=True)
        volume = nibabel.Nifti1Image(rng.normal(40 + 100 * (place % 2), 90, (12, 12, 3)), np.eye(4))
        volume.to_filename(folder / NAMES[place % 2] / f"{place}.nii.gz")


def save_scans(folder):
    """Studies of one image each: in class folders, and as an archive exports them, with a table of labels."""
    (folder / "export").mkdir()
    rows = [["StudyInstanceUID", "label"]]
    for patient in range(24):
        scan = new_scan(patient)
        for where in (folder / "scans" / NAMES[patient % 2], folder / "export" / f"{patient:02}"):
            where.mkdir(parents=True, exist_ok=True)
            scan.save_as(where / f"{patient:02}.dcm", enforce_file_format=True)
        rows.append([scan.StudyInstanceUID, NAMES[patient % 2]])
    save_table(folder / "studies.csv", rows)


def new_scan(patient):
    """A small CT image of a patient."""
    scan, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan.file_meta, scan.SOPClassUID, scan.PatientID = meta, CTImageStorage, f"P{patient}"
    for level, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
        setattr(scan, keyword, f"1.2.826.0.1.3680043.8.498.{1000 * level + patient}")
    values = np.random.default_rng(patient).normal(1000 + 100 * (patient % 2), 90, (12, 12)).astype(np.uint16)
    scan.Rows, scan.Columns, scan.SamplesPerPixel, scan.PhotometricInterpretation = 12, 12, 1, "MONOCHROME2"
    scan.BitsAllocated, scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 16, 16, 15, 0
    scan.RescaleSlope, scan.RescaleIntercept, scan.PixelData = 1, -1000, values.tobytes()
    return scan


def save_data(folder):
    """The sets of the recipes and of the results, by the names of their places."""
    (folder / "data/ham10000/images").mkdir(parents=True)
    (folder / "data/pneumoniamnist.npz").symlink_to(folder / "xrays.npz")
    for name in ("covid_cxr3_112", "pbc_blood_64", "kermany_pneumonia_224"):
        (folder / "data" / name).symlink_to(folder / "pictures")
    rows = [["image_id", "lesion_id", "dx"]]
    for place, file in enumerate(sorted((folder / "pictures").glob("*/*.png"))):
        shutil.copy(file, folder / f"data/ham10000/images/ISIC_{place}.png")
        rows.append([f"ISIC_{place}", f"HAM_{place // 2}", ("nv", "mel", "bkl")[place % 3]])
    save_table(folder / "data/ham10000/HAM10000_metadata.csv", rows)


def save_table(file, rows):
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(rows)


def save_grids(folder):
    """The recipes, and the grids that pages show, with the quick plan and few seeds."""
    (folder / "recipes").mkdir()
    for recipe in (ROOT / "recipes").glob("*cpu.toml"):
        (folder / "recipes" / recipe.name).write_text(shrunk(recipe.read_text(encoding="utf-8")))
    for name, page in (("example.toml", "docs/bench.md"), ("grid.toml", "docs/choose-method.md")):
        (text,) = blocks(ROOT / page, "toml")
        (folder / name).write_text(shrunk(text))


def shrunk(text):
    """A grid with its cohorts, methods and subsets, and little to do."""
    grid, plan = tomlkit.parse(text).unwrap(), tomlkit.parse(QUICK).unwrap()
    grid["grid"] |= GRID
    for cohort in grid["cohorts"].values():
        cohort |= {"size": 14, "plan": {}, "pretraining": {}}
    for subset in grid.get("subsets", {}).values():
        subset |= {"images_per_class": [1]}
    for settings in grid.get("methods", {}).values():
        settings.update({"steps": 2} if "steps" in settings else {})
    parts = {name: plan[name] for name in ("teachers", "matching", "soft_label")}
    return tomlkit.dumps(grid | {"plan": parts, "pretraining": PRETRAINING})
