"""The members of a package file: their names, order and largest sizes."""

from meddistill.package import limits

CARD, TENSORS, README, CROISSANT = "card.json", "tensors.safetensors", "README.md", "croissant.json"
PREVIEW, AUDIT, SIGNATURE = "preview.png", "audit.json", "signature.json"

# In this order in the file.
MEMBERS = {
    CARD: limits.MAX_CARD_BYTES,
    TENSORS: limits.MAX_TENSORS_BYTES,
    README: limits.MAX_README_BYTES,
    CROISSANT: limits.MAX_CROISSANT_BYTES,
    PREVIEW: limits.MAX_PREVIEW_BYTES,
    AUDIT: limits.MAX_AUDIT_BYTES,
    SIGNATURE: limits.MAX_SIGNATURE_BYTES,
}
OPTIONAL = frozenset({AUDIT, SIGNATURE})
# The card names the digests of all but itself and the signature; the signature those of all but itself.
ON_CARD = frozenset(MEMBERS) - {CARD, SIGNATURE}
