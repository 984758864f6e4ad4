"""Labels that Pyro enumerates around the halves of a program: sums by hand, and what would be a wrong sum."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from densities import perturbed
from exact import binary_data
from halves import SHAPE, B, C, D, S, bernoulli, diagonal, nested, small
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import UsageError


def semi_supervised(posterior=None):
    """M2 without a prior of its own on y: the guide has q(y|x) too."""
    torch.manual_seed(1)
    prior = pv.priors.ConditionalNormal(D, C)
    return perturbed(pv.VAE(prior, posterior or diagonal(), bernoulli())).double(), nn.Linear(8, C).double()


def labels(logits, enumerate_="parallel"):
    return pyro.sample("y", dist.OneHotCategorical(logits=logits), infer={"enumerate": enumerate_})


def by_hand(vae, x, log_q, z):
    """The ELBO of each datum, given one z for each class (C, B, D): sum_y q(y|x) [log p(x, y, z_y) - log q(y, z_y)]."""
    total = 0.0
    for c, y in enumerate(torch.eye(C).double()[:, None].expand(C, len(x), C)):
        log_p = vae.prior(y).log_prob(z[c]) + vae.likelihood(z[c], y).log_prob(x) - math.log(C)
        total = total + log_q[:, c].exp() * (log_p - log_q[:, c] - vae.posterior(x, y).log_prob(z[c]))
    return total


def test_the_enumerated_elbo_is_the_sum_by_hand():
    vae, classifier = semi_supervised()
    x, zeros = binary_data(7, SHAPE), torch.zeros(C).double()

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            vae.generative(x, pyro.sample("y", dist.OneHotCategorical(logits=zeros)))

    @config_enumerate
    def guide(x):
        with pyro.plate("data", len(x)):
            return vae.recognition(x, pyro.sample("y", dist.OneHotCategorical(logits=classifier(x.flatten(1)))))

    torch.manual_seed(5)
    found = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    torch.manual_seed(5)
    with poutine.enum(first_available_dim=-2):
        z = guide(x)
    log_q = classifier(x.flatten(1)).log_softmax(-1)
    assert z.shape == (C, 7, D)
    assert found == pytest.approx(-by_hand(vae, x, log_q, z).sum().item(), abs=1e-10)


def test_labels_of_the_model_alone_are_summed_out_exactly():
    """log p(x|z) = log sum_y p(y) p(x|z, y), for one z of each datum, which vectorised particles draw on the left."""
    posterior = diagonal(y_dim=0)
    vae = perturbed(pv.VAE(pv.priors.StandardNormal(D), posterior, bernoulli())).double()
    x, zeros = binary_data(7, SHAPE), torch.zeros(C).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            vae.generative(x, labels(zeros))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            return vae.recognition(x)

    def loss(num_particles):
        torch.manual_seed(5)
        vectorised = {"num_particles": num_particles, "vectorize_particles": num_particles > 1}
        return TraceEnum_ELBO(max_plate_nesting=1, **vectorised).loss(model, guide, x)

    def expected(*plate):
        torch.manual_seed(5)
        z = pyro.plate("draws", *plate, dim=-2)(guide)(x) if plate else guide(x)
        each = torch.stack([vae.likelihood(z, y).log_prob(x) for y in torch.eye(C).double()[:, None].expand(C, 7, C)])
        log_p = torch.logsumexp(each - math.log(C), 0) + vae.prior().log_prob(z)
        return -(log_p - posterior(x).log_prob(z)).sum(-1).mean().item()

    assert loss(1) == pytest.approx(expected(), abs=1e-10)
    assert loss(4) == pytest.approx(expected(4), abs=1e-10)


@pytest.mark.parametrize("expand", [False, True])
def test_under_two_plates_enumerated_labels_are_summed_out_too(expand):
    """y is (C, 1, 1, C), or (C, S, B, C) where Pyro expands it."""
    code = pv.posteriors.Delta(small(SHAPE, (D,), y_dim=0), D)
    vae = perturbed(pv.VAE(pv.priors.ConditionalNormal(D, C), code, bernoulli())).double()
    x = binary_data(S * B, SHAPE)
    seen = []

    def plates(half):
        with pyro.plate("sets", S, dim=-2), pyro.plate("data", B, dim=-1):
            if half == vae.recognition:
                return half(nested(x))
            how = {"enumerate": "parallel", "expand": expand}
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(C).double()), infer=how)
            seen.append(y.shape)
            return half(nested(x), y)

    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    found = elbo.loss(lambda: plates(vae.generative), lambda: plates(vae.recognition))
    z = code.encode(x)
    each = [
        vae.prior(y).log_prob(z) + vae.likelihood(z, y).log_prob(x) - math.log(C)
        for y in torch.eye(C).double()[:, None].expand(C, len(x), C)
    ]
    assert seen[-1] == ((C, S, B, C) if expand else (C, 1, 1, C))
    assert found == pytest.approx(-torch.stack(each).logsumexp(0).sum().item(), abs=1e-10)


def test_labels_enumerated_one_after_another_in_the_guide_give_the_same():
    """The guide of a plain autoencoder has no noise that could differ."""
    code = pv.posteriors.Delta(small(SHAPE, (D,)), D)
    vae, classifier = semi_supervised(code)
    x = binary_data(7, SHAPE)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            vae.generative(x, pyro.sample("y", dist.OneHotCategorical(torch.ones(C).double())))

    def guide(x, how):
        with pyro.plate("data", len(x), dim=-1):
            vae.recognition(x, labels(classifier(x.flatten(1)), how))

    sequential = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda x: guide(x, "sequential"), x)
    parallel = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda x: guide(x, "parallel"), x)
    assert sequential == pytest.approx(parallel, abs=1e-10)


@pytest.mark.parametrize("number", [3, 7])
@pytest.mark.parametrize("as_float", [False, True])
def test_numbers_of_classes_are_told_that_labels_are_one_hot(number, as_float):
    """Where there are as many data as classes they would fit the plate."""
    vae, _ = semi_supervised(diagonal(y_dim=0))
    x = binary_data(number, SHAPE)

    def model():
        with pyro.plate("data", number, dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.ones(C)), infer={"enumerate": "parallel"})
            vae.generative(x, y.double() if as_float else y)

    def guide():
        with pyro.plate("data", number, dim=-1):
            vae.recognition(x)

    if as_float and number == 3:
        return  # the decoder says that there is one column
    with pytest.raises(UsageError, match=r"got numbers of classes, of shape \(3, 1\): sample y from dist.OneHotCat"):
        TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide)
    with pyro.plate("data", number), pytest.raises(UsageError, match="got numbers of classes"):
        vae.generative(x, torch.arange(number))


def test_data_under_no_plate_are_refused_while_labels_are_enumerated():
    vae, _ = semi_supervised(diagonal(y_dim=0))
    x = binary_data(7, SHAPE)

    def guide():
        with pyro.plate("data", 7, dim=-1):
            vae.recognition(x)

    with pytest.raises(UsageError, match=r"x of shape \(7, 1, 2, 4\) has 7 rows at dim -1, where no plate is open"):
        TraceEnum_ELBO(max_plate_nesting=1).loss(lambda: vae.generative(x, labels(torch.zeros(C).double())), guide)


def test_one_row_of_labels_for_many_data_is_sent_to_the_halves():
    """So come labels that Pyro enumerates one after another."""
    vae, _ = semi_supervised()
    with pytest.raises(ValueError, match=r"5 data and 1 labels\. .*`vae.generative\(x, y\)` in the model and `vae.rec"):
        vae.model(binary_data(5, SHAPE), torch.eye(C).double()[:1])


def test_labels_enumerated_under_a_plate_that_is_closed_are_refused():
    """Pyro would sum over one class of all data together: 18.8 in place of 14.4 for three classes."""
    vae, _ = semi_supervised()
    x, zeros = binary_data(7, SHAPE), torch.zeros(C).double()

    def in_the_model(half):
        def model(x):
            with pyro.plate("classes", len(x), dim=-1):
                y = labels(zeros)
            half(x, y)

        return model

    def in_a_plate(half):
        def program(x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                half(x, y if y is not None else torch.eye(C).double()[[0] * len(x)])

        return program

    def loss(model):
        return TraceEnum_ELBO(max_plate_nesting=1).loss(model, in_a_plate(vae.recognition), x)

    with pytest.raises(UsageError, match=r"enumerated under the plate 'classes', which is not open here: sample y"):
        loss(in_the_model(in_a_plate(vae.generative)))
    with pytest.raises(
        ValueError, match=r"\(3, 1, 3\).* enumerates.*`vae.generative\(x, y\)` in the model and `vae.rec"
    ):
        loss(in_the_model(vae.model))

    def reopened(x):  # the cure
        plate = pyro.plate("data", len(x), dim=-1)
        with plate:
            y = labels(zeros)
        with plate:
            vae.generative(x, y)

    def inside(x):
        with pyro.plate("data", len(x), dim=-1):
            vae.generative(x, labels(zeros))

    losses = []
    for model in (reopened, inside):
        torch.manual_seed(5)
        losses.append(loss(model))
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)
