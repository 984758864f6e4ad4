"""Programs whose answers are known, and the ladder that compares every estimator with them."""
