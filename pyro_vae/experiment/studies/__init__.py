"""Studies of a trained run: another prior, samples, the terms of the loss."""
