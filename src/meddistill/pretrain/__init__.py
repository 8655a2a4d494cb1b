"""Encoders from images without labels, or from public weights, and what few labelled images make of them."""
