"""Matplotlib is loaded without a word."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """Holds back what Matplotlib logs while it is loaded: that it lists the fonts, and where if HOME takes no file."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
