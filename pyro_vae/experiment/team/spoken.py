"""Standard error of several processes that do the same: a line that one of them has said is not said by another."""

import threading
from typing import Any


class Spoken:
    """A stream of whole lines; a context that prints what is left of one at its end.

    Args:
        stream: where they go.

    Example:
        >>> import io
        >>> stream = io.StringIO()
        >>> with Spoken(stream) as spoken:
        ...     _ = spoken.write("a warning\\n")       # of this process
        ...     spoken.write_of(1, "a warning\\nanother\\n")
        >>> stream.getvalue()
        'a warning\\nanother\\n'
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._begun: dict[int, str] = {}
        self._by: dict[str, int] = {}

    def __enter__(self) -> "Spoken":
        return self

    def __exit__(self, *error: object) -> None:
        for process, rest in list(self._begun.items()):
            if rest:
                self.write_of(process, "\n")

    def write(self, text: str) -> int:
        """Writes the whole lines of this process."""
        self.write_of(0, text)
        return len(text)

    def write_of(self, process: int, text: str) -> None:
        """Writes the whole lines of another process that no other has said."""
        with self._lock:
            *lines, self._begun[process] = (self._begun.get(process, "") + text).split("\n")
            for line in lines:
                if not line or self._by.setdefault(line, process) == process:
                    self._stream.write(f"{line}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
