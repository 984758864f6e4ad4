"""The same as `pyro-vae selfcheck`, from a checkout: python scripts/selfcheck.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("selfcheck")

if __name__ == "__main__":
    sys.exit(main())
