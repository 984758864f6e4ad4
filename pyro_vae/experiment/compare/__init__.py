"""Comparison: several runs, tested alike, side by side."""
