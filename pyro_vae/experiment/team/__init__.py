"""Several processes of this machine that share one list of work."""
