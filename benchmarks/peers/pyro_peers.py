"""The program of this project, stepped by stock Pyro and by its own SVI."""

import contextlib
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

import pyro_vae as pv
from benchmarks.peers.torch_peer import TorchPeer
from benchmarks.problem import CHANNELS, PIXELS, RATE, Size

_MLP = {
    "first.weight": "body.0.weight",
    "first.bias": "body.0.bias",
    "out.weight": "head.weight",
    "out.bias": "output_bias",
}
_CONV_ENCODER = {
    "first.weight": "body.0.weight",
    "first.bias": "body.0.bias",
    "second.weight": "body.2.weight",
    "second.bias": "body.2.bias",
    "out.weight": "head.weight",
    "out.bias": "output_bias",
}
_CONV_DECODER = {
    "first.weight": "head.weight",
    "first.bias": "head.bias",
    "second.weight": "body.0.weight",
    "second.bias": "body.0.bias",
    "out.weight": "body.1.weight",
    "out.bias": "output_bias",
}


def program(size: Size) -> Any:
    """The program of `benchmarks.problem`; its floor of sigma is below what float32 can tell from none."""
    D = size.latent_dim
    if size.convolutional:
        encoder: Any = pv.networks.ConvEncoder(PIXELS, (2 * D,), hidden=CHANNELS)
        decoder: Any = pv.networks.ConvDecoder((D,), PIXELS, hidden=CHANNELS)
    else:
        encoder = pv.networks.MLP((size.x_dim,), (2 * D,), hidden=(size.hidden,))
        decoder = pv.networks.MLP((D,), (size.x_dim,), hidden=(size.hidden,))
    posterior = pv.posteriors.DiagonalNormal(encoder, D, floor=1e-12, encoder_predicts="log_variance")
    return pv.VAE(pv.priors.StandardNormal(D), posterior, pv.likelihoods.Bernoulli(decoder))


class PyroPeer(TorchPeer):
    """The program, without a way to step it."""

    def __init__(self, size: Size, device: str = "cpu") -> None:
        super().__init__(size, device)
        pyro.clear_param_store()
        self.module = program(size).to(device)

    def named(self) -> Mapping[str, Tensor]:
        own = dict(self.module.named_parameters())
        encoder, decoder = (_CONV_ENCODER, _CONV_DECODER) if self.size.convolutional else (_MLP, _MLP)
        return {
            **{f"encoder.{name}": own[f"posterior.encoder.{place}"] for name, place in encoder.items()},
            **{f"decoder.{name}": own[f"likelihood.decoder.{place}"] for name, place in decoder.items()},
        }

    def feed(self, x: Any) -> None:
        super().feed(x)
        if self.size.convolutional:
            self.data = self.data.view(-1, *PIXELS)
            self.batches = [batch.view(-1, *PIXELS) for batch in self.batches]


class Stock(PyroPeer):
    """`pyro.infer.SVI` with `pyro.optim.Adam` and `TraceMeanField_ELBO`."""

    def __init__(self, size: Size, device: str = "cpu", validation: bool = True) -> None:
        super().__init__(size, device)
        pyro.enable_validation(validation)
        adam = PyroOptim(torch.optim.Adam, {"lr": RATE})  # what pyro.optim.Adam({"lr": RATE}) returns
        self.svi = pyro.infer.SVI(self.module.model, self.module.guide, adam, pyro.infer.TraceMeanField_ELBO())

    def step(self, x: Tensor) -> float:
        return self.svi.step(x)


class Ours(PyroPeer):
    """`pyro_vae.inference.SVI` with one fused Adam, steady as in `fit`, and `pyro_vae.evaluation.iwae`.

    Args:
        compiled: the step as one compiled graph; log-likelihoods inside `pyro_vae.evaluation.block_graphs()`.
        bfloat16: the networks' arithmetic.
        threads: of torch; 0 leaves it one for each core.
    """

    def __init__(
        self, size: Size, device: str = "cpu", compiled: bool = False, bfloat16: bool = False, threads: int = 0
    ) -> None:
        super().__init__(size, device)
        if threads:
            torch.set_num_threads(threads)
        if bfloat16:
            self.tolerance = 1e-2
            _use_bfloat16(self.module)
        optimizer = torch.optim.Adam(self.module.parameters(), lr=RATE, fused=True)
        loss = pv.inference.MeanFieldELBO()
        self.svi = pv.inference.SVI(self.module.model, self.module.guide, optimizer, loss, compile=compiled)
        # Open as long as this peer: who estimates for many data compiles once.
        self.graphs = contextlib.ExitStack()
        if compiled:
            self.graphs.enter_context(pv.evaluation.compiled())

    def losses(self, num_steps: int) -> list[float]:
        with self.svi.steady():
            return super().losses(num_steps)

    def steps(self, num_steps: int) -> int:
        with self.svi.steady():
            return super().steps(num_steps)

    def step(self, x: Tensor) -> float:
        return self.svi.step(x)

    def log_likelihood(self, num_samples: int) -> list[float]:
        return pv.evaluation.iwae(self.module, self.data, num_samples).value.tolist()


def _use_bfloat16(vae: Any) -> None:
    for network in pv.networks.networks(vae):
        network.precision = "bfloat16"
