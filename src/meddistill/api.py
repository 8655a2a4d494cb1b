"""One public function for every verb of the command line. Heavy imports wait until a function is called.

Every function returns a frozen dataclass whose ``as_dict()`` is the JSON document that the verb prints with ``--json``,
and raises a :class:`~meddistill.runtime.errors.MeddistillError` for whatever the caller can mend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from meddistill.audit.finding import Gates
    from meddistill.audit.report import Report as AuditReport
    from meddistill.bench.benchmark import Benchmark
    from meddistill.bench.demo import Demonstration
    from meddistill.cohort.read import ReadOptions
    from meddistill.cohort.types import Fit, Leak
    from meddistill.compress.card import Saw
    from meddistill.compress.module import ModuleReport
    from meddistill.nets.augment import Augmentation
    from meddistill.package.read import Verification
    from meddistill.pipeline.compress import CompressReport, Route
    from meddistill.pipeline.look import Inspection
    from meddistill.pipeline.merge import MergeReport
    from meddistill.pipeline.predict import ModelExport, Predictions
    from meddistill.pipeline.receive import EvaluateReport, RecipeName, Scored, TrainReport
    from meddistill.pipeline.run import Report
    from meddistill.report.make import Written
    from meddistill.runtime.progress import Progress
    from meddistill.train.datasets import CohortDataset, PackageDataset, Transform
    from meddistill.train.export import ExportReport, Target

__all__ = [
    "audit",
    "bench",
    "cohort_dataset",
    "compress",
    "compress_module",
    "demo",
    "distill",
    "evaluate",
    "export",
    "export_model",
    "inspect",
    "is_locked",
    "keygen",
    "load_module",
    "merge",
    "methods",
    "package_dataset",
    "predict",
    "report",
    "show",
    "sign",
    "train",
    "trust",
    "verify",
    "view",
]


@dataclass(frozen=True)
class Document:
    """An answer that is nothing but its JSON document."""

    content: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The document."""
        return self.content


def inspect(
    source: Path,
    *,
    images_per_class: int | None = None,
    method: str | None = None,
    size: int | None = None,
    fit: Fit | None = None,
    flip: bool | None = None,
    fixed_normalisation: bool | None = None,
    time_s: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    plan_out: Path | None = None,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Survey a source, list its problems, propose a plan and estimate it; write the plan to ``plan_out`` if given.

    ``fit``: how images that are not square become so: ``crop``, ``pad`` or ``stretch``. ``flip``: whether half of the
    images are mirrored in training. ``fixed_normalisation``: whether intensities are normalised by fixed numbers.
    Choices that are None are the defaults.
    """
    from meddistill.pipeline.look import inspect as look

    return look(
        Path(source),
        images_per_class=images_per_class,
        method=method,
        size=size,
        fit=fit,
        flip=flip,
        fixed_normalisation=fixed_normalisation,
        time_s=time_s,
        seed=seed,
        device=device,
        plan_out=plan_out,
        options=_options(options),
        progress=_progress(progress),
    )


def distill(
    source: Path,
    out: Path,
    *,
    images_per_class: int | None = None,
    total_images: int | None = None,
    method: str | None = None,
    size: int | None = None,
    fit: Fit | None = None,
    flip: bool | None = None,
    time_s: float | None = None,
    plan: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    run: Path | None = None,
    teachers: Path | None = None,
    start: str | None = None,
    start_images: Path | None = None,
    leak: Leak = "stop",
    licence: str = "",
    terms: str = "",
    track: str = "",
    track_images: bool = False,
    withhold_counts: bool = False,
    withhold_results: bool = False,
    fixed_normalisation: bool | None = None,
    full_data: bool | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    dp_route: Literal["statistics", "teachers"] | None = None,
    canaries: int = 0,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Distil a source into the package ``out``; the same call continues an interrupted run.

    ``total_images``: in all, instead of ``images_per_class``; there may be fewer than classes where soft labels are
    learned. ``time_s``: seconds that the whole run should take. ``run``: the run folder, by default beside ``out``.
    ``teachers``: a folder of trajectories to use or to fill, shared by several runs on one cohort. ``fit``:
    how images that are not square become so. ``flip``: False where nothing but the side tells classes apart: then no
    training mirrors images, neither here nor from the package. ``full_data``: measure networks trained on all training
    images, too.
    ``start_images``: public images to start from, none of the source's: a folder, CSV, ``.npz`` or package.
    ``licence``, ``terms``: what the package says of its use. ``withhold_counts``: it does not tell the cohort's size.
    ``withhold_results``: nor any score; the answer and the run folder have them. ``fixed_normalisation``: True for
    intensities that are normalised by fixed numbers in the place of the training images' mean and deviation.
    ``epsilon``, ``delta``: differential privacy for every patient where each image has an id, else every image (1e-5
    without a ``delta``); ``dp_route``: from
    ``statistics`` of untrained networks' features, the default, or from ``teachers`` trained under noise. Such a run
    cannot be repeated from its seed, and every new one spends epsilon again. ``canaries``: so many records are planted,
    each by a coin; the answer names the secret file that :func:`audit` asks for. Such a package is for auditing alone.
    ``track``: ``tensorboard``, ``mlflow``, or either with ``:FOLDER``, draws the run's figures for that tracker; with
    ``track_images`` TensorBoard gets the synthetic images, too. Choices that are None come from the plan file, or are
    the defaults.
    """
    from meddistill.pipeline.request import Request
    from meddistill.pipeline.run import run as run_request

    request = Request(
        source=Path(source),
        out=Path(out),
        plan=plan,
        method=method,
        images_per_class=images_per_class,
        total_images=total_images,
        size=size,
        fit=fit,
        flip=flip,
        start=start,
        start_images=start_images,
        seed=seed,
        seconds=time_s,
        device=device,
        run=run,
        teachers=teachers,
        leak=leak,
        full_row=full_data,
        licence=licence,
        terms=terms,
        track=track,
        track_images=track_images,
        withhold_counts=withhold_counts,
        withhold_results=withhold_results,
        fixed_normalisation=fixed_normalisation,
        epsilon=epsilon,
        delta=delta,
        dp_route=dp_route,
        canaries=canaries,
        options=_options(options),
    )
    return run_request(request, _progress(progress))


def train(
    packages: Path | Sequence[Path],
    out: Path,
    *,
    net: str | None = None,
    recipe: RecipeName = "protocol",
    classes: Path | None = None,
    test: Path | None = None,
    test_split: Scored = "test",
    seeds: int = 5,
    seed: int = 0,
    device: str = "auto",
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train ``seeds`` networks on one or several packages, write the first, and score all on real images if given.

    ``recipe``: ``protocol``, the same for all packages; ``tutored``: every network by way of one of the kind that the
    package was made with, for networks of other kinds; ``own``: the one network that the package was distilled to make.
    ``classes``: a mapping file that says what the packages' classes are called here. The report tells what each
    of several packages contributed.
    """
    from meddistill.pipeline.receive import train as train_packages

    return train_packages(
        _paths(packages),
        Path(out),
        net=net,
        recipe=recipe,
        classes=None if classes is None else Path(classes),
        test=None if test is None else Path(test),
        test_split=test_split,
        seeds=seeds,
        seed=seed,
        device=device,
        options=_options(options),
        progress=_progress(progress),
    )


def evaluate(
    model: Path,
    source: Path,
    *,
    split: Scored = "test",
    device: str = "auto",
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> EvaluateReport:
    """Score a model on a split of a source."""
    from meddistill.pipeline.receive import evaluate as evaluate_model

    return evaluate_model(
        Path(model),
        Path(source),
        split=split,
        device=device,
        options=_options(options),
        progress=_progress(progress),
    )


def predict(
    model: Path,
    files: Path | Sequence[Path],
    *,
    device: str = "auto",
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """The probability of each class for every image in the files, or beneath the folders."""
    from meddistill.pipeline.predict import predict as predict_files

    return predict_files(
        Path(model), _paths(files), device=device, options=_options(options), progress=_progress(progress)
    )


def export_model(model: Path, out: Path, *, to: Literal["onnx"] = "onnx") -> ModelExport:
    """Write a model for programs without PyTorch; needs the extra ``onnx``."""
    from meddistill.pipeline.predict import export_model as write_model

    return write_model(Path(model), Path(out), to=to)


def compress(
    model: Path,
    data: Path,
    out: Path,
    *,
    size: float | None = None,
    drop: float | None = None,
    route: Route | None = None,
    test: Path | None = None,
    seed: int = 0,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> CompressReport:
    """Compress a model with the help of a source or a package; what is written is used as any model file.

    ``size``: the file's share of the model's bytes, such as 0.01; else the smallest file is sought that loses at most
    ``drop`` points of balanced accuracy on validation data (1 by default). ``route``: ``essential`` (prune, quantise,
    code), ``small`` (the same of a small network taught by the model), ``recreate`` (the recipe to train it again).
    ``test``: with a package, a source to measure on.
    """
    from meddistill.pipeline.compress import compress as compress_model

    return compress_model(
        Path(model),
        Path(data),
        Path(out),
        size=size,
        drop=drop,
        route=route,
        test=None if test is None else Path(test),
        seed=seed,
        options=_options(options),
        progress=_progress(progress),
    )


def compress_module(
    module: nn.Module,
    out: Path,
    inputs: Tensor,
    labels: Tensor,
    *,
    classes: int,
    size: float,
    saw: Saw,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ModuleReport:
    """Compress any PyTorch classifier: its ``state_dict`` at ``size`` times the bytes, retrained on ``inputs``.

    ``saw``: ``patients``, ``packages`` or ``unknown``: what the weights and the inputs have seen.
    :func:`meddistill.compress.module.compress_module` says the rest, and the limits.
    """
    from meddistill.compress.module import compress_module as compress_any

    return compress_any(
        module,
        Path(out),
        inputs,
        labels,
        classes=classes,
        size=size,
        saw=saw,
        augmentation=augmentation,
        seed=seed,
        progress=_progress(progress),
    )


def load_module(file: Path, module: nn.Module) -> nn.Module:
    """Put the tensors that :func:`compress_module` stored into a module of the same kind; gives it back."""
    from meddistill.compress.module import load_module as load_any

    return load_any(Path(file), module)


def package_dataset(package: Path, transform: Transform | None = None) -> PackageDataset:
    """A package as a ``torch.utils.data.Dataset`` of (intensities (C, S, S), label probabilities (K,))."""
    from meddistill.train.datasets import PackageDataset

    return PackageDataset(Path(package), transform)


def cohort_dataset(
    source: Path,
    split: Scored = "train",
    *,
    size: int | None = None,
    fit: Fit = "crop",
    leak: Leak = "stop",
    seed: int = 0,
    transform: Transform | None = None,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> CohortDataset:
    """A split of a source as a ``torch.utils.data.Dataset`` of (intensities (C, S, S), label)."""
    from meddistill.train.datasets import CohortDataset

    return CohortDataset(
        Path(source),
        split,
        size=size,
        fit=fit,
        leak=leak,
        seed=seed,
        transform=transform,
        options=_options(options),
        progress=_progress(progress),
    )


def merge(
    packages: Sequence[Path], out: Path, *, classes: Path | None = None, progress: Progress | None = None
) -> MergeReport:
    """Write several packages as one; ``classes``: a mapping file that says what their classes are called here."""
    from meddistill.pipeline.merge import merge as merge_packages

    mapping = None if classes is None else Path(classes)
    return merge_packages(_paths(packages), Path(out), classes=mapping, progress=_progress(progress))


def export(package: Path, out: Path, *, to: Target) -> ExportReport:
    """Write a package's images for other programs: to a ``folder``, an ``npz`` file, or a ``huggingface`` folder."""
    from meddistill.package.read import read
    from meddistill.runtime.files import require_another
    from meddistill.train.export import export as export_images

    require_another(Path(out), [Path(package)])
    return export_images(read(Path(package)), Path(out), to)


def show(path: Path) -> Document:
    """What a package, or a compressed model, says of itself, and who vouches for it."""
    from meddistill.compress import file, show
    from meddistill.package.read import read_judged
    from meddistill.package.show import summary
    from meddistill.package.trust import judge

    path = Path(path)
    if file.is_compressed(path):
        held, verification = file.read_judged(path)
        told = show.summary(held.card, path.stat().st_size)
    else:
        found, verification = read_judged(path)
        told = summary(found, path.stat().st_size)
    judged = judge(verification).as_dict()
    return Document(told | {key: judged[key] for key in ("answer", "signer")})


def report(subject: Path, out: Path, *, audit: Path | None = None) -> Written:
    """Write a report on a package, or on the folder of a run or a benchmark, as one HTML file that needs nothing else.

    ``audit``: the result of an audit, as JSON; without one, the package's own is shown.
    """
    from meddistill.report.make import report as write_report

    return write_report(Path(subject), Path(out), None if audit is None else Path(audit))


def view(
    subjects: Path | Sequence[Path] = (), *, port: int = 0, announce: Callable[[str], None] | None = None
) -> Document:
    """Show runs and packages on a local web page until Ctrl-C; by default those of the working folder.

    ``subjects``: folders of runs, packages, or folders of such. ``port``: 0 takes any that is free. ``announce``: told
    the address of the page, without which nobody can open it; by default it is printed.
    """
    from meddistill.view.serve import serve

    paths = _paths(subjects)
    address = serve(paths, port, announce or (lambda address: print(address, flush=True)))  # noqa: T201
    return Document({"address": address, "subjects": [str(path) for path in paths]})


def verify(package: Path, *, key: Path | None = None) -> Verification:
    """Whether a package, or a compressed model, is sound and who signed it; a broken one is an answer, not an error.

    ``key``: the one public key to trust; without one, those that :func:`trust` added.
    """
    from meddistill.compress import file
    from meddistill.package.keys import read_public
    from meddistill.package.read import verify as verify_package
    from meddistill.package.trust import judge

    path, only = Path(package), None if key is None else read_public(Path(key))
    return judge(file.verify(path) if file.is_compressed(path) else verify_package(path), only)


def audit(
    file: Path,
    members: str,
    control: str | None = None,
    *,
    out: Path | None = None,
    attached: bool = False,
    canaries: Path | None = None,
    references: int = 16,
    shadows: int = 0,
    shadow_iterations: int | None = None,
    gates: Gates | None = None,
    seed: int = 0,
    device: str = "auto",
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Measure what a package, or a model, tells about the patients it was made from, against patients who had no part.

    ``members``, ``control``: ``SOURCE`` or ``SOURCE:SPLIT``, by default the training and the test images of one source.
    ``out``: where to write the report. ``attached``: put it into the package, which must not be signed yet.
    ``references``: networks trained on other patients, an even number; 0 leaves the attack on membership out.
    ``shadows``: packages that are made anew by the same recipe, each from half of all patients, an even number from 6.
    ``shadow_iterations``: of matching in each, fewer than the package had; nothing passes or fails by shorter shadows.
    ``canaries``: the secret file of a package that was distilled with them; they give a lower bound of epsilon.
    A model (``.mdw``, or what :func:`train` writes) has neither shadows nor canaries, and nothing is put into it.
    """
    from meddistill.audit.case import Effort
    from meddistill.audit.finding import Gates
    from meddistill.audit.run import audit as audit_package
    from meddistill.audit.run_model import audit_model, is_model
    from meddistill.runtime.errors import InputError

    asked: dict[str, Any] = {
        "out": None if out is None else Path(out),
        "effort": Effort(references=references, shadows=shadows, shadow_iterations=shadow_iterations),
        "gates": gates or Gates(),
        "seed": seed,
        "device": device,
        "options": _options(options),
        "progress": _progress(progress),
    }
    sources = str(members), None if control is None else str(control)
    if is_model(Path(file)):
        if attached or canaries is not None:
            raise InputError(f"{file} is a model: reports and canaries are of packages; give --out for the report")
        return audit_model(Path(file), *sources, **asked)
    planted = None if canaries is None else Path(canaries)
    return audit_package(Path(file), *sources, attached=attached, planted=planted, **asked)


def keygen(out: Path, passphrase: str | None = None) -> Document:
    """Make a pair of Ed25519 keys: the private one in ``out``, the public one beside it; none is ever replaced."""
    from meddistill.package.keys import fingerprint, generate

    public, key = generate(Path(out), passphrase)
    return Document({"private_key": str(out), "public_key": str(public), "fingerprint": fingerprint(key)})


def is_locked(key: Path) -> bool:
    """Whether a private key asks for a passphrase."""
    from meddistill.package.keys import is_encrypted

    return is_encrypted(Path(key))


def sign(package: Path, key: Path, *, out: Path | None = None, passphrase: str | None = None) -> Document:
    """Sign a sound package, or a compressed model, with a private key, in its place or into ``out``."""
    from meddistill.compress import file
    from meddistill.package.keys import fingerprint
    from meddistill.package.sign import sign as sign_package
    from meddistill.package.write import require_ending
    from meddistill.runtime.files import require_another

    source, target = Path(package), Path(package if out is None else out)
    compressed = file.is_compressed(source)
    if out is not None and not compressed:
        require_ending(target)
    require_another(target, [Path(key)])
    sign_file = file.sign if compressed else sign_package
    signer = sign_file(source, Path(key), target, passphrase)
    return Document({"package": str(target), "fingerprint": fingerprint(signer)})


def trust(key: Path | None = None, *, name: str | None = None, remove: str | None = None) -> Document:
    """The trusted keys by name, after ``key`` was added under ``name``, or ``remove`` removed."""
    from meddistill.package import keys
    from meddistill.package import trust as store
    from meddistill.runtime.errors import InputError

    if (key is None) != (name is None):
        raise InputError("to trust a key give both: its file and --name, what you call its owner")
    if key is not None and name is not None:
        store.add(keys.read_public(Path(key)), name)
    if remove is not None:
        store.remove(remove)
    known = {owner: keys.fingerprint(one) for owner, one in store.trusted().items()}
    return Document({"trusted": known, "file": str(store.store_file())})


def methods() -> Document:
    """The methods, installed ones included: a line on each, family, what it learns, cost and source.

    What a benchmark may set beside them: ``coresets`` of real images, which contain patients, and ``comparisons``,
    encoders and few labelled real images.
    """
    from meddistill.distill.methods import find, names
    from meddistill.pretrain.ways import WAYS
    from meddistill.train.baselines import CORESETS

    told = ("name", "summary", "family", "learns", "cost", "source")
    listed = [{name: getattr(method, name) for name in told} for method in map(find, names())]
    chosen = [{name: getattr(one, name) for name in (*told, "contains_patients")} for one in CORESETS.values()]
    ways = [{name: getattr(way, name) for name in ("name", "summary", "source")} for way in WAYS.values()]
    return Document({"methods": listed, "coresets": chosen, "comparisons": ways})


def demo(
    out: Path,
    *,
    images_per_class: tuple[int, ...] = (1, 10),
    seed: int = 0,
    seeds: int = 5,
    progress: Progress | None = None,
) -> Demonstration:
    """Distil the embedded PneumoniaMNIST and compare with random and with all real images."""
    from meddistill.bench.demo import demo as run_demo

    return run_demo(Path(out), images_per_class=images_per_class, seed=seed, seeds=seeds, progress=_progress(progress))


def bench(
    grid: Path,
    out: Path,
    *,
    data: Path | None = None,
    subset: str | None = None,
    jobs: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Benchmark:
    """Compare methods as the file ``grid`` says, or a ``subset`` of it; ``data``: the folder that sources are in."""
    from meddistill.bench.benchmark import bench as run_bench

    return run_bench(
        Path(grid),
        Path(out),
        data=None if data is None else Path(data),
        subset=subset,
        jobs=jobs,
        device=device,
        progress=_progress(progress),
    )


def _paths(paths: Path | Sequence[Path]) -> list[Path]:
    return [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]


def _options(options: ReadOptions | None) -> ReadOptions:
    from meddistill.cohort.read import ReadOptions

    return options or ReadOptions()


def _progress(progress: Progress | None) -> Progress:
    from meddistill.runtime.progress import Silent

    return progress or Silent()
