"""The step and the validation in one of many processes, with the numbers of all.

Every process gets the whole batch and computes on its slice. The optimisers see the gradient summed over the whole
batch, which is the same on all processes to the last bit. So the parameters stay the same too. A step that is a graph
sums once, see `pyro_vae.inference.replayed`; for Pyro's own steps `DistributedDataParallel` does it.
"""

import json
import math
import warnings
from typing import Any

import torch
import torch.distributed as dist
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pyro_vae.evaluation import ELBOTerms, Estimate, elbo_terms
from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import of_data
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.pyro_step import Attempt, Share
from pyro_vae.inference.step_graphs import Compile, StepGraphs
from pyro_vae.inference.svi import SVI
from pyro_vae.inference.world import World, peers


class SharedSVI(SVI):
    """`SVI` in many processes, which share each batch.

    All processes call `step` with the same batch. Each computes on its slice; the slices are as even as possible. If
    the batch is smaller than the number of processes, a process without a slice computes on the first datum with zero
    weight. Loss and gradient are sums over the batch, so one process and many make the same step, except for their
    draws of z and for rounding. If the loss of one process is refused, all refuse the step, with the same error.

    Steps become graphs as in one process, and in all processes at once: the decision depends on the whole batch. If one
    process cannot make a graph, or its compiler fails, none uses it. Pyro then runs the steps in
    `DistributedDataParallel` over `Objective`, with sums in place of its averages. A promise of `steady` must hold in
    all processes.

    Args:
        program: a module with `.model` and `.guide`.
        optimizer, loss, max_grad_norm, compile: as for `SVI`; the bound is per datum of the whole batch.
        world: the processes, of a running process group.

    Raises:
        ValueError: the loss has no `differentiable_loss`.
        ProcessError: another process has ended.
    """

    def __init__(
        self,
        program: Any,
        optimizer: torch.optim.Optimizer,
        loss: ELBO,
        world: World,
        max_grad_norm: float = math.inf,
        compile: Compile = "auto",  # noqa: A002 - as torch names it
    ) -> None:
        super().__init__(program.model, program.guide, optimizer, loss, max_grad_norm, compile)
        self.world = world
        self.graphs = StepGraphs(compile, world)
        # A parameter that the loss does not reach, such as one of a prior under kl_weight=0, has no gradient, as in one
        # process. Looking for these also keeps the buckets, and so the order of sums, from the first step to the last.
        with peers(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its successor is too new
            self.objective = DistributedDataParallel(
                Objective(program, loss), broadcast_buffers=False, find_unused_parameters=True
            )
        self.objective.register_comm_hook(None, _summed)

    def _loss_and_grads(self, attempt: Attempt) -> float:
        """Computes the loss, summed over the batch of all processes, and its gradient.

        Raises:
            DivergenceError: the loss of a process is not finite; every process raises it.
            ProcessError: another process has ended.
        """
        args, kwargs, weight = self.share(attempt.args, attempt.kwargs)
        own = attempt._replace(args=args, kwargs=kwargs)
        weights = {"kl_weight": own.call.kl_weight, "reconstruction_weight": own.call.reconstruction_weight}
        value, refusal = 0.0, None
        try:
            with self.explaining(own):
                loss = weight * self.objective(*own.args, **own.kwargs, **weights)
            value = loss.item()
            self.check_loss(value, own)
        except Exception as error:  # of any kind: the others are about to wait for this gradient
            refusal = error
        total, refusals = self.world.sum(torch.tensor([value, refusal is not None], dtype=torch.float64)).tolist()
        if refusals:
            with self.world.together():
                if refusal is not None:
                    raise refusal
        with peers():
            loss.backward()
        return total

    def share(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Share:
        """The slice of this process; without one, the first datum with zero weight."""
        named = {name: self._slice(value) for name, value in kwargs.items()}
        sizes = [len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()]
        return tuple(map(self._slice, args)), named, float(self.world.rank < sizes[0])

    def _slice(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        own = value.tensor_split(self.world.size)[self.world.rank]
        return own if len(own) else value[:1]


def _summed(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Replaces the hook of DistributedDataParallel, which divides by the number of processes."""
    done = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return done.then(lambda future: future.value()[0])


def shared_elbo_terms(
    world: World, program: Any, x: Tensor, num_samples: int, y: Tensor | None, seed: int
) -> ELBOTerms:
    """Computes `pyro_vae.evaluation.elbo_terms` by whole blocks in each process; all get the same bits.

    Args:
        world: the processes.
        program, x, num_samples, y, seed: as for `elbo_terms`.

    Raises:
        ProcessError: another process has ended.
    """
    if world.size == 1:
        return elbo_terms(program, x, num_samples, y, seed)
    blocks = torch.arange(-(-len(x) // DATA_BLOCK)).tensor_split(world.size)[world.rank]
    values, kind = torch.zeros(3, 2, len(x), dtype=torch.float64), {}
    with world.together():
        if len(blocks):
            own, first = slice(int(blocks[0]) * DATA_BLOCK, int(blocks[-1] + 1) * DATA_BLOCK), int(blocks[0])
            terms = elbo_terms(program, x[own], num_samples, None if y is None else y[own], seed, first_block=first)
            values[:, :, own] = torch.stack([torch.stack([term.value, term.value_error]) for term in terms])
            kind = terms.elbo.kind
    world.sum(values)
    kind, data = json.loads(world.gather(json.dumps(kind))[0]), fingerprint(x)
    estimates = (
        of_data(Estimate(name, value, error, num_samples, kind=kind), data, y)
        for name, (value, error) in zip(("ELBO", "reconstruction", "KL"), values, strict=True)
    )
    return ELBOTerms(*estimates)
