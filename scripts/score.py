"""Score new data by a trained run: what the program says of each row of a file, as a table.

python scripts/score.py runs/digits --data new.npy --out scores.csv
python scripts/score.py runs/digits --split test --out scores.npz --reconstructions

In many processes, or on many machines, with the same bytes in the end:

python scripts/score.py runs/digits --data new.npy --out scores.csv --shard 0/2
python scripts/score.py runs/digits --data new.npy --out scores.csv --shard 1/2
python scripts/score.py runs/digits --data new.npy --out scores.csv --merge
"""

from pyro_vae.cli.score_command import main

if __name__ == "__main__":
    main()
