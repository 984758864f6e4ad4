"""Share a trained run: a folder with its weights, its settings and a model card, as the Hugging Face hub has it.

python scripts/share.py runs/digits --out shared/digits --license apache-2.0
python scripts/share.py runs/digits --out shared/digits --push user/digits-vae
"""

from pyro_vae.cli.share_command import main

if __name__ == "__main__":
    main()
