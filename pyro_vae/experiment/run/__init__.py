"""A run on disk: whole files, manifests, checkpoints, the folder, and a run opened again."""
