"""The same as `pyro-vae ablate`, from a checkout: python scripts/loss_ablation.py --help."""

import sys

from pyro_vae.cli.front_door import command

main = command("ablate")

if __name__ == "__main__":
    sys.exit(main())
