"""The documents: of a training, an evaluation, a comparison, a sweep, an ablation, a refit and a shared model."""
