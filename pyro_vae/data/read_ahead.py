"""read_ahead: makes the items of an iterator in the background while the consumer is busy."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def read_ahead(items: Iterator[Item], depth: int = 4) -> Generator[Item, None, None]:
    """Yields the same items in the same order; one thread makes up to `depth` of them ahead.

    The thread ends when the items end, or when the iterator is closed or dropped. An exception of `items` is raised in
    the consumer, in place of that item.

    Args:
        items: consumed only by that thread, one `next` after another.
        depth: at least 1; this many items are held in addition to the one in use.

    Example:
        >>> list(read_ahead(iter(range(5)), depth=2))
        [0, 1, 2, 3, 4]
    """
    waiting: deque[Future[Item | object]] = deque()
    with ThreadPoolExecutor(1, "read-ahead") as worker:
        try:
            waiting.extend(worker.submit(next, items, _END) for _ in range(depth))
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(worker.submit(next, items, _END))
                yield item  # type: ignore[misc]  # _END is gone, which mypy cannot know
        finally:
            for future in waiting:
                future.cancel()
