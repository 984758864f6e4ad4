"""history.jsonl: a line for the record of each epoch, written before the checkpoint of that epoch.

A checkpoint knows the SHA-256 of the lines that belong to it. So an edited history is refused, and lines after those,
of epochs that will be run again, are cut off.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pyro_vae.errors import CheckpointError
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.damaged_files import A_COPY, damaged
from pyro_vae.inference import Record


class EpochHistory:
    """The history of one run.

    Args:
        path: the path of history.jsonl, which is made when the first epoch has ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sha256 = hashlib.sha256()  # of the lines that this session has kept or written

    def records(self) -> list[dict[str, Any]]:
        """Reads the records, the oldest first. A torn last line is dropped.

        Raises:
            CheckpointError: a line is not a record.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
            records = [dict(json.loads(line)) for line in lines]
            if not all({"epoch", "best"} <= record.keys() for record in records):
                raise ValueError("a line lacks its epoch, or whether that is the best one")
            return records
        except (ValueError, TypeError, RecursionError) as error:
            raise damaged(self.path, error) from error

    def length(self) -> int:
        """Counts the records, also while the run is training."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def append(self, record: Record) -> None:
        """Adds the record of an epoch."""
        line = json.dumps(record.to_dict(), allow_nan=False)
        files.append(self.path, line)
        self._sha256.update(f"{line}\n".encode())

    def sha256(self) -> str:
        """The digest for the next checkpoint: of all lines that `cut` kept, and of those written since."""
        return self._sha256.hexdigest()

    def first_lines(self, epochs: int, sha256: str) -> bytes:
        """Reads the lines of the first epochs, and checks them against their checkpoint.

        Args:
            epochs: how many lines belong to the checkpoint.
            sha256: the SHA-256 of these lines; "" where the checkpoint does not know it.

        Raises:
            CheckpointError: the lines are missing, or differ.
        """
        numbers = [record.get("epoch") for record in self.records()[:epochs]]
        if len(numbers) < epochs or numbers != list(range(1, epochs + 1)):
            raise CheckpointError(f"{self.path} does not hold epochs 1 to {epochs} of the checkpoint. {A_COPY}")
        lines = b"".join(self.path.read_bytes().splitlines(keepends=True)[:epochs]) if epochs else b""
        if sha256 and (here := files.sha256(lines)) != sha256:
            raise damaged(self.path, f"the SHA-256 of its first {epochs} lines should be {sha256}, is {here}")
        return lines

    def cut(self, lines: bytes) -> None:
        """Keeps only these first lines. What comes after them will be written again."""
        if self.path.exists() and self.path.read_bytes() != lines:
            files.write(self.path, lines)
        self._sha256 = hashlib.sha256(lines)
