"""Evaluation: from a finished run to its whole report."""
