"""The graph of a Pyro program: its sites, the members that make them, and what each of these depends on.

It is read off one run. Each drawn latent is replaced by a value that begins a graph of gradients of its own. So a later
site depends on it exactly where the density or the value of that site has a gradient with respect to it. During the run
hooks note which members made a site. Pyro's own `get_model_relations` knows only sites: no members, no shapes, and not
what a guide makes of the data.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae.model.conditions import law
from pyro_vae.model.program import Program, undisturbed
from pyro_vae.randomness import preserved


class Node(NamedTuple):
    """A site or a member of model or guide, or data that they are given.

    Attributes:
        name: "x", "y", "model/..." or "guide/...".
        kind: the class of the distribution or member.
        inputs: the names of the nodes that it depends on.
        shape: its batch and event shape, where that is known.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()


def nodes_of(program: Program, x: Tensor, y: Tensor | None = None) -> list[Node]:
    """Lists the nodes of model and guide, each after those that it depends on.

    Args:
        program: any program whose latent sites are real numbers.
        x: data (B, *x_shape) to run it on; a single datum will do.
        y: one-hot labels (B, C).

    Returns:
        The data, then the nodes of the model, then those of the guide.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((3,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (3,))))
        >>> for node in nodes_of(vae, torch.zeros(1, 3)):
        ...     print(node.name, node.inputs)
        x ()
        model/prior ()
        model/z ('model/prior',)
        model/likelihood ('model/z',)
        model/x ('model/likelihood',)
        guide/posterior ('x',)
        guide/z ('guide/posterior',)
    """
    given = {"x": x, **({} if y is None else {"y": y})}
    nodes = [Node(name, "data", (), tuple(value.shape)) for name, value in given.items()]
    for title, function in (("model", program.model), ("guide", program.guide)):
        nodes += _of(title, function, program, given)
    return nodes


def _of(title: str, function: Callable[..., Any], program: Program, given: dict[str, Tensor]) -> list[Node]:
    leaves = {name: value.detach().clone().requires_grad_() for name, value in given.items()}
    with (
        undisturbed(program),
        preserved(next(iter(given.values())).device),
        torch.enable_grad(),
        _heard(program) as calls,
        _Reader(title, leaves, calls) as reader,
    ):
        function(*leaves.values())
    return list(reader.nodes.values())


@contextmanager
def _heard(program: nn.Module) -> Iterator[list[tuple[str, str]]]:
    """Notes the names and classes of the members of a program as they are called."""
    calls: list[tuple[str, str]] = []

    def hear(name: str) -> Callable[..., None]:
        return lambda member, _: calls.append((name, type(member).__name__))

    handles = [member.register_forward_pre_hook(hear(name)) for name, member in program.named_children()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class _Reader(Messenger):
    """Makes nodes of the sites that it sees, and of the members that were called since the last one."""

    def __init__(self, title: str, leaves: dict[str, Tensor], calls: list[tuple[str, str]]) -> None:
        super().__init__()
        self.title, self.leaves, self.calls = title, dict(leaves), calls
        self.nodes: dict[str, Node] = {}

    def _pyro_post_sample(self, site: Any) -> None:
        if site_is_subsample(site):
            return
        sources = self._sources(site)
        members = [self._member(*call, sources) for call in dict.fromkeys(self.calls)]
        self.calls.clear()
        name = f"{self.title}/{site['name']}"
        shape = (*site["fn"].batch_shape, *site["fn"].event_shape)
        self.nodes[name] = Node(name, type(law(site["fn"])).__name__, tuple(members) or sources, shape)
        if not site["is_observed"] and site["value"].is_floating_point():
            site["value"] = self.leaves[name] = site["value"].detach().requires_grad_()

    def _sources(self, site: Any) -> tuple[str, ...]:
        """Names what the density of a site, or the value drawn there, depends on of all that came before."""
        value = site["value"]
        drawn = [] if site["is_observed"] else [value.sum()]
        tested = [total for total in (site["fn"].log_prob(value.detach()).sum(), *drawn) if total.requires_grad]
        if not tested:
            return ()
        gradients = torch.autograd.grad(tested, list(self.leaves.values()), allow_unused=True)
        return tuple(name for name, gradient in zip(self.leaves, gradients, strict=True) if gradient is not None)

    def _member(self, name: str, kind: str, sources: tuple[str, ...]) -> str:
        """Makes one node of a member, even of one that makes several sites, and returns its name."""
        place = f"{self.title}/{name}"
        before = self.nodes[place].inputs if place in self.nodes else ()
        self.nodes[place] = Node(place, kind, tuple(dict.fromkeys((*before, *sources))))
        return place
