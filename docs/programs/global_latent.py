"""A shift that all data share: a global latent above the data plate of a VAE.

    shift ~ N(0, 2^2 I)
    z_i ~ N(0, I),   x_i | z_i, shift ~ N(W z_i + shift, s^2 I),   i = 1 ... N, in the plate

W, s and the encoder are learned; z and the shift are latent. The decoder is linear. So once it is trained, the
posterior of the shift, log p(x | D) and log p(D) are known in closed form, and are printed next to the estimates.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_vae as pv

D, NUMBERS, SPREAD = 2, 4, 2.0


class SharedShift(nn.Module):
    """A VAE of x minus the shift."""

    def __init__(self, num_data):
        super().__init__()
        self.num_data = num_data
        self.vae = pv.VAE(
            pv.priors.StandardNormal(D),
            pv.posteriors.FullNormal(nn.Linear(NUMBERS, *pv.posteriors.FullNormal.encoder_shape(D)), D),
            pv.likelihoods.Normal(nn.Linear(D, NUMBERS, bias=False), scale=1.0, learn_scale="one", x_shape=(NUMBERS,)),
        )
        self.auto = pv.inference.unshared(AutoNormal(poutine.block(self.model, expose=["shift"])))

    def model(self, x):
        shift = pyro.sample("shift", dist.Normal(torch.zeros(NUMBERS), SPREAD).to_event(1))
        with pyro.plate(
            "data", self.num_data, subsample=x
        ):  # a batch stands for all data: the KL of the shift counts once
            self.vae.generative(x - shift)

    def guide(self, x):
        shift = self.auto(x)["shift"]
        with pyro.plate("data", self.num_data, subsample=x):
            self.vae.recognition(x - shift)


def train(x, steps=2000, batch_size=100, seed=0):
    pyro.set_rng_seed(seed)
    program = SharedShift(len(x))
    program.guide(x)  # an automatic guide makes its parameters here
    adam = torch.optim.Adam(program.parameters(), lr=0.02)
    svi = pv.inference.SVI(program.model, program.guide, adam, pyro.infer.Trace_ELBO())
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.01, steps)
    for _ in range(steps):
        svi.step(x[torch.randint(len(x), (batch_size,))])
        decay.step()
    return program, svi


def exact(program, x):
    """The posterior of the shift, the distribution of new data, and log p(D), given W and s."""
    W, s = program.vae.likelihood.decoder.weight.detach(), program.vae.likelihood.learned_scale().detach()
    C, unit = W @ W.T + s**2 * torch.eye(NUMBERS), torch.eye(NUMBERS)
    V = torch.linalg.inv(unit / SPREAD**2 + len(x) * torch.linalg.inv(C))
    posterior = dist.MultivariateNormal(V @ torch.linalg.solve(C, x.sum(0)), V)
    m = posterior.mean  # log p(D) = log p(D | m) + log p(m) - log p(m | D), at any m
    log_p = dist.MultivariateNormal(m, C).log_prob(x).sum() + dist.Normal(0.0, SPREAD).log_prob(m).sum()
    return posterior, dist.MultivariateNormal(m, C + V), log_p - posterior.log_prob(m)


def main():
    pyro.set_rng_seed(1)
    x = (
        torch.randn(1000, D) @ torch.randn(D, NUMBERS)
        + torch.tensor([3.0, -1.0, 0.0, 1.0])
        + 0.5 * torch.randn(1000, NUMBERS)
    )
    train_x, test_x = x[:200], x[200:]
    program, svi = train(train_x)
    posterior, new, log_evidence = exact(program, train_x)

    shift = pv.evaluation.draw_globals(program, train_x, 1000, seed=0)["shift"]
    for name, mean, error in (("guide", shift.mean(0), shift.std(0)), ("exact", posterior.mean, posterior.stddev)):
        print(f"shift, {name}:", *(f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True)))
    bound = -sum(svi.evaluate_loss(train_x) for _ in range(50)) / 50
    print(f"log p(D) of 200 data at least {bound:.1f}, exact {log_evidence:.1f}")
    at_mean = pv.evaluation.given(program, program.auto.median())
    print(pv.evaluation.iwae(at_mean, test_x, num_samples=100, seed=0))
    print(pv.evaluation.predictive(program, test_x, num_samples=100, num_globals=100, seed=0))
    print(f"log p(x | D), exact      {new.log_prob(test_x).mean():.3f} nats")


if __name__ == "__main__":
    main()
