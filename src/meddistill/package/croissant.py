"""``croissant.json``: the card once more, as data set catalogues read it.

MLCommons Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html) with the vocabulary for
responsible AI (https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html): JSON-LD, written from the card and
the digests of the other members. A reader checks what a program that loads it would act upon: context, keys, addresses
of files, digests, and that no text holds anything that a viewer would run.
"""

import json
from collections.abc import Mapping
from typing import Any

from meddistill.package import limits, strict_json
from meddistill.package.members import PREVIEW, README, TENSORS
from meddistill.package.text import quote, unsafe
from meddistill.package.types import Card

CONFORMS_TO = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_FILES = {
    TENSORS: ("application/octet-stream", "images as 8-bit numbers with scale and offset, labels, step sizes"),
    README: ("text/markdown", "the card for people"),
    PREVIEW: ("image/png", "some of the images"),
}
_STARTS = {
    "noise": "The images started as noise.",
    "prototypes": "The images started as class prototypes, means over eight and more augmented real images.",
    "public": "The images started as images that their maker calls public and may still show them.",
    "real": "The images started as real images of the cohort and may still show them.",
}


def croissant(card: Card, digests: Mapping[str, str]) -> bytes:
    """The member's bytes; ``digests`` holds the SHA-256 of the tensors, the README and the preview."""
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": "distilled image set: " + ", ".join(card.task.classes),
        "description": _description(card),
        "version": "1.0.0",
        **({"license": card.terms.licence} if card.terms.licence.strip() else {}),
        **({"usageInfo": card.terms.terms_of_use} if card.terms.terms_of_use.strip() else {}),
        **_responsible(card),
        "distribution": [_file(name, digests[name]) for name in _FILES],
        "recordSet": [_classes(card)],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def croissant_problems(data: bytes, digests: Mapping[str, str]) -> list[str]:
    """What a stranger's ``croissant.json`` must not hold; empty if it is harmless and of this package."""
    try:
        document = strict_json.parse(data, limits.MAX_CROISSANT_BYTES)
    except ValueError as error:
        return [str(error)]
    if not isinstance(document, dict):
        return [f"expected an object, found {quote(document)}"]
    problems = [f"{key}: missing, or not as the format has it" for key in _FIXED if document.get(key) != _FIXED[key]]
    unknown = sorted(document.keys() - _KEYS)
    if unknown:
        problems.append(f"unknown fields {quote(unknown, 200)}")
    if document.get("distribution") != [_file(name, digests.get(name, "")) for name in _FILES]:
        problems.append(f"distribution: expected {', '.join(_FILES)} with the digests of this package's members")
    found = {problem for text in strict_json.texts(document) if (problem := unsafe(text))}
    return problems + [f"a text holds {problem}" for problem in sorted(found)]


def _description(card: Card) -> str:
    images = card.images
    each = f"{images.per_class} per class, " if images.per_class else ""
    return (
        f"{images.count} synthetic images of {images.pixels} and {images.channels} channel(s), "
        f"{each}distilled from a cohort of real medical images by the method "
        f"{card.recipe.method} to train a classifier of {len(card.task.classes)} classes."
    )


def _responsible(card: Card) -> dict[str, Any]:
    """The RAI vocabulary, as far as a package knows; what it does not know is left out, not made up."""
    withheld = isinstance(card.cohort.counts, str)
    labels = "a probability for each class" if card.task.labels == "soft" else "one class for each image"
    sizes = "The sender withholds" if withheld else "card.json lists"
    return {
        "rai:dataCollection": f"Not collected but computed from a cohort. {_STARTS[card.recipe.start]}",
        "rai:dataCollectionType": ["Software Collection"],
        "rai:dataPreprocessingProtocol": [f"Intensities: {card.images.intensity}."],
        "rai:dataManipulationProtocol": f"Method {card.recipe.method}, network {card.recipe.network}; see card.json.",
        "rai:dataAnnotationProtocol": f"Labels are computed together with the images: {labels}.",
        "rai:machineAnnotationTools": [f"{card.software.name} {card.software.version}"],
        "rai:dataBiases": [f"Those of the cohort. {sizes} the number of its images by class and split."],
        "rai:dataUseCases": [card.terms.intended_use or "Not stated by the sender."],
        "rai:dataLimitations": [card.terms.limits or "Not stated by the sender.", "Not for diagnosis."],
        "rai:personalSensitiveInformation": [
            "Health: learned from patients' images. "
            + ("It contains real images." if card.contains_real_images else "No real image was put in as such.")
            + " This proves nothing about what can be learned of single patients."
        ],
    }


def _file(name: str, digest: str) -> dict[str, str]:
    encoding, description = _FILES[name]
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": description,
        "contentUrl": name,
        "encodingFormat": encoding,
        "sha256": digest,
    }


def _classes(card: Card) -> dict[str, Any]:
    """The class names as an enumeration, in the order of the label columns."""
    field = {"@type": "cr:Field", "@id": "classes/name", "name": "name", "dataType": "sc:Text"}
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/name"},
        "field": [field],
        "data": [{"classes/name": name} for name in card.task.classes],
    }


_FIXED: dict[str, Any] = {"@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": CONFORMS_TO}
_RESPONSIBLE = (
    *("dataCollection", "dataCollectionType", "dataPreprocessingProtocol", "dataManipulationProtocol"),
    *("dataAnnotationProtocol", "machineAnnotationTools", "dataBiases", "dataUseCases", "dataLimitations"),
    "personalSensitiveInformation",
)
_KEYS = {
    *_FIXED,
    *("name", "description", "version", "license", "usageInfo", "distribution", "recordSet"),
    *(f"rai:{name}" for name in _RESPONSIBLE),
}
