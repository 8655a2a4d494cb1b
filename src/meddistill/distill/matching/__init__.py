"""Families of matching that need no trajectories' ends: feature distributions."""
