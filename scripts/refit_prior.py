"""Fit another prior to a trained run whose encoder and decoder stay as they are, and check what that changed.

python scripts/refit_prior.py runs/digits --prior vamp
python scripts/refit_prior.py runs/digits --prior mixture --num-components 50 --out runs/digits-mixture-50
"""

from pyro_vae.cli.refit_command import main

if __name__ == "__main__":
    main()
