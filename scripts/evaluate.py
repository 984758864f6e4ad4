"""Say how good a trained run is, and how far that can be trusted: one report, as text, tables, files and a page.

python scripts/evaluate.py runs/digits
python scripts/evaluate.py runs/mnist --test-data 1000 --num-samples 5000
python scripts/evaluate.py runs/digits --annealed-data 0 --posterior-draws 0

In many processes, or on many machines, with the same bytes in the end (docs/scale.md):

python scripts/evaluate.py runs/digits --shard 0/2
python scripts/evaluate.py runs/digits --shard 1/2
python scripts/evaluate.py runs/digits --merge
"""

from pyro_vae.cli.evaluate_command import main

if __name__ == "__main__":
    main()
