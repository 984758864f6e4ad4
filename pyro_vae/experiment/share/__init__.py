"""Sharing: a trained program as a folder for others."""
