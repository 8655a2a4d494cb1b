"""The heart: Trajectories → a few synthetic images with soft labels and step sizes."""
