"""Stateless networks and augmentation: ``init(generator) → params``, ``apply(params, images) → logits``."""
