"""A Pyro program as one graph of tensor operations."""
