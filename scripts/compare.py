"""Compare trained runs by log p(x) on the same test data, datum by datum.

python scripts/compare.py runs/standard runs/vamp
python scripts/compare.py runs/standard-* runs/vamp-* --reference first --out runs/priors
"""

from pyro_vae.cli.compare_command import main

if __name__ == "__main__":
    main()
