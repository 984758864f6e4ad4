"""python -O changes nothing: data and steps are refused by `raise`, where Pyro itself then validates nothing.

All of it is asked in one process, `python -O test_without_assertions.py FOLDER`, which prints its answers as JSON.
"""

import json
import subprocess
import sys
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from scripted import save_tiny

HERE = Path(__file__).parent
sys.path.append(str(HERE / "data"))

import test_data_at_the_door as door  # noqa: E402
import test_data_refused as refused  # noqa: E402

DOORS = ["check", "model", "step"]
CASES = refused.CASES[::8]
DIVERGING = [
    *("--hidden", "8", "--latent-dim", "2", "--test-samples", "20", "--elbo-samples", "5", "--batch-size", "8"),
    *("--epochs", "3", "--lr", "1e6"),
]


def answers(folder):
    """What this process says to data and to a rate that must not pass, and what Pyro says by itself."""
    sys.path.append(str(HERE.parent / "scripts"))
    from train_svi import main

    refused.write(folder, refused.TABLE)
    run = ["--dataset", save_tiny(folder / "tiny.npy"), *DIVERGING, "--out", str(folder / "run")]
    return {
        "debug": __debug__,
        "Pyro's own": dist.Bernoulli(logits=torch.tensor(1.0)).log_prob(torch.tensor(2.0)).item(),
        "door": door.answers(DOORS),
        "refused": refused.ask(folder, CASES),
        "diverged": refused.said(main, run),
    }


@pytest.mark.thorough
def test_everything_is_refused_as_ever(tmp_path):
    command = [sys.executable, "-O", __file__, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert not said["debug"]
    assert said["Pyro's own"] > -1  # log p of what cannot be
    for name in door.TAKES:
        for each in DOORS:
            door.check_answers(said["door"], name, each)
    for name, is_mapped in CASES:
        refused.check_refused(said["refused"], name, is_mapped)
    code, sentences = said["diverged"]
    assert code == 5
    assert sentences.splitlines()[-1].startswith("error: step ")
    assert "first at site" in sentences
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["status"] == "diverged"


if __name__ == "__main__":
    print(json.dumps(answers(Path(sys.argv[1]))))
