"""train_svi.py in many processes: one writes and speaks, all end together, and a kill costs no more than an epoch."""

import json
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import forked
import pytest
from cases import thorough
from finished import content, images

from pyro_vae.errors import ProcessError, UsageError
from pyro_vae.experiment.run import checkpoint
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.train import torchrun
from pyro_vae.experiment.train.training_lock import locked
from pyro_vae.inference import SharedSVI, step_graphs

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_svi.py"
FLAGS = [
    *("--dataset", "grey.npz", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16", "--epochs", "12"),
    *("--test-samples", "20", "--elbo-samples", "5", "--kl-warmup", "3", "--fewest-steps", "1", "--resume"),
]
LOST = "error: another process of this training has ended"
SLOWEST = 300  # seconds, until processes count as hanging


def one(rank, size, port, arguments, signalled):
    """A child: runs the script as torchrun would, and writes what it says into said-RANK.txt."""
    said = os.open(f"said-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, GLOO_SOCKET_IFNAME="lo")
    torchrun._PATIENCE = 0.5  # there is no torchrun that would end it
    step_graphs.TRACE_AFTER = 0  # torchrun itself starts processes whose steps Pyro runs, to the same bits
    if signalled and rank == size - 1:
        signal_after_steps(signalled)
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT))["main"](arguments)


def signal_after_steps(steps):
    step_from = SharedSVI.step_from

    def step_and_signal(self, *args, **kwargs):
        loss = step_from(self, *args, **kwargs)
        if self.num_steps == steps:
            signal.raise_signal(signal.SIGTERM)
        return loss

    SharedSVI.step_from = step_and_signal


def start(size, *arguments, signalled=0):
    """Starts so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [forked.start(one, rank, size, port, arguments, signalled) for rank in range(size)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images("grey.npz", size=60)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What two processes end with that nobody disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        images("grey.npz", size=60)
        assert codes(start(2, *FLAGS, "--out", "run")) == [0, 0]
        assert said(1) == ""
        return result("run")


def codes(started):
    """How they end; none may wait for ever."""
    deadline = time.monotonic() + SLOWEST
    for each in started:
        each.join(max(0, deadline - time.monotonic()))
    return [each.exitcode for each in started]


def said(rank):
    """What a process said, but for what torch's own language does where torch was loaded before the script ran."""
    lines = Path(f"said-{rank}.txt").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if "find_unused_parameters" not in line)


def result(folder):
    """All files of a run, but for the times in run.json."""
    return {name: digest for name, digest in content(folder).items() if name != "run.json"}


def about(folder):
    return json.loads(Path(folder, "run.json").read_bytes())


def reached(folder):
    """The last epoch that is kept."""
    found, _ = checkpoint.newest(Path(folder, "checkpoints"))
    return 0 if found is None else found.progress.epoch


def wait_for_epoch(folder, epoch):
    """Or a later one: who looks seldom never sees a checkpoint that three others have followed."""
    kept = Path(folder, "checkpoints")
    wait_for(lambda: any(path.name >= f"epoch-{epoch:05d}" for path in kept.glob("epoch-*.json")))


def wait_for(happened):
    deadline = time.monotonic() + SLOWEST
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.thorough
def test_a_killed_process_ends_the_others_and_the_run_goes_on_to_the_same_bytes(undisturbed):
    for epoch, killed in ((2, 1), (6, 0)):
        started = start(2, *FLAGS, "--out", "run")
        wait_for_epoch("run", epoch)
        started[killed].kill()
        ends = codes(started)
        assert ends[killed] == -signal.SIGKILL
        assert ends[1 - killed] == ProcessError.exit_code
        if killed == 1:
            assert said(0).splitlines()[-1].startswith(LOST)
            assert about("run")["status"] == "interrupted"
        assert epoch <= reached("run") < 12
    assert codes(start(2, *FLAGS, "--out", "run")) == [0, 0]
    assert result("run") == undisturbed
    assert about("run")["processes"] == 2
    assert len(Run(Path("run"), None).history.records()) == 12


@pytest.mark.thorough
def test_a_signal_to_one_process_stops_all_at_one_step_from_where_the_run_goes_on(undisturbed):
    assert codes(start(2, *FLAGS, "--out", "run", signalled=5)) == [143, 143]
    assert said(0).splitlines()[-1].startswith("interrupted: what was reached is kept")
    assert said(1) == ""
    assert about("run")["status"] == "interrupted"
    found = checkpoint.newest(Path("run/checkpoints"))[0].progress
    assert (found.epoch, found.steps) == (1, 2)
    shutil.copytree("run", "other")
    assert codes(start(2, *FLAGS, "--out", "run")) == [0, 0]
    assert result("run") == undisturbed

    assert codes(start(3, *FLAGS, "--out", "other")) == [0, 0, 0]
    assert "note: other was trained in 2 processes; 3 draw other noise" in said(0)
    assert about("other")["processes"] == 3
    assert about("other")["teams"] == [
        {"epoch": 0, "steps": 0, "processes": 2},
        {"epoch": 1, "steps": 2, "processes": 3},
    ]
    assert len(Run(Path("other"), None).history.records()) == 12
    assert result("other").keys() == undisturbed.keys()
    assert result("other") != undisturbed


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        *thorough((["--nosuch", "3"], 2, "error: unknown flag --nosuch"), (["--dataset", "nowhere.npz"], 3, "error: ")),
        (["--lr", "1e300", "--likelihood", "normal"], 5, "error: step "),
    ],
)
def test_an_error_is_one_sentence_and_one_code_of_all(flags, code, sentence):
    assert codes(start(2, *FLAGS, *flags, "--out", "run")) == [code, code]
    *before, last = said(0).splitlines()
    assert last.startswith(sentence)
    assert not [line for line in before if "rror" in line]
    assert said(1) == ""


@pytest.mark.thorough
def test_a_folder_in_which_another_trains_is_refused_by_all():
    with locked(Path("run")):
        assert codes(start(2, *FLAGS, "--out", "run")) == [2, 2]
        assert said(0).splitlines()[-1].startswith(f"error: another training is at work in run (process {os.getpid()} ")
        assert said(1) == ""
        assert [path.name for path in Path("run").iterdir()] == ["train.lock"]


@pytest.mark.parametrize("place", [0, 1])
def test_more_processes_than_accelerators_are_refused_by_each_of_them(place, monkeypatch):
    """Also by the first one, which has an accelerator: it alone is heard."""
    monkeypatch.setenv("LOCAL_RANK", str(place))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 processes of this machine need an accelerator each, but there are 1"):
        torchrun._take_device("cuda")


# By torchrun itself.


def launched(*arguments):
    """Starts two processes by torchrun; what they say goes into said.txt."""
    surroundings = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT]
    with Path("said.txt").open("a") as said:
        return subprocess.Popen([*command, *arguments], stdout=said, stderr=said, env=surroundings)


@pytest.mark.thorough
def test_torchrun_trains_to_the_same_bytes_and_prints_one_report(undisturbed):
    assert launched(*FLAGS, "--out", "run").wait(SLOWEST) == 0
    assert result("run") == undisturbed
    text = Path("said.txt").read_text()
    assert text.count("epoch  1/12") == text.count("-log p(x), bits/dim") == 1


def workers(agent):
    """The processes that torchrun has started and that have not ended, in the order of their ranks."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    return [int(number) for number in children if state(number) not in ("Z", "X", "")]


def state(number):
    """Of a process: the letter after its name; nothing where it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_ten_kills_at_random_moments_under_torchrun(undisturbed):
    flags = [*FLAGS, "--out", "run", "--epochs", "60"]
    agent = begun(flags)
    began = time.monotonic()
    assert agent.wait(SLOWEST) == 0
    expected, seconds = result("run"), time.monotonic() - began
    moment, kills = random.Random(0), []  # noqa: S311 - no secret
    while len(kills) < 10:
        shutil.rmtree("run")
        agent = begun(flags)
        while agent.poll() is None and len(kills) < 10:  # one run, killed and taken up again until it ends
            time.sleep(moment.uniform(0, seconds / 3))
            if alive := workers(agent):
                os.kill(moment.choice(alive), signal.SIGKILL)
                if agent.wait(SLOWEST) == 0:  # that one had ended by itself, though torchrun did not know it yet
                    break
                assert agent.returncode == 1
                kills.append(reached("run"))
                agent = begun(flags)
        assert agent.wait(SLOWEST) == 0
        assert result("run") == expected
        assert len(Run(Path("run"), None).history.records()) == 60
    print(f"{len(kills)} kills, when these epochs were kept: {kills}, in runs of {seconds:.1f} s")


def begun(flags):
    """Two processes that have come to where they train, or have ended."""
    about = Path("run/run.json")
    before = about.stat().st_mtime_ns if about.exists() else 0
    agent = launched(*flags)
    wait_for(lambda: agent.poll() is not None or (about.exists() and about.stat().st_mtime_ns > before))
    return agent
