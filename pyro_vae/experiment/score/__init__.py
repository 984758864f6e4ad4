"""Scores of single data by a trained run: of any file in the training data's own form, or of one of its splits."""
