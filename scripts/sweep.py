"""Train over grids of settings and several seeds, choose on validation data, and test the chosen setting alone.

python scripts/sweep.py --grid kl_weight=0.5,1,2 --grid prior=standard,vamp --seeds 3 --out runs/sweep
python scripts/sweep.py --range lr=1e-4..1e-2 --grid hidden=256,"300 300" --search 30 --out runs/search
"""

from pyro_vae.cli.sweep_command import main

if __name__ == "__main__":
    main()
