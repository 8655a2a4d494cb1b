"""Read, check and split labelled images: folders, CSV, MedMNIST files."""
