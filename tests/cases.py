"""Cases of a table: which of them only the thorough tests run, and which need more than a machine may have."""

import shutil

import pytest

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def thorough(*cases):
    """Marks cases of `pytest.mark.parametrize`, where others of the table stay ordinary; a tuple has several values."""
    each = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*values, marks=pytest.mark.thorough) for values in each]


def all_but(ordinary, table):
    """A table in its order, of which only the ordinary cases are run by an ordinary test."""
    return [case for each in table for case in ([each] if each in ordinary else thorough(each))]


def covering(*tables):
    """Combinations of names, as few as the longest table has, in which each name of each table occurs."""
    longest = max(map(len, tables))
    return [tuple(table[i % len(table)] for table in map(list, tables)) for i in range(longest)]
