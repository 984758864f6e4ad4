"""The arithmetic floor: how fast this machine multiplies matrices."""

import torch

from benchmarks.peers.peer import Peer
from benchmarks.problem import Array, Parameters, Size

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Floor(Peer):
    """Matrix products alone, by torch."""

    def __init__(self, size: Size, device: str = "cpu") -> None:
        super().__init__(size, device)
        self.operands: dict[tuple[int, int, int, str], list[torch.Tensor]] = {}

    def feed(self, x: Array) -> None:
        """It has no data."""

    def set_parameters(self, parameters: Parameters) -> None:
        """It has no parameters."""

    @torch.no_grad()
    def product(self, rows: int, inner: int, columns: int, dtype: str, times: int) -> int:
        """(rows, inner) @ (inner, columns), `times` times."""
        key = (rows, inner, columns, dtype)
        if key not in self.operands:
            shapes = (rows, inner), (columns, inner), (rows, columns)
            self.operands[key] = [torch.randn(s, device=self.device).to(DTYPES[dtype]) for s in shapes]
        left, right, out = self.operands[key]
        for _ in range(times):
            torch.mm(left, right.T, out=out)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return times
