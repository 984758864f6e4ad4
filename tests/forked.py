"""Processes that are forked from a server which has imported everything, so that they are at work at once."""

import multiprocessing
import os
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["pyro_vae.experiment.train.training", "pyro_vae.experiment.evaluate.report_files", "pyro.infer", "torch._dynamo"]
)


def start(target, *arguments):
    """A process that calls `target(*arguments)`."""
    process = SERVER.Process(target=target, args=arguments)
    process.start()
    return process


class Script:
    """A script in a process of its own, in the manner of `subprocess.Popen` with two pipes."""

    def __init__(self, name, *arguments, inside=nullcontext):
        """`inside()` is a context in which the process runs the script."""
        pipes = [SERVER.Pipe(duplex=False) for _ in ("stdout", "stderr")]
        writing = [end for _, end in pipes]
        self.process = start(_script, name, [*map(str, arguments)], inside, os.getcwd(), *writing)
        for _, writing in pipes:
            writing.close()
        self.pid = self.process.pid
        self.stdout, self.stderr = (os.fdopen(os.dup(reading.fileno())) for reading, _ in pipes)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.communicate()

    def communicate(self):
        said = []
        for pipe in (self.stdout, self.stderr):
            said.append("" if pipe.closed else pipe.read())
            pipe.close()
        self.process.join()
        return said

    def poll(self):
        return self.process.exitcode

    @property
    def returncode(self):
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()


def _script(name, arguments, inside, folder, *pipes):
    os.chdir(folder)
    for number, pipe in enumerate(pipes, 1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    # New streams: the server's own may have been opened on a file, and would then seek in the pipe.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = [str(SCRIPTS / name), *arguments]
    with inside():
        runpy.run_path(sys.argv[0], run_name="__main__")
