"""The same as `pyro-vae sample`, from a checkout: python scripts/sample.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("sample")

if __name__ == "__main__":
    sys.exit(main())
