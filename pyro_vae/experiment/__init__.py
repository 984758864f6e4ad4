"""Runs on disk: how they are configured, built, trained, evaluated, compared, swept and shared."""
