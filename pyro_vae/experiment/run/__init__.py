"""A run on disk: its folder, the files in it, and a trained run that is opened again."""
