"""The list of bugs in this folder still fits the package, and, slowly, each of them is caught."""

from pathlib import Path

import pytest
from run import ROOT, bugs, seeded, verdict

TESTS = Path(__file__).parents[1]
BUGS = {bug.name: bug for bug in bugs()}
every_bug = pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)


@every_bug
def test_each_bug_replaces_text_that_occurs_once_by_python(bug):
    source = (ROOT / "pyro_vae" / bug.file).read_text(encoding="utf-8")
    compile(seeded(bug, source), bug.file, "exec")
    assert bug.old != bug.new


@every_bug
def test_each_bug_says_why_and_where_it_should_be_caught(bug):
    assert bug.why
    assert bug.tests
    assert [name for name in bug.tests if not (TESTS / name).is_file()] == []


def test_the_list_is_long():
    assert len(BUGS) == len(bugs()) >= 100


@pytest.mark.slow
@every_bug
def test_each_bug_is_caught(bug):
    assert verdict(bug).caught_by
