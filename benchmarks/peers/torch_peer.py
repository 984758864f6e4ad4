"""What the peers in torch share: a module, its parameters by canonical names, and data in one tensor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.peer import Peer
from benchmarks.problem import Array, Parameters


class TorchPeer(Peer):
    """A peer whose program is a torch module. A subclass sets `module` and says which parameter is which."""

    module: Any  # an nn.Module, whose attributes differ by peer

    def named(self) -> Mapping[str, Tensor]:
        """Canonical name -> parameter of the module, of the canonical number of elements."""
        return dict(self.module.named_parameters())

    def set_parameters(self, parameters: Parameters) -> None:
        with torch.no_grad():
            for name, parameter in self.named().items():
                parameter.copy_(torch.from_numpy(parameters[name]).reshape(parameter.shape))

    def parameters(self) -> Parameters:
        return {name: parameter.detach().cpu().numpy().copy() for name, parameter in self.named().items()}

    def feed(self, x: Array) -> None:
        self.data = torch.from_numpy(x).to(self.device)
        self.batches = [b for b in self.data.split(self.size.batch) if len(b) == self.size.batch]
        self.position = 0

    def next_batch(self) -> Tensor:
        self.position += 1
        return self.batches[(self.position - 1) % len(self.batches)]

    def losses(self, num_steps: int) -> list[float]:
        return [float(self.step(self.next_batch())) for _ in range(num_steps)]

    def steps(self, num_steps: int) -> int:
        for _ in range(num_steps):
            self.step(self.next_batch())
        if self.device == "cuda":
            torch.cuda.synchronize()
        return num_steps

    def step(self, x: Tensor) -> Tensor | float:
        """One step; returns the loss, summed over the batch."""
        raise NotImplementedError
