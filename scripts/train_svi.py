"""The same as `pyro-vae train`, from a checkout: python scripts/train_svi.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("train")

if __name__ == "__main__":
    sys.exit(main())
