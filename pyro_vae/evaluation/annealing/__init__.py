"""Annealing: chains that walk from a density one can draw from to the posterior."""
