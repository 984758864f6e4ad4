"""Look at what a trained run draws and decodes: pictures, and the arrays they show.

python scripts/sample.py runs/mnist
python scripts/sample.py runs/mnist --between 3 5
python scripts/sample.py runs/labels --y 7 --only samples
"""

from pyro_vae.cli.sample_command import main

if __name__ == "__main__":
    main()
