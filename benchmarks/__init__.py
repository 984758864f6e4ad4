"""Side-by-side timings of the same variational autoencoder in several frameworks; `python benchmarks/run.py`."""
