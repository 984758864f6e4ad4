"""Documents: of a training, an evaluation, a comparison, a sweep, an ablation, a refit, a shared model."""
