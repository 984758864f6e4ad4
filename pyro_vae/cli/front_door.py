"""`pyro-vae COMMAND ...`: finds the command and runs it. Nothing is imported that the command does not need."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from pyro_vae import __version__
from pyro_vae.cli.output import output
from pyro_vae.command_lines import COMMANDS, program
from pyro_vae.errors import UsageError, unknown

# What most people need: commands, and which of their examples.
_SHOWN = (("train", 0), ("train", 1), ("evaluate", 0), ("score", 0), ("compare", 0))


def main(argv: Sequence[str] | None = None) -> int | None:
    """Runs the command that the first word names, and returns its exit code.

    Args:
        argv: the words behind the program's name; None takes those of the process.
    """
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        return command(name)(rest)
    with output():
        if name in ("-h", "--help"):
            print(_help())
            return None
        if name == "--version":
            print(f"pyro-vae {__version__}")
            return None
        print(f"error: {unknown('command', name, COMMANDS)}", file=sys.stderr)
        return UsageError.exit_code


def command(name: str) -> Callable[..., int | None]:
    """Returns the function that runs one command, for its script."""

    def main(argv: Sequence[str] | None = None) -> int | None:
        with output():
            return import_module(f"pyro_vae.cli.{name}_command").main(None if argv is None else list(argv))

    return main


def _help() -> str:
    typed = program()
    lines = [f"  {typed} {name} {COMMANDS[name].examples[i]}" for name, i in _SHOWN]
    rows = [f"  {name:10} {about.does}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {typed} COMMAND ...   (COMMAND --help lists its flags)",
            "",
            "Variational autoencoders, with error bars on log p(x).",
            "",
            "What most people need:",
            *lines,
            "",
            "All commands:",
            *rows,
        ]
    )
