"""NumPyro: the same program as Pyro functions on XLA."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro import handlers
from numpyro.infer import SVI, TraceMeanField_ELBO

from benchmarks.peers.peer import NotAvailableError, Peer
from benchmarks.problem import PIXELS, RATE, Array, Parameters, Size, draw_parameters

_LAYOUT = ("NCHW", "OIHW", "NCHW")


class NumPyro(Peer):
    """`numpyro.infer.SVI` with `TraceMeanField_ELBO`; log-weights from the log-probabilities of its traces.

    Args:
        scan: steps in one jitted call; 1 is one call of a jitted `update` for each step.
        rows: rows that one pass through the decoder has at most.
    """

    def __init__(self, size: Size, device: str = "cpu", scan: int = 1, rows: int = 4096) -> None:
        super().__init__(size, device)
        if device not in str(jax.devices()[0]).lower():
            raise NotAvailableError(f"jax sees no {device} device")
        if size.convolutional and scan > 1:
            raise NotAvailableError("inside a scan XLA's convolutions are several times slower; see the jitted update")
        self.scan, self.rows = scan, rows
        svi = SVI(self.model, self.guide, numpyro.optim.Adam(RATE), TraceMeanField_ELBO())
        self.svi, self.start = svi, draw_parameters(size)
        self.state = svi.init(jax.random.PRNGKey(0), jnp.zeros((size.batch, size.x_dim)))
        self.update = jax.jit(svi.update, donate_argnums=0)
        self.many = jax.jit(self._many, donate_argnums=0)
        self.weigh = jax.jit(self._log_sum, static_argnums=3)
        self.key = jax.random.PRNGKey(1)

    def model(self, x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(self.size.latent_dim), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=self._decode(z)).to_event(1), obs=x.reshape(len(x), -1))

    def guide(self, x: Any) -> None:
        mu, s = jnp.split(self._encode(x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(mu, jnp.exp(0.5 * s)).to_event(1))

    def _param(self, name: str) -> Any:
        return numpyro.param(name, jnp.asarray(self.start[name]))

    def _linear(self, name: str, x: Any) -> Any:
        return x @ self._param(f"{name}.weight").T + self._param(f"{name}.bias")

    def _encode(self, x: Any) -> Any:
        if not self.size.convolutional:
            return self._linear("encoder.out", jax.nn.relu(self._linear("encoder.first", x.reshape(len(x), -1))))
        h = x.reshape(-1, *PIXELS)
        for name in ("encoder.first", "encoder.second"):
            h = lax.conv_general_dilated(
                h, self._param(f"{name}.weight"), (2, 2), [(1, 1)] * 2, dimension_numbers=_LAYOUT
            )
            h = jax.nn.relu(h + self._param(f"{name}.bias")[:, None, None])
        return self._linear("encoder.out", h.reshape(len(x), -1))

    def _decode(self, z: Any) -> Any:
        h = jax.nn.relu(self._linear("decoder.first", z))
        if not self.size.convolutional:
            return self._linear("decoder.out", h)
        h = _transposed(h.reshape(len(z), -1, 7, 7), self._param("decoder.second.weight"))
        h = jax.nn.relu(h + self._param("decoder.second.bias")[:, None, None])
        return (_transposed(h, self._param("decoder.out.weight")) + self._param("decoder.out.bias")).reshape(len(z), -1)

    def set_parameters(self, parameters: Parameters) -> None:
        # The moments of Adam start anew with the parameters.
        values = {name: jnp.array(value) for name, value in parameters.items()}
        self.state = self.state._replace(optim_state=self.svi.optim.init(values))

    def parameters(self) -> Parameters:
        return {name: np.asarray(value) for name, value in self.svi.get_params(self.state).items()}

    def feed(self, x: Array) -> None:
        self.data = jnp.asarray(x)
        count = len(x) // self.size.batch
        self.batches = self.data[: count * self.size.batch].reshape(count, self.size.batch, self.size.x_dim)
        self.position = 0

    def losses(self, num_steps: int) -> list[float]:
        found: list[float] = []
        while len(found) < num_steps:
            found += np.atleast_1d(np.asarray(self._advance())).tolist()
        return found[:num_steps]

    def steps(self, num_steps: int) -> int:
        calls = -(-num_steps // self.scan)
        for _ in range(calls):
            loss = self._advance()
        loss.block_until_ready()
        return calls * self.scan

    def _advance(self) -> Any:
        """As many steps as one call takes."""
        if self.scan == 1:
            batch = self.batches[self.position % len(self.batches)]
            self.state, loss = self.update(self.state, batch)
        else:
            self.state, loss = self.many(self.state, self.batches, self.position)
        self.position += self.scan
        return loss

    def _many(self, state: Any, batches: Any, start: Any) -> Any:
        places = (start + jnp.arange(self.scan)) % len(batches)
        return lax.scan(lambda carry, i: self.svi.update(carry, batches[i]), state, places)

    def log_likelihood(self, num_samples: int) -> list[float]:
        widest = max(1, min(num_samples, self.rows // min(len(self.data), self.size.batch)))
        width = max(divisor for divisor in range(1, widest + 1) if num_samples % divisor == 0)
        found = [self._block(x, num_samples // width, width) for x in _split(self.data, self.size.batch)]
        return (np.concatenate([np.asarray(block) for block in found]) - np.log(num_samples)).tolist()

    def _block(self, x: Any, parts: int, width: int) -> Any:
        """log sum_k w_k of a block of data: in one call, but for convolutions, which must not be in a scan."""
        self.key, key = jax.random.split(self.key)
        params = self.svi.get_params(self.state)
        if not self.size.convolutional:
            return self.weigh(params, x, jax.random.split(key, parts), width)
        sums = [self.weigh(params, x, key[None], width) for key in jax.random.split(key, parts)]
        return jax.nn.logsumexp(jnp.stack(sums), 0)

    def _log_sum(self, params: Any, x: Any, keys: Any, width: int) -> Any:
        def add(total: Any, key: Any) -> Any:
            block = jax.vmap(partial(self._log_weights, params, x))(jax.random.split(key, width))
            return jnp.logaddexp(total, jax.nn.logsumexp(block, 0)), None

        start = jnp.full(len(x), -jnp.inf)
        return add(start, keys[0])[0] if len(keys) == 1 else lax.scan(add, start, keys)[0]

    def _log_weights(self, params: Any, x: Any, key: Any) -> Any:
        guide = handlers.trace(handlers.seed(handlers.substitute(self.guide, params), key)).get_trace(x)
        replayed = handlers.replay(handlers.substitute(self.model, params), guide)
        model = handlers.trace(handlers.seed(replayed, key)).get_trace(x)
        log_q = guide["z"]["fn"].log_prob(guide["z"]["value"])
        return sum(model[name]["fn"].log_prob(model[name]["value"]) for name in ("z", "x")) - log_q


def _split(x: Any, size: int) -> list[Any]:
    return [x[start : start + size] for start in range(0, len(x), size)]


def _transposed(h: Any, weight: Any) -> Any:
    """torch's conv_transpose2d of stride 2, padding 1, output padding 1: a convolution of the dilated input."""
    flipped = jnp.flip(weight, (2, 3)).swapaxes(0, 1)
    return lax.conv_general_dilated(h, flipped, (1, 1), [(1, 2)] * 2, lhs_dilation=(2, 2), dimension_numbers=_LAYOUT)
