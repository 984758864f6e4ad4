"""What may be subtracted: estimates know their data and their quantity, and others are refused unless forced."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from exact import ProbabilisticPCA, binary_data, small_vae

import pyro_vae as pv
from pyro_vae.evaluation import paired, pooled, unpaired
from pyro_vae.evaluation.data_fingerprint import fingerprint

iwae = pv.evaluation.iwae


@pytest.fixture
def x():
    return binary_data(300)


@pytest.fixture
def vaes():
    return small_vae(seed=0), small_vae(seed=1)


def test_counts_are_not_compared_with_bits(x, vaes):
    counts = torch.poisson(3 * torch.ones(300, 6, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
    of_counts = iwae(small_vae(likelihood=pv.likelihoods.Poisson), counts, 10, seed=0)
    of_bits = iwae(vaes[0], (counts > 2).double(), 10, seed=0)
    for refused in (lambda: paired(of_counts, of_bits), lambda: pooled([of_counts, of_bits])):
        with pytest.raises(ValueError, match=r"different data.*force=True"):
            refused()
    assert paired(of_counts, of_bits, force=True).mean == pytest.approx(of_counts.mean - of_bits.mean)
    forced = pooled([of_counts, of_bits], force=True)
    assert forced.mean == pytest.approx((of_counts.mean + of_bits.mean) / 2)


CHANGES = {
    "order": lambda x: x.flip(0),
    "one number": lambda x: torch.where(torch.arange(x.numel()).reshape(x.shape) == 1700, 1 - x, x),
    "shape": lambda x: x.reshape(300, 2, 3),
    "a rounding": lambda x: x.clamp(max=1 - 1e-12),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_have_another_fingerprint(x, change):
    assert not torch.equal(fingerprint(x), fingerprint(CHANGES[change](x)))


def test_the_block_that_differs_is_named(x, vaes):
    with pytest.raises(ValueError, match="first differ between datum 256 and 383"):
        paired(iwae(vaes[0], x, 4), iwae(vaes[1], CHANGES["one number"](x), 4))


@pytest.mark.parametrize(
    "same",
    [
        lambda x: x.float(),
        lambda x: x.int(),
        lambda x: x.bool(),
        lambda x: x.bfloat16(),
        lambda x: x.where(x > 0, -0.0),
    ],
    ids=["float32", "int", "bool", "bfloat16", "minus zero"],
)
def test_the_same_values_have_the_same_fingerprint(x, same):
    assert torch.equal(fingerprint(x), fingerprint(same(x)))
    layout = x.t().contiguous().t()
    assert torch.equal(fingerprint(x), fingerprint(layout))


def test_programs_of_two_precisions_are_compared(x, vaes):
    single = small_vae(seed=0).float()
    assert abs(paired(iwae(vaes[0], x, 10, seed=0), iwae(single, x.float(), 10, seed=0)).mean) < 5


def test_shards_of_whole_blocks_join(x, vaes):
    whole = iwae(vaes[0], x, 10, seed=0)
    parts = [iwae(vaes[0], part, 10, seed=0, first_block=i) for i, part in enumerate(x.split(128))]
    assert torch.equal(torch.cat([part.value for part in parts]), whole.value)
    assert torch.equal(torch.cat([part.fingerprint for part in parts]), whole.fingerprint)


def conditional():
    encoder, decoder = pv.networks.MLP((6,), (4,), y_dim=2), pv.networks.MLP((2,), (6,), y_dim=2)
    posterior, likelihood = pv.posteriors.DiagonalNormal(encoder, 2), pv.likelihoods.Bernoulli(decoder)
    return pv.VAE(pv.priors.StandardNormal(2), posterior, likelihood).double()


@pytest.mark.parametrize("y", [None, *thorough(torch.eye(2).double()[torch.arange(3) % 2])], ids=["x", "x given y"])
def test_every_estimator_says_what_its_estimate_is_of(y):
    E, x = pv.evaluation, binary_data(3)
    vae = small_vae(2) if y is None else conditional()
    terms, curve = E.elbo_terms(vae, x, 4, y), E.iwae_curve(vae, x, 4, y)
    refined = E.refine(vae, x, y, steps=2)
    simulated = E.bdmc(vae, None if y is not None else 3, 2, 2, y, num_leapfrog=1)
    estimates = {
        "ELBO": [terms.elbo, E.elbo(vae, x, 4, y), refined.elbo],
        "reconstruction": [terms.reconstruction],
        "KL": [terms.kl],
        "log p(x)": [iwae(vae, x, 4, y), E.ais(vae, x, 2, 2, y, num_leapfrog=1), E.quadrature(vae, x, y),
                     curve.jackknife, E.identity(vae, x, y).evidence],
        "bound of 2 draws on log p(x)": [curve.bounds[2]],
    }  # fmt: skip
    given = {"log p(x)": "log p(x|y)", "bound of 2 draws on log p(x)": "bound of 2 draws on log p(x|y)"}
    for quantity, those in estimates.items():
        for one in those:
            assert one.quantity == (quantity if y is None else given.get(quantity, f"{quantity} given y"))
            assert torch.equal(one.fingerprint, fingerprint(x))
    for one in (simulated.forward, simulated.reverse):
        assert torch.equal(one.fingerprint, fingerprint(simulated.x))


def test_other_quantities_are_refused(x, vaes):
    terms, bound = pv.evaluation.elbo_terms(vaes[0], x, 10, seed=0), iwae(vaes[0], x, 10, seed=0)
    for first, second in [(terms.elbo, bound), (terms.kl, terms.reconstruction), (bound, terms.kl)]:
        with pytest.raises(ValueError, match="of different quantities"):
            paired(first, second)
        with pytest.raises(ValueError, match="of different quantities"):
            pooled([first, second])
        assert paired(first, second, force=True).name == f"{first.name} - {second.name}"
    gap = paired(terms.reconstruction, terms.kl, force=True)
    assert gap.mean == pytest.approx(terms.elbo.mean)


def test_bounds_of_other_numbers_of_draws_are_refused(x, vaes):
    few, many = iwae(vaes[0], x, 10, seed=0), iwae(vaes[1], x, 100, seed=0)
    with pytest.raises(ValueError, match="different tightness, with 10 and 100 draws"):
        paired(few, many)
    paired(few, many, force=True)
    elbos = [pv.evaluation.elbo(vae, x, K, seed=0) for vae, K in zip(vaes, (10, 100), strict=True)]
    paired(*elbos)  # each without a bias
    exact = pv.evaluation.quadrature(small_vae(2), x[:5])
    paired(iwae(small_vae(2), x[:5], 100, seed=0), exact)  # against the truth


class ByClass(pv.Program):
    """z ~ N(m_y, 1), x ~ N(z, 1), with the exact posterior: log p(x|y) = log N(x; m_y, 2). Without y, m = 0."""

    means = torch.tensor([-1.0, 2.0], dtype=torch.float64)

    def model(self, x=None, y=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.mean(y), 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((self.mean(y) + x) / 2, 0.5**0.5))

    def mean(self, y):
        return torch.zeros(()).double() if y is None else y @ self.means


def test_log_p_of_x_given_y_is_compared_with_that_of_x_and_named():
    x = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.eye(2, dtype=torch.float64)[torch.arange(50) % 2]
    given, alone = iwae(ByClass(), x, 4, y, seed=0), iwae(ByClass(), x, 4, seed=0)
    difference = paired(given, alone)
    means, scale = y @ ByClass.means, 2**0.5
    truth = dist.Normal(means, scale).log_prob(x) - dist.Normal(0.0, scale).log_prob(x)
    assert difference.mean == pytest.approx(truth.mean().item())
    assert difference.name == "log p(x|y) - log p(x)"
    assert paired(given, given).name == "difference of log p(x|y)"
    with pytest.raises(ValueError, match=r"log p\(x\), log p\(x\|y\)"):
        pooled([given, alone])  # a mean of both is neither


def test_pooled_runs_keep_what_they_are_of(x, vaes):
    runs = [iwae(vae, x, 10, seed=0) for vae in vaes]
    mean = pooled(runs)
    assert torch.equal(mean.fingerprint, fingerprint(x))
    assert mean.quantity == "log p(x)"
    with pytest.raises(ValueError, match="different data"):
        paired(mean, iwae(vaes[0], x.flip(0), 10, seed=0))


def test_a_gap_is_that_of_the_references_data(vaes):
    truth = ProbabilisticPCA()
    vae, x = truth.vae(widen=1.2), truth.data(5)
    reference = iwae(vae, x, 10, seed=0)
    with pytest.raises(ValueError, match="uses as many other data, or another order"):
        pv.evaluation.gap_budget(vae, x.flip(0), reference, steps=2)


def test_estimates_that_say_nothing_of_their_data_are_compared_as_ever():
    first, second = (pv.evaluation.Estimate("log p(x)", torch.tensor(v), torch.zeros(2), 10)
                     for v in ([1.0, 2.0], [0.0, 0.0]))  # fmt: skip
    assert paired(first, second).mean == 1.5


def test_other_labels_of_the_same_data_are_refused():
    x, y = torch.randn(4).double(), torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]]
    right, wrong = (iwae(ByClass(), x, 4, labels, seed=0) for labels in (y, y.flip(1)))
    for compare in (lambda: paired(right, wrong), lambda: pooled([right, wrong])):
        with pytest.raises(
            ValueError,
            match="different labels, or of labels in another order: they first differ between datum 0 and 127",
        ):
            compare()
    assert torch.equal(pooled([right, right]).labels, right.labels)
    paired(right, wrong, force=True)


def test_unpaired_means_are_of_one_quantity(x, vaes):
    terms, bound = pv.evaluation.elbo_terms(vaes[0], x, 10, seed=0), iwae(vaes[0], x, 10, seed=0)
    unpaired(bound, iwae(vaes[1], x[:7], 10, seed=0))
    with pytest.raises(ValueError, match="of different quantities"):
        unpaired(bound, terms.elbo)
    with pytest.raises(ValueError, match="different tightness"):
        unpaired(bound, iwae(vaes[1], x[:7], 20, seed=0))
    unpaired(bound, terms.elbo, force=True)
