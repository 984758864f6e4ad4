"""The same as `pyro-vae evaluate`, from a checkout: python scripts/evaluate.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("evaluate")

if __name__ == "__main__":
    sys.exit(main())
