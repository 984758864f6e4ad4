"""The same as `pyro-vae sweep`, from a checkout: python scripts/sweep.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("sweep")

if __name__ == "__main__":
    sys.exit(main())
