"""Kernels for compiled graphs: faster products of float32 matrices and elementary functions, and torch's own draws.

torch passes products to MKL, which does not use the vectors of 512 bits of processors that are not from Intel. oneDNN
does, and is about twice as fast there and about equal on Intel processors. With vectors of 256 bits oneDNN is the
faster one for many rows, and MKL for the gradients of weights. oneDNN is the library that torch itself uses in
bfloat16. The exponential and log(1 + x) are those of `pyro_vae.graphs.elementary`. Numbers differ in their last digits,
as between any two such libraries.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from pyro_vae.graphs.elementary import exp, log1p

_FEWEST = 10_000_000  # multiplications; smaller products take no longer than what is around them
_ROW_MAJOR: dict[str, Any] = {"memory_format": torch.contiguous_format}

_library = torch.library.Library("pyro_vae", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_random = (torch.Tag.nondeterministic_seeded,)
_library.define("bernoulli(Tensor p) -> Tensor", tags=_random)
_library.define("bernoulli_like(Tensor x, float p) -> Tensor", tags=_random)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if 1 in x.stride() and 1 in weight.stride():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.nn.functional.linear(x, weight, bias)  # such as every second column, which oneDNN does not take


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(weight))


def _bernoulli(p: Tensor) -> Tensor:
    return torch.bernoulli(p)


def _bernoulli_like(x: Tensor, p: float) -> Tensor:
    return torch.empty_like(x).bernoulli_(p)


_library.impl("linear", _linear, "CPU")
_library.impl("bernoulli", _bernoulli, "CompositeExplicitAutograd")
_library.impl("bernoulli_like", _bernoulli_like, "CompositeExplicitAutograd")
torch.library.register_fake("pyro_vae::linear", _shape, lib=_library)
torch.library.register_fake("pyro_vae::bernoulli", lambda p: torch.empty_like(p), lib=_library)
torch.library.register_fake("pyro_vae::bernoulli_like", lambda x, p: torch.empty_like(x), lib=_library)


def by_onednn(module: fx.GraphModule) -> fx.GraphModule:
    """Uses oneDNN for the float32 matrix products of a graph where it is faster, if torch has that library.

    Args:
        module: has the shapes of its tensors at the nodes, as `make_fx` leaves them.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> x = torch.rand(3, 4)
        >>> module = by_onednn(make_fx(lambda x: x @ x.T)(x))
        >>> torch.allclose(module(x), x @ x.T)
        True
    """
    vectors = torch.backends.cpu.get_cpu_capability()
    if not (torch.backends.mkldnn.is_available() and vectors in ("AVX2", "AVX512")):
        return module
    aten, linear = torch.ops.aten, torch.ops.pyro_vae.linear.default
    products = [node for node in module.graph.nodes if node.target in (aten.mm.default, aten.addmm.default)]
    for node in products:
        if node.kwargs or not _pays(node, vectors):
            continue
        *bias, left, right = node.args
        with module.graph.inserting_before(node):
            if not _factors(node)[-2].is_contiguous():  # oneDNN would copy it with one thread
                left = module.graph.call_function(aten.clone.default, (left,), _ROW_MAJOR)
            transposed = module.graph.call_function(aten.t.default, (right,))
            product = module.graph.call_function(linear, (left, transposed, bias[0] if bias else None))
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        module.graph.erase_node(node)
    module.recompile()
    return module


def _factors(node: fx.Node) -> list[Tensor]:
    return [source.meta["val"] for source in node.args if isinstance(source, fx.Node)]


def _pays(node: fx.Node, vectors: str) -> bool:
    *bias, left, right = _factors(node)
    if vectors == "AVX2" and left.stride(1) != 1:  # transposed, as for the gradient of a weight
        return False
    fits = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (*bias, left, right))
    return fits and all(t.dim() == 1 for t in bias) and left.numel() * right.shape[1] >= _FEWEST


def sigmoid(x: Tensor) -> Tensor:
    """Computes 1 / (1 + exp(-x)) from exp(-|x|).

    log(1 + exp(x)) uses the same exponential. So a compiler computes it once for the loss of a Bernoulli, which
    contains the logarithm, and for the gradient, which contains this function.
    """
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    e = torch.exp(-x.abs())
    return torch.where(x >= 0, 1.0, e) / (1 + e)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Replaces operations by the ones above, and draws by torch's own kernels, whatever the compiler would use."""
    aten = torch.ops.aten
    to_log1p: list[Any] = [
        aten.binary_cross_entropy_with_logits,
        aten.log_sigmoid_forward,
        aten.softplus,
        aten.logaddexp,
    ]
    ours = {aten.exp.default: exp, aten.log1p.default: log1p, aten.sigmoid.default: sigmoid, **_truths()}
    return {**torch._decomp.get_decompositions(to_log1p), **ours, **_draws()}


def _truths() -> dict[Any, Callable[..., Any]]:
    """Whether all are true, by the largest of zeros and ones: Inductor makes 64-bit integers of truth values."""
    aten = torch.ops.aten

    def every(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        return torch.where(x, 0.0, 1.0).amax(dim, keepdim) == 0 if x.numel() else NotImplemented

    return {aten.all.default: every, aten.all.dim: every}


def _draws() -> dict[Any, Callable[..., Any]]:
    aten, own = torch.ops.aten, torch.ops.pyro_vae
    # None of them takes a generator here: a draw that does is not compiled.
    return {
        aten.bernoulli.default: lambda p: own.bernoulli(p),
        aten.bernoulli.p: lambda x, p: own.bernoulli_like(x, p),
        aten.bernoulli_.Tensor: lambda x, p: x.copy_(own.bernoulli(p)),
        aten.bernoulli_.float: lambda x, p=0.5: x.copy_(own.bernoulli_like(x, p)),
    }
