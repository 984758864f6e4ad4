"""Draws the pictures of a report."""

from pyro_vae.quiet_matplotlib import quiet_matplotlib

with quiet_matplotlib():
    import matplotlib.figure  # noqa: F401 - before any module of this folder does
