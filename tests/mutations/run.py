"""Seeds plausible bugs one at a time into a copy of the project and sees whether its tests notice.

python tests/mutations/run.py                                             # their names, and why they are plausible
python tests/mutations/run.py --all                                       # all of them, an hour or so on one core
python tests/mutations/run.py kl_added_to_the_elbo wrong_exit_code
python tests/mutations/run.py --random 40 --seed 1 --expected              # bugs that nobody chose, see random_bugs.py

A bug is an exact replacement of text in one file of the package, listed in the *.toml files here with the reason why
it is plausible and the test files that should notice. The others are asked only where these do not. It is caught where
a test fails; a bug that keeps the package from being imported, or tests from being collected, is a mistake of the list.
A random one that is not caught has to be judged: it may change nothing that matters.

Exit codes: 0 all caught, 1 some were not, or the list is mistaken, 2 usage.
"""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import random_bugs

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = ("pyproject.toml", *PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
_NONE_CHOSEN = 5  # pytest's exit code where no test has the marks
LIMIT = 3600  # seconds of one run of pytest: a bug may keep a loop from ending
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - |$)", re.MULTILINE)


class Bug(NamedTuple):
    """One bug.

    Attributes:
        name: what it is, in a few words.
        file: below pyro_vae/.
        old, new: text that occurs exactly once in the file, and what stands in its place.
        why: it is plausible.
        tests: the files, below tests/, where it should be caught.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: Sequence[str]


class Verdict(NamedTuple):
    """What became of a bug: the test that caught it, or none; or what is wrong with the list."""

    bug: Bug
    caught_by: str
    mistake: str
    seconds: float

    def __str__(self) -> str:
        outcome = self.caught_by or (f"MISTAKE OF THE LIST: {self.mistake}" if self.mistake else "SURVIVED")
        return f"{self.bug.name:<60} {outcome:<110} {self.seconds:>6.0f} s"


class Mistake(Exception):  # noqa: N818 - of the list, and none of the package
    """The list is wrong about a bug."""


def bugs() -> list[Bug]:
    """All of them, room by room."""
    tables = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.toml"))]
    return [Bug(name, **fields) for table in tables for name, fields in table.items()]


def seeded(bug: Bug, source: str) -> str:
    """The source with the bug in it.

    Raises:
        Mistake: the text to be replaced does not occur exactly once.
    """
    if (found := source.count(bug.old)) != 1:
        raise Mistake(f"its text occurs {found} times in {bug.file}")
    return source.replace(bug.old, bug.new)


def main(argv: Sequence[str] | None = None) -> None:
    listed = {bug.name: bug for bug in bugs()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of bugs")
    parser.add_argument("--all", action="store_true", help="every bug of the list")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N random changes, of this --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--expected", action="store_true", help="run the test files that should notice, and no others")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in listed]:
        parser.error(f"no such bug: {', '.join(unknown)}")
    chosen = list(listed.values()) if arguments.all else [listed[name] for name in arguments.names]
    chosen += [_random(*change) for change in random_bugs.drawn(ROOT / "pyro_vae", arguments.random, arguments.seed)]
    if not chosen:
        print("\n".join(f"{bug.name:<60} {bug.why}" for bug in listed.values()))
        return
    with ThreadPoolExecutor(arguments.jobs) as pool:
        survived = 0
        for found in pool.map(partial(verdict, expected=arguments.expected), chosen):
            print(found, flush=True)
            survived += not found.caught_by
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    sys.exit(bool(survived))


def _random(name: str, file: str, old: str, new: str) -> Bug:
    """A change of a whole file, which its own examples and the tests of its room should notice."""
    tests = (ROOT / "tests" / file.partition("/")[0]).rglob("test_*.py")
    alike = sorted(tests, key=lambda test: (-_likeness(Path(file).stem, test.stem.removeprefix("test_")), test))
    nearest_first = [test.relative_to(ROOT / "tests").as_posix() for test in alike]
    return Bug(name, file, old, new, "nobody chose it", [f"../pyro_vae/{file}", *nearest_first])


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()


def verdict(bug: Bug, *, expected: bool = False) -> Verdict:
    """Copies the project, seeds the bug and runs the test files that should notice; then, unless `expected`, all."""
    begun, caught_by, mistake = time.perf_counter(), "", ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy = _copied(bug, Path(folder) / "project")
            for tests in [bug.tests] if expected else [bug.tests, []]:
                caught_by = caught_by or _first_failure(copy, [f"tests/{name}" for name in tests])
        except Mistake as error:
            mistake = str(error)
    return Verdict(bug, caught_by, mistake, time.perf_counter() - begun)


def _copied(bug: Bug, copy: Path) -> Path:
    copy.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name)
        else:
            shutil.copy2(ROOT / name, copy / name)
    path = copy / "pyro_vae" / bug.file
    path.write_text(seeded(bug, path.read_text(encoding="utf-8")), encoding="utf-8")
    module = ".".join(("pyro_vae", *Path(bug.file).with_suffix("").parts))
    where = _python(copy, "-c", f"import {module} as it; print(it.__file__)")
    if where.returncode or Path(where.stdout.strip()) != path:
        raise Mistake(f"{module} cannot be imported: {(where.stderr.splitlines() or [where.stdout])[-1]}")
    return copy


def _first_failure(copy: Path, tests: Sequence[str]) -> str:
    """The first test that fails, by its id; empty where all but the slow ones pass, of these files or of all."""
    return _failure(copy, "not slow and not thorough", tests) or _failure(copy, "thorough and not slow", tests)


def _failure(copy: Path, marks: str, tests: Sequence[str]) -> str:
    options = ("-x", "-q", "-rfE", "-p", "no:cacheprovider", "-m", marks, "--ignore=tests/mutations")
    found = _python(copy, "-m", "pytest", *options, *tests)
    failed = _FAILED.search(found.stdout)
    if found.returncode == 1 and failed:
        return failed[1]
    if found.returncode not in (0, _NONE_CHOSEN):
        raise Mistake(f"pytest ended with {found.returncode}: {' '.join(found.stdout.splitlines()[-3:])}")
    return ""


def _python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    surroundings = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(copy)}
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=copy, env=surroundings, capture_output=True, text=True, check=False, timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Mistake(f"it takes more than {LIMIT} s") from None


if __name__ == "__main__":
    main()
