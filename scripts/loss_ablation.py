"""Train with only reconstruction, only KL and both, and put the three side by side, in numbers and in a picture.

python scripts/loss_ablation.py --out runs/ablation
python scripts/loss_ablation.py --latent-dim 2 --epochs 200 --out runs/ablation-2
python scripts/loss_ablation.py --out runs/ablation --resume
"""

from pyro_vae.cli.ablate_command import main

if __name__ == "__main__":
    main()
