"""Train a variational autoencoder by stochastic variational inference, and report how good it is.

python scripts/train_svi.py --likelihood bernoulli
python scripts/train_svi.py --dataset mnist --data-dir data --epochs 20 --out runs/mnist
python scripts/train_svi.py --out runs/mnist --resume
torchrun --nproc-per-node 2 scripts/train_svi.py --out runs/two
"""

from pyro_vae.cli.train_command import main

if __name__ == "__main__":
    main()
