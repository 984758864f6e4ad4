"""Program, the base class of every model/guide pair, and how to run one without side effects.

A program is a pair of Pyro functions over the same latent variables,

    model(x)   p(z) p(x | z)        guide(x)   q(z | x),

together with the parameters of both, as one `torch.nn.Module`. This file holds two things that each pair needs and that
members need not know about: how its parameters reach Pyro's parameter store, and how it runs without side effects.
"""

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vae.errors import UsageError
from pyro_vae.model import parameter_store
from pyro_vae.model.parameter_store import Listing
from pyro_vae.randomness import preserved

T = TypeVar("T")


class Program(nn.Module):
    """Base class of model/guide pairs whose parameters are trained by SVI.

    To write one, hold the members as submodules, and begin both `model` and `guide` with `self.list_parameters()`,
    which replaces stock Pyro's `pyro.module("name", self)`. Under a fixed name a second program of the same process
    would silently train the tensors of the first. So would a copy, or a program whose prior was replaced. Here each
    instance lists its tensors under its own prefix, and they leave the store when the instance dies.

    Args:
        name: letters, digits and _. The store and the state of a `pyro.optim` optimiser know the parameters under this
            name in every process. Without a name they use the number of the program in its process. A copy gets a
            number.

    Raises:
        UsageError: another live program has this name.

    Example:
        >>> import pyro.distributions as dist
        >>> class Mean(Program):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.loc = nn.Parameter(torch.zeros(()))
        ...     def model(self, x=None, y=None):
        ...         self.list_parameters()
        ...         with pyro.plate("data", len(x), dim=-1):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...             return pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        ...     def guide(self, x, y=None):
        ...         self.list_parameters()
        ...         with pyro.plate("data", len(x), dim=-1):
        ...             return pyro.sample("z", dist.Normal(self.loc, 1.0))
        >>> program = Mean()
        >>> svi = pyro.infer.SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.ones(100))
        >>> program.loc != 0
        tensor(True)
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self._open_listing(name)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Samples p(x, z): the latent sites and the observed site `x`. Without x it generates.

        Args:
            x: data (B, *x_shape).
            y: one-hot labels (B, C).
        """
        raise NotImplementedError(f"{type(self).__name__} has no model")

    def guide(self, x: Tensor, y: Tensor | None = None) -> Any:
        """Samples q(z|x): the latent sites of the model.

        Args:
            x: data (B, *x_shape).
            y: one-hot labels (B, C).
        """
        raise NotImplementedError(f"{type(self).__name__} has no guide")

    def list_parameters(self, *own: nn.Module, others: Iterable[nn.Module] = ()) -> None:
        """Shows Pyro the parameters of one half that require a gradient, as this module holds them now.

        The tensors themselves go into the store (`store[name] = p` would copy one that is not contiguous, and train the
        copy). An entry that holds another tensor, because a member was replaced, gives way. A half that lists only its
        own parameters can be trained separately: `poutine.block(guide, hide_types=["param"])` then hides no parameter
        of the model. A parameter that neither half lists does not train under `pyro.infer.SVI`, so a half that replaces
        another must list its parameters too, or call the other half.

        Args:
            own: members that this half reads.
            others: members that only the other half reads, except what they share with `own`. All other parameters
                belong to both halves; if no member is named, these are all of them.

        Raises:
            UsageError: the store holds values of the program that it did not put there, see `load_from_store`; or a
                handler, such as `poutine.lift`, gives a parameter a value that is not the module's.
        """
        left_out = _parameters_of(others) - _parameters_of(own)
        self._listing.check()
        for name, parameter in self.named_parameters(prefix=self._listing.prefix):
            self._listing.clear_for(name, parameter)
            if not parameter.requires_grad or id(parameter) in left_out:
                continue
            parameter_store.put(name, parameter)
            if not _is(parameter, pyro.param(name)):
                raise UsageError(
                    f"a handler gives parameter {name} another value (poutine.lift and poutine.substitute do), while "
                    "the modules still read their own values: set values with `set_tensors`. A prior over weights "
                    "needs its own Pyro model, over a PyroModule"
                )

    def site(self, name: str) -> str:
        """Returns the name of a site under your own plates: "left/z" for a program called left, else "z"."""
        own = self._listing.name
        return name if own is None else f"{own}/{name}"

    def describe(self, x: Tensor | None = None, y: Tensor | None = None) -> str:
        """Prints and returns the shape table of the traced program: batch shapes left of `|`, event shapes right of it.

        Args:
            x: data (B, *x_shape) for the trace; without it one datum is generated.
            y: labels (B, C), if the program needs them.
        """
        device = next((p.device for p in self.parameters()), None)
        with torch.no_grad(), undisturbed(self), preserved(device):
            model = poutine.trace(self.model).get_trace(x, y)
            datum = model.nodes["_RETURN"]["value"] if x is None else x
            guide = poutine.trace(self.guide).get_trace(datum, y)
        table = "\n".join([_shape_table("model", model), _shape_table("guide", guide)])
        print(table)
        return table

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of the program's state, each once, by name: what a checkpoint holds.

        They are detached views, not copies. Unlike in `state_dict`, a tensor that two members share has only one name.
        """
        unique: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            unique.setdefault(id(tensor), (name, tensor.detach()))
        return dict(unique.values())

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the values of `tensors` into the program's own.

        Args:
            tensors: by name, as `tensors()` of such a program returns them.

        Raises:
            ValueError: a tensor is missing, left over, or of another shape; nothing is changed then."""
        _copy(tensors, self.tensors())

    def load_from_store(self, name: str | None = None) -> None:
        """Copies values that were loaded into Pyro's parameter store into the program.

        Call it after `pyro.get_param_store().load(file)`, which on its own has no effect on a program. The state of a
        `pyro.optim` optimiser, if it was loaded too, then finds its parameters. The store holds only what is trained:
        neither buffers, such as the statistics of a batch norm, nor frozen parameters. A warning names what stays as it
        is. `state_dict` holds everything.

        Args:
            name: of the saved program, such as "left" or "VAE-0", if it differs from that of this program and the store
                holds several. A program without a name is known only by a number, the order in which the programs of
                the process were built.

        Raises:
            UsageError: the store holds nothing that could be meant for this program, or several candidates.
            ValueError: a tensor is missing, left over, or of another shape; nothing was changed then.

        Example:
            >>> import tempfile, pyro_vae as pv
            >>> def build():
            ...     return pv.VAE(pv.priors.StandardNormal(2),
            ...                   pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
            ...                   pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))), name="left")
            >>> vae, x = build(), torch.zeros(3, 4)
            >>> model, guide = vae.model(x), vae.guide(x)    # as an SVI calls them
            >>> before = pv.evaluation.iwae(vae, x, num_samples=10, seed=0).mean
            >>> with tempfile.NamedTemporaryFile() as file:
            ...     pyro.get_param_store().save(file.name)
            ...     del vae
            ...     vae = build()                            # in another process, say
            ...     pyro.get_param_store().load(file.name)
            >>> vae.load_from_store()
            >>> pv.evaluation.iwae(vae, x, num_samples=10, seed=0).mean == before
            True
        """
        prefix = self._listing.saved_under(name)
        saved = {
            entry.removeprefix(f"{prefix}."): tensor
            for entry, tensor in pyro.get_param_store().named_parameters()
            if entry.startswith(f"{prefix}.")
        }
        own = {n: p for n, p in self.named_parameters() if p.requires_grad or n in saved}
        _copy(saved, own)
        parameter_store.unlist_foreign(prefix)
        if parameter_store.is_free(prefix.removeprefix(parameter_store.TAG)):
            self._listing.move(prefix)  # the state of an optimiser uses it
        if stays := self.tensors().keys() - own.keys():
            warnings.warn(f"Pyro's store holds no values for {sorted(stays)}; they stay as they are", stacklevel=2)

    def check_store(self) -> None:
        """Raises UsageError if Pyro's store holds values of the program that it did not put there."""
        self._listing.check()
        for name, parameter in self.named_parameters(prefix=self._listing.prefix):
            self._listing.clear_for(name, parameter)

    def _open_listing(self, name: str | None) -> None:
        self._listing = Listing(type(self).__name__, name)
        weakref.finalize(self, self._listing.close).atexit = False

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and any(isinstance(module, PyroModule) for module in value.modules()):
            raise TypeError(
                f"{name} holds a PyroModule, which chooses its own names in Pyro's store, so two programs would train "
                "the same parameters. Use the plain torch.nn module"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # Pyro attaches a weak reference to every listed tensor, which neither pickle nor copy can handle.
        for parameter in self.parameters():
            parameter.__dict__.pop("unconstrained", None)
        state = {key: value for key, value in self.__dict__.items() if key != "_listing"}
        return {**state, "_name": self._listing.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        name = state.get("_name")
        super().__setstate__({key: value for key, value in state.items() if key != "_name"})
        # A copy gets a number, and a saved program gets its name back.
        self._open_listing(name if name and parameter_store.is_free(name) else None)


def _is(parameter: Tensor, value: Any) -> bool:
    # Pyro's provenance tracking (`render_model`) wraps the tensor: another object with the same memory.
    return value is parameter or (isinstance(value, Tensor) and value.data_ptr() == parameter.data_ptr())


def _parameters_of(members: Iterable[nn.Module]) -> set[int]:
    return {id(parameter) for member in members for parameter in member.parameters()}


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if wrong := own.keys() ^ values.keys():
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(
            f"these tensors are on one side only: {sorted(wrong)[:10]}{more}. Was the program built differently?"
        )
    for name, tensor in own.items():
        if tensor.shape != values[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; got {tuple(values[name].shape)}")
    for name, tensor in own.items():
        tensor.copy_(values[name])


def _shape_table(title: str, trace: poutine.Trace) -> str:
    sites = prune_subsample_sites(trace)
    for name in [name for name, site in trace.nodes.items() if site["type"] == "param"]:
        sites.remove_node(name)
    sites.compute_log_prob()
    table = sites.format_shapes(title=f"{title}:").splitlines()
    return "\n".join(line for line in table if line.strip() != "Param Sites:")


_memory: ContextVar[dict[Any, Any] | None] = ContextVar("memory", default=None)


@contextmanager
def remembering(memory: dict[Any, Any]) -> Iterator[None]:
    """Makes `once` compute each value a single time inside, and keep it in `memory`.

    It is for evaluation, where parameters do not change. The code that opens the context owns the memory, and must drop
    it before the next training step.

    Example:
        >>> with remembering({}):
        ...     once("key", lambda: 1), once("key", lambda: 2)
        (1, 1)
    """
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def once(key: Any, compute: Callable[[], T]) -> T:
    """Returns `compute()`, or inside `remembering` the first result for this key."""
    memory = _memory.get()
    if memory is None:
        return compute()
    if key not in memory:
        memory[key] = compute()
    return memory[key]


def check_member(name: str, member: object, family: type) -> None:
    """Raises TypeError if a member belongs to another family, or is a class instead of an instance."""
    if not isinstance(member, family):
        given = f"the class {member.__name__}" if isinstance(member, type) else f"a {type(member).__name__}"
        raise TypeError(f"{name} must be an instance of {family.__module__}.{family.__name__}; got {given}")


def number_to_generate(num_data: int | None, y: Tensor | None) -> int:
    """Returns num_data, or the number of labels, or 1.

    Args:
        num_data: how many data were asked for, or None.
        y: one-hot labels (B, C).

    Raises:
        ValueError: num_data is not the number of labels.
    """
    if y is not None and num_data not in (None, len(y)):
        raise ValueError(f"num_data={num_data} does not fit {len(y)} labels: leave num_data out")
    return len(y) if y is not None else 1 if num_data is None else num_data


def _cure_of(x: Any) -> str:
    """Explains how to get a tensor from an item of a DataLoader, or from the loader itself."""
    if isinstance(x, list | tuple) and x and all(isinstance(part, Tensor) for part in x):
        return "it holds tensors, like a batch of a DataLoader; x is the first of them, `for x, *_ in loader`"
    if isinstance(x, Mapping):
        return f"x is one of its values, under one of the keys {', '.join(map(str, list(x)[:10]))}"
    if isinstance(x, Iterable) and not hasattr(x, "__array__") and not isinstance(x, list | tuple | str):
        return "loop over it and pass the tensor of each batch, or all of them as torch.cat([x for x, *_ in loader])"
    return "torch.as_tensor(x)"


def check_tensor(x: Any) -> None:
    """Raises TypeError if x is not a tensor and ValueError if it holds no data, with the cure."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor; got {type(x).__name__}: {_cure_of(x)}")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(
            f"x holds no data, its shape is {tuple(x.shape)}: the first axis counts data, so pass a single datum as "
            "x[None]"
        )


@contextmanager
def undisturbed(program: Any) -> Iterator[None]:
    """Restores the parameter store and every `.training` flag, whatever runs inside.

    Dropout and batch statistics are switched to evaluation inside. `pyro_vae.randomness` handles the random state.

    Args:
        program: anything with a model and a guide; only an `nn.Module` has flags.
    """
    with evaluating(program), parameter_store.store_kept():
        for inner in program.modules() if isinstance(program, nn.Module) else []:
            if isinstance(inner, Program):
                inner.check_store()
        yield


@contextmanager
def evaluating(program: Any) -> Iterator[None]:
    """Switches dropout and batch statistics to evaluation inside; only an `nn.Module` has such flags."""
    modules = list(program.modules()) if isinstance(program, nn.Module) else []
    flags = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag
