"""Sweeps: many settings and seeds, one chosen on validation data."""
