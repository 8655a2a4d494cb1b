"""What every stage needs and knows nothing of images: errors, files, random streams, progress, events."""
