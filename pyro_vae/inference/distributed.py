"""The step and the validation of one process of many, with the numbers of all.

Every process is given the whole batch and computes on its slice. The gradient that the optimisers see is the sum over
the whole batch, the same on all processes to the last bit, and so the parameters stay the same.
"""

import json
import logging
import math
import warnings
from typing import Any

import torch
import torch.distributed as dist
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pyro_vae.evaluation import ELBOTerms, Estimate, elbo_terms
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.inference.divergence import Noise
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.step_graphs import Call
from pyro_vae.inference.svi import SVI
from pyro_vae.inference.world import World, peers

_logger = logging.getLogger(__name__)


class SharedSVI(SVI):
    """`SVI` in many processes: `DistributedDataParallel` over `Objective`, with sums in place of its averages.

    All processes call `step` with the same batch. Each computes on its slice, the slices as even as they can be; one
    that has no slice, of a batch smaller than the number of processes, computes on the first datum with weight 0. Loss
    and gradient are the sums over the batch, so that one process and many make the same step but for their draws of z
    and for rounding. Where the loss of one process is refused, all refuse the step, with the same error.

    Steps run by Pyro, and are no graphs.

    Args:
        program: a module with `.model` and `.guide`.
        optimizer, loss, max_grad_norm: as for `SVI`; the bound is per datum of the whole batch.
        world: the processes, of a process group that runs.
    """

    def __init__(
        self,
        program: Any,
        optimizer: torch.optim.Optimizer,
        loss: ELBO,
        world: World,
        max_grad_norm: float = math.inf,
    ) -> None:
        super().__init__(program.model, program.guide, optimizer, loss, max_grad_norm, compile=False)
        self.world = world
        # A parameter that the loss does not reach, as those of a prior under kl_weight=0, has no gradient, as in one
        # process. Looking for them also keeps the buckets, and so the order of sums, from the first step to the last.
        with peers(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its successor is too new
            self.objective = DistributedDataParallel(
                Objective(program, loss), broadcast_buffers=False, find_unused_parameters=True
            )
        self.objective.register_comm_hook(None, _summed)

    def _loss_and_grads(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], noise: Noise) -> float:
        own, named = [self._slice(value) for value in args], {key: self._slice(kwargs[key]) for key in kwargs}
        weights = {"kl_weight": call.kl_weight, "reconstruction_weight": call.reconstruction_weight}
        value, refusal = 0.0, None
        try:
            with self.explaining(call, (*own,), named, noise):
                loss = self._weight(*args, *kwargs.values()) * self.objective(*own, **named, **weights)
            value = loss.item()
            self.check_loss(value, call, (*own,), named, noise)
        except Exception as error:  # whatever it is: the others are about to wait for this gradient
            refusal = error
        total, refusals = self.world.sum(torch.tensor([value, refusal is not None], dtype=torch.float64)).tolist()
        if refusals:
            with self.world.together():
                if refusal is not None:
                    raise refusal
        with peers():
            loss.backward()
        return total

    def _slice(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        own = value.tensor_split(self.world.size)[self.world.rank]
        return own if len(own) else value[:1]

    def _weight(self, *values: Any) -> float:
        sizes = [len(value) for value in values if isinstance(value, Tensor) and value.dim()]
        return float(self.world.rank < sizes[0])


def _summed(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """In place of the hook of DistributedDataParallel, which divides by the number of processes."""
    done = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return done.then(lambda future: future.value()[0])


def shared_elbo_terms(
    world: World, program: Any, x: Tensor, num_samples: int, y: Tensor | None, seed: int
) -> ELBOTerms:
    """`pyro_vae.evaluation.elbo_terms`, of which each process computes whole blocks and all have the same bits."""
    if world.size == 1:
        return elbo_terms(program, x, num_samples, y, seed)
    blocks = torch.arange(-(-len(x) // DATA_BLOCK)).tensor_split(world.size)[world.rank]
    values, kind = torch.zeros(3, 2, len(x), dtype=torch.float64), {}
    with world.together():
        if len(blocks):
            own, first = slice(int(blocks[0]) * DATA_BLOCK, int(blocks[-1] + 1) * DATA_BLOCK), int(blocks[0])
            found = elbo_terms(program, x[own], num_samples, None if y is None else y[own], seed, first_block=first)
            values[:, :, own] = torch.stack([torch.stack([term.value, term.value_error]) for term in found])
            kind = found.elbo.kind
    world.sum(values)
    kind = json.loads(world.gather(json.dumps(kind))[0])
    estimates = (
        Estimate(name, value, error, num_samples, kind=kind)
        for name, (value, error) in zip(("ELBO", "reconstruction", "KL"), values, strict=True)
    )
    return ELBOTerms(*estimates)
