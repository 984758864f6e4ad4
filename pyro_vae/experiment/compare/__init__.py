"""Comparison: several runs, tested in the same way, side by side."""
