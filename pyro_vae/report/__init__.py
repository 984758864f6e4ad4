"""Numbers to text, JSON and pictures; knows no training."""
