"""Comparisons under one protocol: the demonstration's table."""
