"""What stands in a file, who signed it, and where things were written."""

from collections.abc import Mapping

from rich.console import Console

from meddistill.cli.layout import Document, fields, flat, paragraph, table, title
from meddistill.cli.text.scoring import print_counts, print_results, size_words
from meddistill.runtime.words import size


def shown(document: Document, console: Console) -> None:
    """A package, or a compressed model, which alone says what its weights have seen."""
    (compressed_model if "saw" in document else package)(document, console)


def compressed_model(document: Document, console: Console) -> None:
    """What a compressed model says of itself; and, loudly, whose images its weights have seen."""
    if document["warning"]:
        paragraph(console, f"warning: {document['warning']}")
        console.print()
    model = document["model"] or {}
    before, after = size(document["original"]), size(document["bytes"])
    told = f"{before} of weights before, {after} in the file: 1/{document['factor']:.0f} of the weights"
    takes = f"{model['channels']} × {model['size']} × {model['size']} intensities" if model else None
    fields(
        console,
        [
            ("kind", document["kind"]),
            ("network", model.get("network")),
            ("classes", model.get("classes")),
            ("takes", takes),
            ("trained on", document["saw"]),
            ("route", document["route"]),
            ("size", told),
            ("weights", document["stored"]),
            ("signature", _answer(document["answer"], document["signer"])),
        ],
    )


def package(document: Document, console: Console) -> None:
    """What a package says of itself; ``--json`` has the digests besides."""
    images, recipe = document["images"], document["recipe"]
    if document["contains_real_images"]:
        paragraph(console, "warning: distilling started from real images: treat this file as patients' data")
    if recipe["plan"].get("canaries"):
        paragraph(
            console, "warning: canaries were planted: this package was made to be audited, not to be shared or used"
        )
    stored = f" (stored with {images['stored']} × {images['stored']})" if images.get("stored") else ""
    size_of_one = f"{images['size']} × {images['size']} pixels{stored}"
    shape = f"{images['count']} of {size_of_one}, {images['channels']} channel(s)"
    software = " ".join(document["software"].values())
    made = (
        f"{recipe['method']}, start {recipe['start']}, network {recipe['network']}, seed {recipe['seed']}, {software}"
    )
    each = f", {images['per_class']} a class" if images["per_class"] else ""
    described = [("classes", document["task"]["classes"]), ("images", shape + each)]
    described += [("labels", document["task"]["labels"]), ("size", size_words(document)), ("made by", made)]
    if document.get("answer"):
        described.append(("signature", _answer(document["answer"], document.get("signer"))))
    fields(console, described + [(name.replace("_", " "), told) for name, told in document["terms"].items() if told])
    if document.get("privacy"):
        _privacy(document["privacy"], console)
    title(console, "Plan")
    fields(console, flat(recipe["plan"]))
    if isinstance(document["cohort"]["counts"], Mapping):
        title(console, "Made from")
        print_counts(document["task"]["classes"], document["cohort"]["counts"], console)
    print_results((document.get("results") or {}).get("splits"), console)


def _privacy(privacy: Document, console: Console) -> None:
    """What is proved of the images and labels, how, and what it leaves out."""
    told = f"epsilon {privacy['epsilon']:g}, delta {privacy['delta']:g}, to add or remove one {privacy['unit']}"
    fields(console, [("differential privacy", told), ("accountant", privacy["accountant"])])
    for look in privacy["history"]:
        groups = f", in each of {look['groups']} groups" if look["groups"] > 1 else ""
        rate = f"rate {look['sampling_rate']:g}, noise {look['noise_multiplier']:.4g}"
        paragraph(console, f"accounted for: {look['mechanism']}, {look['steps']} times, {rate}{groups}")
    for one in privacy["outside"]:
        paragraph(console, f"not accounted for: {one}")


def reported(document: Document, console: Console) -> None:
    """The page and what it shows."""
    audit = None if document["audit"] is None else f"from {document['audit']}"
    shown = [(name, document[name]) for name in ("package", "run", "benchmark")]
    fields(console, [("report", document["out"]), ("size", size(document["bytes"])), *shown, ("audit", audit)])


def viewed(document: Document, console: Console) -> None:
    """What the viewer showed, once it has ended."""
    fields(console, [("viewer", f"ended, {document['address']}"), ("showed", document["subjects"] or None)])


def verification(document: Document, console: Console) -> None:
    """The answer, what is wrong, and the members that were checked."""
    paragraph(console, _answer(document["answer"], document.get("signer")))
    for problem in document["problems"]:
        paragraph(console, f"problem: {problem}")
    members = [(name, size(facts["bytes"]), facts["sha256"][:16]) for name, facts in document["members"].items()]
    if members:
        console.print()
        table(console, ["member", "size", "SHA-256 begins"], members)


def key_pair(document: Document, console: Console) -> None:
    """The two files of a new key, and its fingerprint."""
    keys = [(name.replace("_", " "), document[name]) for name in ("private_key", "public_key", "fingerprint")]
    fields(console, keys)
    paragraph(console, "Keep the private key where only you can read it; give the public one to receivers.")


def signed(document: Document, console: Console) -> None:
    """The signed package and the key that signed it."""
    fields(console, [(name, document[name]) for name in ("package", "fingerprint")])


def trusted_keys(document: Document, console: Console) -> None:
    """Names and fingerprints."""
    known = document["trusted"]
    if known:
        table(console, ["trusted", "fingerprint"], list(known.items()), left=2, whole=True)
    else:
        paragraph(console, "No key is trusted yet: meddistill trust KEY.pub.pem --name NAME")
    fields(console, [("kept in", document["file"])])


def _answer(answer: str, signer: Document | None) -> str:
    """What a verification's answer means for whoever holds the file."""
    facts = signer or {}
    return {
        "trusted": f"sound, signed by {facts.get('name')}, whom you trust ({facts.get('fingerprint')})",
        "stranger": f"sound, but signed by a key that you do not trust: {facts.get('fingerprint')}",
        "unsigned": "sound and unsigned: it is whole, as its card says; nobody vouches for who made it",
        "broken": "broken: do not use it; ask the sender for the file anew",
    }.get(answer, answer)
