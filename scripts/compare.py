"""The same as `pyro-vae compare`, from a checkout: python scripts/compare.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("compare")

if __name__ == "__main__":
    sys.exit(main())
