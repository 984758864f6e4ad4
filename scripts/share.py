"""The same as `pyro-vae share`, from a checkout: python scripts/share.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("share")

if __name__ == "__main__":
    sys.exit(main())
