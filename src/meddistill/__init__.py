"""Turn a hospital's labelled images into a few synthetic soft-label images, and train from them."""

__version__ = "0.1.0"
