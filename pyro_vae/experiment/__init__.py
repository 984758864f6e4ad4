"""A run on disk: its config, how it is built, its checkpoints, its folder."""
