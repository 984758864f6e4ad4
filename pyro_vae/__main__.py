"""python -m pyro_vae train: the same as the installed command, pyro-vae train."""

import sys

from pyro_vae.cli.front_door import main

if __name__ == "__main__":
    sys.exit(main())
