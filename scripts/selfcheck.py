"""Hold every estimator of log p(x) against a truth that it cannot have copied; exit with 8 where one is off.

python scripts/selfcheck.py
python scripts/selfcheck.py --json selfcheck.json
"""

from pyro_vae.cli.selfcheck_command import main

if __name__ == "__main__":
    main()
