"""The members of a package file: their names, order and largest sizes."""

from meddistill.package import limits

CARD, TENSORS, README, PREVIEW = "card.json", "tensors.safetensors", "README.md", "preview.png"

# In this order in the file. A later version may add optional members behind these.
MEMBERS = {
    CARD: limits.MAX_CARD_BYTES,
    TENSORS: limits.MAX_TENSORS_BYTES,
    README: limits.MAX_README_BYTES,
    PREVIEW: limits.MAX_PREVIEW_BYTES,
}
DEFLATED = frozenset({CARD, README})  # up to limits.MAX_DEFLATED_BYTES; all else is stored
