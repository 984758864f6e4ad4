"""What the latent space is used for: single dimensions, and the aggregate posterior q(z)."""
