"""Programs whose answers are known, and the ladder that holds every estimator to them."""
