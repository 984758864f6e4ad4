"""Semi-supervised learning by the program M2 of Kingma et al. (2014): a few data have labels, many have none.

    model:  y ~ p(y),   z ~ p(z),   x ~ p(x|y, z)          guide:  y ~ q(y|x),   z ~ q(z|x, y)

python docs/programs/semi_supervised.py --labels 100
"""

import argparse
import math
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from safetensors.torch import save_file
from torch import nn

import pyro_vae as pv


class M2(pv.Program):
    """A uniform p(y) and a classifier q(y|x) above a VAE of labelled data, p(z), p(x|y, z), q(z|x, y).

    Args:
        vae: takes labels y, one-hot (B, C).
        classifier: x (B, *x_shape) -> logits (B, C).
        num_classes: C.
    """

    def __init__(self, vae, classifier, num_classes):
        super().__init__()
        self.vae, self.classifier = vae, classifier
        self.register_buffer("classes", torch.eye(num_classes)[:, None])  # (C, 1, C)

    # y is a site: observed, or latent and summed out by TraceEnum_ELBO.

    def model(self, x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones_like(self.classes[0, 0])), obs=y)
            return self.vae.generative(x, y)

    def guide(self, x, y=None):
        self.list_parameters(self.classifier, others=[self.vae])
        with pyro.plate("data", len(x), dim=-1):
            if y is None:
                q = dist.OneHotCategorical(logits=self.classifier(x))
                y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            return self.vae.recognition(x, y)

    # The same bound with the sum over y by hand: each datum occurs once per class, with weight q(y|x).

    def summed_model(self, x):
        with self._each_class(x) as log_q:
            pyro.factor("y", -math.log(len(log_q)) - log_q)
            self.vae.generative(x.expand(len(log_q), *x.shape), self.classes)

    def summed_guide(self, x):
        with self._each_class(x) as log_q:
            self.vae.recognition(x.expand(len(log_q), *x.shape), self.classes)

    @contextmanager
    def _each_class(self, x):
        self.list_parameters(self.classifier, others=[self.vae])
        log_q = self.classifier(x).log_softmax(-1).T
        classes, data = pyro.plate("classes", len(log_q), dim=-2), pyro.plate("data", len(x), dim=-1)
        with classes, data, poutine.scale(scale=log_q.exp().clamp(min=1e-30)):  # Pyro takes no 0
            yield log_q


class Objective(nn.Module):
    """J of eq. 9 for a batch without labels and a batch with labels: the bound of each, and the classification term.

    Args:
        m2: the program.
        labelled: the weight of a labelled datum of a batch; a datum without a label has weight 1.
        classification: the weight of its log q(y|x).
    """

    def __init__(self, m2, labelled, classification):
        super().__init__()
        self.m2, self.labelled, self.classification = m2, labelled, classification

    def model(self, x, known, y):
        with scope(prefix="unlabelled"):
            self.m2.summed_model(x)
        with scope(prefix="labelled"), poutine.scale(scale=self.labelled):
            self.m2.model(known, y)
        with pyro.plate("known", len(known), dim=-1), poutine.scale(scale=self.classification):
            pyro.sample("class", dist.OneHotCategorical(logits=self.m2.classifier(known)), obs=y)

    def guide(self, x, known, y):
        with scope(prefix="unlabelled"):
            self.m2.summed_guide(x)
        with scope(prefix="labelled"), poutine.scale(scale=self.labelled):
            self.m2.guide(known, y)


RECIPES = {"bernoulli": {"binarize": "dynamic"}, "normal": {"dequantize": True}}


def build(data, likelihood, latent_dim, hidden, precision="float32"):
    """M2 with networks of one hidden layer each, as in the paper."""
    C, MLP = data.num_classes, pv.networks.MLP
    encoder = MLP(data.x_shape, (2 * latent_dim,), (hidden,), y_dim=C, precision=precision)
    decoder = MLP((latent_dim,), data.x_shape, (hidden,), y_dim=C, precision=precision)
    p_x = pv.likelihoods.Normal(decoder, scale=0.15) if likelihood == "normal" else pv.likelihoods.Bernoulli(decoder)
    p_x.start_at(data.train.expected())
    vae = pv.VAE(pv.priors.StandardNormal(latent_dim), pv.posteriors.DiagonalNormal(encoder, latent_dim), p_x)
    return M2(vae, MLP(data.x_shape, (C,), (hidden,)), C)


def divide(split, labels, num_classes, seed):
    """Cuts a split in two: data that keep their labels, equally many of each class, and all others."""
    each, most = divmod(labels, num_classes), int(split.labels.bincount(minlength=num_classes).min())
    if each[1] or not 1 <= each[0] < most:
        raise ValueError(
            f"labels={labels}: each of the {num_classes} classes needs equally many; take a multiple of {num_classes} "
            f"from {num_classes} to {num_classes * (most - 1)}"
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    chosen = torch.cat([order[split.labels[order] == c][: each[0]] for c in range(num_classes)])
    known = torch.isin(torch.arange(len(split)), chosen)
    return [replace(split, levels=split.levels[rows], labels=split.labels[rows]) for rows in (known, ~known)]


def batches(split, batch_size, num_classes, seed):
    """Yields full batches of x and one-hot labels without end."""
    for epoch in count():
        for x, labels in split.batches(batch_size, seed=seed, epoch=epoch):
            if len(x) == batch_size:
                yield x, pv.data.one_hot(labels, num_classes)


def train_on_labels(classifier, known, seed, steps=1000, lr=1e-3):
    """Trains on the labels only: M2 is compared with this classifier, and its q(y|x) starts from it."""
    adam = torch.optim.Adam(classifier.parameters(), lr=lr, fused=True)
    for x, y in islice(batches(known, min(100, len(known)), classifier.out_shape[0], seed), steps):
        adam.zero_grad()
        nn.functional.cross_entropy(classifier(x), y).backward()
        adam.step()


def train(m2, known, unknown, *, epochs, batch_size, alpha, lr, seed, after=lambda epoch, loss: None):
    """Steps on a batch of each kind. In the first fifth q(y|x) stays fixed: it would follow a decoder that is noise."""
    few, C, N = min(100, len(known)), len(m2.classes), len(known) + len(unknown)
    batch_size = min(batch_size, len(unknown))
    share, each = batch_size / len(unknown), len(unknown) // batch_size
    objective = Objective(m2, share * len(known) / few, share * alpha * N / few)
    adam = torch.optim.Adam([{"params": part.parameters()} for part in (m2.vae, m2.classifier)], lr=lr, fused=True)
    compiled = True if epochs * each > 10_000 else "auto"  # the compiler takes about 20 s and halves a step
    svi = pv.inference.SVI(objective.model, objective.guide, adam, pv.inference.MeanFieldELBO(), compile=compiled)

    def fall(step):
        return (1 + math.cos(math.pi * step / (epochs * each))) / 2

    rate = torch.optim.lr_scheduler.LambdaLR(adam, [fall, lambda step: fall(step) * (step > epochs * each / 5)])
    pairs = zip(batches(unknown, batch_size, C, seed), batches(known, few, C, seed), strict=False)
    for epoch in range(epochs):
        loss = 0
        for (x, _), (labelled, y) in islice(pairs, each):
            loss += svi.step(x, labelled, y) / (batch_size * each)
            rate.step()
        after(epoch, loss)


@torch.no_grad()
def predictions(m2, split):
    return m2.classifier(split.fixed()).argmax(-1)


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="a name or a path (pv.data.load)")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--likelihood", choices=RECIPES, default="normal", help="for grey levels, or for bits")
    parser.add_argument("--labels", type=int, default=100, help="how many training data keep their label")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--alpha", type=float, default=0.1, help="weight of the classification term")
    parser.add_argument("--precision", default="float32", help="of encoder and decoder: bfloat16 halves the time")
    parser.add_argument("--num-samples", type=int, default=100, help="draws of z for each class, for log p(x)")
    parser.add_argument("--num-data", type=int, default=1000, help="at most this many test data for log p(x)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="a .safetensors file for the parameters, written after each epoch")
    return parser.parse_args(argv)


def main(argv=None):
    args, start = arguments(argv), time.monotonic()
    data = pv.data.load(args.dataset, data_dir=args.data_dir, **RECIPES[args.likelihood])
    known, unknown = divide(data.train, args.labels, data.num_classes, args.seed)
    accuracy, test = pv.evaluation.accuracy, data.test
    torch.manual_seed(args.seed)
    m2 = build(data, args.likelihood, args.latent_dim, args.hidden, args.precision)
    train_on_labels(m2.classifier, known, args.seed)
    print(f"{'labels only':<20} {accuracy(predictions(m2, test), test.labels)}", flush=True)

    def after(epoch, loss):
        if args.out:
            save_file(m2.state_dict(), args.out)
        if (epoch + 1) % max(1, args.epochs // 10) == 0:
            valid = accuracy(predictions(m2, data.valid), data.valid.labels).value
            minutes = (time.monotonic() - start) / 60
            print(f"epoch {epoch + 1:<14} loss {loss:.2f}, valid {valid:.2%}, {minutes:.1f} min", flush=True)

    settings = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.learning_rate, "alpha": args.alpha}
    train(m2, known, unknown, **settings, seed=args.seed, after=after)
    print(f"{'M2, q(y|x)':<20} {accuracy(predictions(m2, test), test.labels)}", flush=True)

    chosen = pv.evaluation.subset(len(test), args.num_data, args.seed)
    x, p = test.fixed(chosen), torch.full((data.num_classes,), 1 / data.num_classes)
    classes = pv.evaluation.classify(m2.vae, x, p, args.num_samples, args.seed)
    print(f"{'M2, p(y|x)':<20} {accuracy(classes.prediction, test.labels[chosen])}")
    log_p = pv.evaluation.evidence(m2.vae, x, p, args.num_samples, args.seed)
    print(replace(log_p, value=log_p.value + test.log_jacobian))  # of the levels, where x is dequantised
    return m2


if __name__ == "__main__":
    main()
