"""read_ahead: the same items, a thread that ends, an exception that arrives."""

import gc
import threading
import time

import pytest

from pyro_vae.data.read_ahead import read_ahead


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert not running()
    yield
    assert not running()


@pytest.mark.parametrize("depth", [1, 3, 100])
@pytest.mark.parametrize("size", [0, 1, 20])
def test_the_items_are_the_same(size, depth):
    assert list(read_ahead(iter(range(size)), depth)) == list(range(size))


def test_items_are_made_ahead_but_not_without_bound():
    made = []
    ahead = read_ahead((made.append(i) or i for i in range(100)), depth=3)
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    ahead.close()


def test_they_are_made_in_another_thread():
    assert list(read_ahead(iter([threading.current_thread] * 1))) == [threading.current_thread]
    (name,) = read_ahead(threading.current_thread().name for _ in range(1))
    assert name.startswith("read-ahead")


def test_an_exception_comes_at_its_place():
    def failing():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    ahead = read_ahead(failing())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


@pytest.mark.parametrize("consumed", [0, 1, 5])
def test_the_thread_ends_with_an_iterator_that_is_closed(consumed):
    ahead = read_ahead(iter(range(100)))
    for _ in range(consumed):
        next(ahead)
    assert bool(running()) == (consumed > 0)
    ahead.close()


def test_nothing_more_is_made_after_the_close():
    made, going = [], threading.Event()

    def slow():
        for i in range(100):
            made.append(i)
            if i:
                going.set()
                time.sleep(0.1)
            yield i

    ahead = read_ahead(slow(), depth=20)
    next(ahead)
    going.wait(10)
    ahead.close()
    assert len(made) <= 3


def test_the_thread_ends_with_an_iterator_that_is_dropped():
    for i in read_ahead(iter(range(100))):
        if i == 3:
            break
    gc.collect()
