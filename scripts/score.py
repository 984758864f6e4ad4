"""The same as `pyro-vae score`, from a checkout: python scripts/score.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("score")

if __name__ == "__main__":
    sys.exit(main())
