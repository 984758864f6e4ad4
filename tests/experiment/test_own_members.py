"""Classes of a user's own in a config: found by every question that is asked of it, and built from facts by name."""

import json
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from pyro.distributions import constraints
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Form
from pyro_vae.errors import UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import OwnMember, OwnMembers, changes, parameters

IMAGE = (1, 6, 5)


class Scaled(pv.priors.Prior):
    """Its `scale` and `df` are not those of the settings."""

    def __init__(self, latent_dim, scale=2.0, df=4.0):
        super().__init__(latent_dim)
        self.width, self.df = scale, df
        self.raw = nn.Parameter(torch.randn(latent_dim))

    def forward(self, y=None):
        return dist.StudentT(self.df, self.raw, self.width).to_event(1)


class Knowing(pv.priors.Prior):
    """A prior that wants every fact."""

    def __init__(self, latent_dim, x_shape, y_dim, posterior, num_levels=None):
        super().__init__(latent_dim)
        self.facts = latent_dim, x_shape, y_dim, num_levels, type(posterior).__name__

    def forward(self, y=None):
        return dist.Normal(self.loc, self.scale).to_event(1)


class Levels(pv.likelihoods.Likelihood):
    support = constraints.nonnegative_integer

    def __init__(self, decoder, num_levels):
        super().__init__(decoder)
        self.num_levels = num_levels

    def forward(self, z, y=None):
        logits = self.decode(z, y)
        return dist.Binomial(self.num_levels - 1, logits=logits).to_event(logits.dim() - z.dim() + 1)


class Columns(pv.likelihoods.Likelihood):
    """A density that knows the units of columns."""

    def __init__(self, decoder, column_scale=None):
        super().__init__(decoder)
        self.column_scale = column_scale

    def forward(self, z, y=None):
        loc = self.decode(z, y)
        return dist.Cauchy(self.column_scale.undo(loc), self.column_scale.spread).to_event(1)


class Plain(pv.likelihoods.Likelihood):
    def forward(self, z, y=None):
        return dist.Cauchy(self.decode(z, y), 1.0).to_event(1)


class Seen(nn.Module):
    """An encoder or decoder that notes what it is given."""

    def __init__(self, in_shape, out_shape, y_dim, gain=1.0):
        super().__init__()
        self.in_shape, self.out_shape, self.y_dim, self.gain = in_shape, out_shape, y_dim, gain
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, y=None):
        self.x, self.y = x, y
        return self.weight.expand(len(x), *self.out_shape)


def own(**classes):
    """The settings of members of one's own."""
    each = {family: kinds if isinstance(kinds, tuple) else (kinds,) for family, kinds in classes.items()}
    members = {
        f: OwnMember.of(f, f"mine.py:{','.join(k.__name__ for k in kinds)}", *kinds) for f, kinds in each.items()
    }
    return {**{family: member.name for family, member in members.items()}, "own": OwnMembers(**members)}


def small(**settings):
    return Config(**{"latent_dim": 3, "hidden": (4,), **settings})


def test_a_strangers_arguments_are_not_the_settings_of_these_names():
    vae = build.vae(small(scale=0.3, df=9.0, **own(prior=Scaled)), IMAGE)
    assert (vae.prior.width, vae.prior.df) == (2.0, 4.0)
    vae = build.vae(small(scale=0.3, prior_args='{"scale": 7}', **own(prior=Scaled)), IMAGE)
    assert (vae.prior.width, vae.prior.df) == (7, 4.0)


def test_facts_are_filled_in_by_name():
    config = small(conditional=True, **own(prior=Knowing))
    vae = build.vae(config, IMAGE, num_levels=17, num_classes=4)
    assert vae.prior.facts == (3, IMAGE, 4, None, "DiagonalNormal")  # whole numbers are no levels to a Bernoulli
    vae = build.vae(replace(config, **own(prior=Knowing, likelihood=Levels)), IMAGE, num_levels=17, num_classes=4)
    assert vae.prior.facts == (3, IMAGE, 4, 17, "DiagonalNormal")
    assert vae.likelihood.num_levels == 17


def test_a_fact_that_the_data_do_not_have_is_asked_for_in_a_sentence():
    with pytest.raises(UsageError, match=r"Levels of mine\.py needs num_levels, which these data do not have"):
        build.vae(small(**own(likelihood=Levels)), IMAGE)


def test_members_are_drawn_from_the_stream_of_the_seed():
    config = small(seed=3, **own(prior=Scaled))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build.vae(config, IMAGE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first.prior.raw, build.vae(config, IMAGE).prior.raw)
    assert not torch.equal(first.prior.raw, build.vae(replace(config, seed=4), IMAGE).prior.raw)
    ours = build.vae(small(seed=3), IMAGE)
    assert torch.equal(first.posterior.encoder.head.weight, ours.posterior.encoder.head.weight)


@pytest.mark.parametrize("missing", ["no", *thorough("nan")])
def test_an_encoder_of_ones_own_sees_what_ours_see(missing):
    config = small(likelihood="discretized_logistic", missing=missing, **own(network=(Seen, Seen)))
    vae = build.vae(config, IMAGE, num_levels=256)
    inner = next(part for part in vae.posterior.modules() if isinstance(part, Seen))
    x = torch.full((2, *IMAGE), 255.0)
    vae.posterior(x)
    assert inner.in_shape == ((2, 6, 5) if missing == "nan" else IMAGE)
    assert inner.x[:, :1].eq(1.0).all()
    assert inner.out_shape == (6,)
    assert vae.likelihood.decoder.in_shape == (3,)


@pytest.mark.parametrize(("scaling", "seen"), [("standardized", 2.0), ("counts", np.log1p(10.0))])
def test_an_encoder_of_ones_own_sees_columns_as_ours_do(scaling, seen):
    likelihood = "normal" if scaling == "standardized" else "poisson"
    vae = build.vae(small(likelihood=likelihood, **own(network=(Seen, Seen))), (5,), scaling=scaling)
    x = torch.full((4, 5), 10.0)
    pv.model.scaling.fit_scalings(vae, torch.stack([torch.full((5,), 4.0), torch.full((5,), 8.0)]))
    vae.posterior(x)
    inner = next(part for part in vae.posterior.modules() if isinstance(part, Seen))
    assert inner.x.flatten().tolist() == pytest.approx([seen] * 20, rel=1e-6)


def test_networks_of_ones_own_get_labels_and_each_its_arguments():
    config = small(conditional=True, network_args='{"gain": 2}', **own(network=(Seen, Seen)))
    vae = build.vae(config, IMAGE, num_classes=4)
    vae.posterior(torch.zeros(2, *IMAGE), torch.eye(4)[:2])
    assert vae.posterior.encoder.y.shape == (2, 4)
    assert (vae.posterior.encoder.y_dim, vae.posterior.encoder.gain, vae.likelihood.decoder.gain) == (4, 2, 2)


def test_columns_are_standardised_for_a_likelihood_that_takes_their_scale():
    knows, plain = small(**own(likelihood=Columns)), small(**own(likelihood=Plain))
    assert build.takes_column_scale(knows)
    assert not build.takes_column_scale(plain)
    assert isinstance(build.vae(knows, (5,), scaling="standardized").likelihood.column_scale, pv.scaling.ColumnScale)
    with pytest.raises(UsageError, match=r"`likelihood='mine\.py:Plain'` is not a density of columns"):
        build.vae(plain, (5,), scaling="standardized")


def test_what_is_asked_of_a_likelihood_is_answered_by_the_class(tmp_path):
    config = small(**own(likelihood=Levels))
    assert build.is_discrete(config)
    assert build.recipe(config, 17) == "levels"
    assert not build.reading(config)["counts"]
    assert build.shown_range(config, Form(IMAGE, 17), {}) == (0.0, 16.0)
    real = small(**own(likelihood=Plain))
    assert not build.is_discrete(real)
    assert build.recipe(real, 17) == "none"
    assert build.reading(real)["reals"]
    np.save(tmp_path / "x.npy", np.arange(240, dtype=np.uint8).reshape(60, 4))
    splits = build.data(replace(config, dataset=str(tmp_path / "x.npy")))
    assert splits.form.num_levels == 256


def test_settings_that_no_member_takes_are_named():
    assert build.unused(small(df=3.0, **own(prior=Scaled))) == ["df"]
    assert build.unused(small(**own(network=(Seen, Seen)))) == ["hidden"]
    assert build.unused(Config(**own(prior=Scaled, likelihood=Plain, network=(Seen, Seen)))) == []


def test_the_size_of_a_program_is_counted_without_building_what_is_not_ours():
    config = small(**own(prior=Scaled, likelihood=Levels, network=(Seen, Seen)))
    assert 0 < build.num_described(config, IMAGE, 17) < 1000
    assert build.num_described(config, (10**9,), 17) > 10**9


def test_classes_are_no_setting():
    config = small(**own(prior=Scaled))
    assert config == replace(config, own=OwnMembers())
    assert "own" not in {*config.to_dict(), *config.scientific()}
    assert "OwnMember" not in repr(config)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))).own == OwnMembers()
    assert replace(config, lr=0.5).own is config.own


def test_a_config_without_its_class_is_answered_with_what_to_pass():
    config = replace(small(**own(prior=Scaled)), own=OwnMembers())
    with pytest.raises(UsageError, match=r"pass `prior=Scaled` of 'mine\.py'"):
        build.vae(config, IMAGE)
    with pytest.raises(UsageError, match=r"pass `likelihood=Plain` of 'mine\.py'"):
        build.is_discrete(small(likelihood="mine.py:Plain"))
    assert type(build.vae(config, IMAGE, prior=Scaled(3)).prior) is Scaled


def test_a_source_of_another_hash_is_a_change_and_an_unknown_one_is_none():
    member = OwnMembers(prior=OwnMember("prior", "mine.py:Scaled", (Scaled,), "b" * 64))
    assert changes({"prior": {"name": "mine.py:Scaled", "sha256": "b" * 64}}, member) == []
    assert "has changed" in changes({"prior": {"name": "mine.py:Scaled", "sha256": "a" * 64}}, member)[0]
    assert changes({"prior": {"name": "mine.py:Scaled", "sha256": ""}}, member) == []
    assert changes({}, member) == []


def test_a_constructor_that_passes_on_takes_what_its_parents_take():
    class Child(Scaled):
        def __init__(self, *positional, power=2, **more):
            super().__init__(*positional, **more)

    assert list(parameters(Child)) == ["latent_dim", "scale", "df", "power"]
    assert build.vae(small(prior_args='{"scale": 5}', **own(prior=Child)), IMAGE).prior.width == 5


def test_members_of_one_source_are_named_in_one_warning():
    own = OwnMembers(
        prior=OwnMember("prior", "mine.py:A", (Scaled,), "b"),
        likelihood=OwnMember("likelihood", "mine.py:B", (Plain,), "b"),
        posterior=OwnMember("posterior", "other.py:C", (Plain,), "b"),
    )
    recorded = {family: {**each, "sha256": "a"} for family, each in own.recorded().items()}
    said = changes(recorded, own)
    assert [sentence.partition(" (")[0] for sentence in said] == [
        "mine.py:A and mine.py:B have changed since they were trained",
        "other.py:C has changed since it was trained",
    ]


class NoPrior(pv.priors.Prior):
    def __init__(self, latent_dim): ...


class HalfPrior(pv.priors.Prior):
    def __init__(self, latent_dim):
        nn.Module.__init__(self)


class NoPosterior(pv.posteriors.Posterior):
    encoder_shape = pv.posteriors.DiagonalNormal.encoder_shape

    def __init__(self): ...


class NoLikelihood(pv.likelihoods.Likelihood):
    def __init__(self): ...


class NoNetwork(nn.Module):
    def __init__(self): ...


@pytest.mark.parametrize(
    ("classes", "call"),
    [
        ({"prior": NoPrior}, r"super().__init__(latent_dim)"),
        ({"prior": HalfPrior}, r"super().__init__(latent_dim)"),
        ({"posterior": NoPosterior}, r"super().__init__(encoder, latent_dim)"),
        ({"likelihood": NoLikelihood}, r"super().__init__(decoder)"),
        ({"network": (NoNetwork, NoNetwork)}, r"super().__init__()"),
    ],
    ids=str,
)
def test_a_constructor_that_leaves_out_that_of_its_family_is_told_so(classes, call):
    with pytest.raises(UsageError) as refused:
        build.vae(small(**own(**classes)), IMAGE)
    assert str(refused.value).endswith(f"is not set up: its __init__ must begin with {call}")
