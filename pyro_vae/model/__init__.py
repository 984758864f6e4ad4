"""What the program is: networks; priors, posteriors, likelihoods; Program and VAE."""
