"""The same as `pyro-vae refit`, from a checkout: python scripts/refit_prior.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("refit")

if __name__ == "__main__":
    sys.exit(main())
