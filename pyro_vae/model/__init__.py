"""What the program is: networks; distributions; priors, posteriors, likelihoods; the programs; their checks."""
