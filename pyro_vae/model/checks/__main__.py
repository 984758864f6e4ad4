"""python -m pyro_vae.model.checks student.py:StudentPrior --latent-dim 3."""

import sys

from pyro_vae.cli.check_command import main

if __name__ == "__main__":
    sys.exit(main())
