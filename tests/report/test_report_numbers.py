"""The report: its structure, its signs, its two errors, and that its text says what its numbers say."""

import json
import math
import re
from types import SimpleNamespace

import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation import Classification, Estimate
from pyro_vae.experiment.evaluate import headline
from pyro_vae.experiment.evaluate.block_tasks import TASKS, Block, joined
from pyro_vae.experiment.evaluate.evaluated_run import HeadlinePlan
from pyro_vae.experiment.run import files
from pyro_vae.model.scaling import ColumnScale
from pyro_vae.report.document import Table
from pyro_vae.report.documents.evaluation_document import evaluation_document, terminal_document
from pyro_vae.report.documents.report_notes import notes
from pyro_vae.report.documents.training_document import training_document
from pyro_vae.report.render.plain_text import to_text

PROTOCOL = {
    "name": "toy",
    "shape": [3, 2, 1],
    "split": {"kind": "random", "given": [], "sizes": {"train": 7, "valid": 1, "test": 2}},
    "binarization": {"kind": "none", "sentence": "Not binarised."},
    "dequantized": None,
    "notes": ["A note."],
}
LEVELS = {
    **PROTOCOL,
    "dequantized": {"num_levels": 256, "log_jacobian": -6 * math.log(256), "sentence": "Noise within a level."},
}
CONFIG = {"objective": "trace_elbo", "num_particles": 1, "kl_weight": 1.0, "reconstruction_weight": 1.0, "seed": 3}
OBJECTIVE = {**{name: value for name, value in CONFIG.items() if name != "seed"}, "gradient": "total"}
TRAINING = {"epochs": 3, "best_epoch": 2, "valid_elbo": -4.0}


def estimate(name, values, errors, num_samples=5, **kind):
    tensors = (torch.tensor(v, dtype=torch.float64) for v in (values, errors))
    return Estimate(name, *tensors, num_samples=num_samples, **kind)


@pytest.fixture
def estimates():
    kind = {"kind": {"z": "analytic"}}
    return {
        "elbo": estimate("ELBO", [-5.0, -8.0], [0.3, 0.4], **kind),
        "reconstruction": estimate("reconstruction", [-3.0, -7.0], [0.3, 0.4], **kind),
        "kl": estimate("KL", [2.0, 1.0], [0.0, 0.0], **kind),
        "log_likelihood": estimate("log p(x)", [-4.0, -7.0], [0.06, 0.08], num_samples=100),
    }


def report(estimates, protocol=PROTOCOL, more=None, *, discrete=False, **config):
    found = headline.numbers(estimates, protocol, TRAINING, {**CONFIG, **config}, discrete=discrete, more=more)
    return json.loads(files.to_json(found)), to_text(training_document(found))


def measure(vae, x, y=None, *, elbo_samples, likelihood_samples, seed, size=128):
    """The estimates of a headline, asked block by block as every report asks them."""
    plan = HeadlinePlan(elbo_samples=elbo_samples, num_samples=likelihood_samples)
    subject = SimpleNamespace(trained=SimpleNamespace(vae=vae), plan=plan, seed=seed)
    labels = [None] * -(-len(x) // size) if y is None else y.split(size)
    blocks = [Block(i, torch.arange(len(part)), part, labels[i]) for i, part in enumerate(x.split(size))]
    names = ("reconstruction",) if isinstance(vae.posterior, pv.posteriors.Delta) else ("elbo", "log_likelihood")
    answers = [joined(TASKS[name].ask(subject, block) for block in blocks) for name in names]
    return {name: estimate for answer in answers for name, estimate in answer.items()}


LABELS = {
    "elbo": "ELBO, nats",
    "reconstruction": "reconstruction, nats",
    "kl": "KL, nats",
    "log_likelihood": "log p(x), nats",
    "log_likelihood_of_levels": "log p(level), nats",
    "bits_per_dim": "-log p(level), bits/dim",
}


def rows(text):
    """label -> [mean, standard error, Monte Carlo error, draws, data], as printed."""
    table = (line.rsplit(maxsplit=5) for line in text.split("\n\n")[0].splitlines()[1:])
    return {label: values for label, *values in table}


def test_the_numbers_are_those_of_a_hand_calculation(estimates):
    found, _ = report(estimates)
    # sd((-5, -8)) / sqrt(2) = 1.5 and sqrt(0.3^2 + 0.4^2) / 2 = 0.25
    assert found["test"]["elbo"] == {
        "mean": -6.5, "standard_error": pytest.approx(1.5), "monte_carlo_error": pytest.approx(0.25),
        "num_samples": 5, "num_data": 2, "unit": "nats", "kind": {"z": "analytic"},
    }  # fmt: skip


def test_the_structure_is_the_promised_one(estimates):
    found, _ = report(estimates)
    promised = {"mean", "standard_error", "monte_carlo_error", "num_samples", "num_data", "unit"}
    assert set(found) == {"test", "objective", "training", "config", "protocol"}
    assert set(found["test"]) == {"elbo", "reconstruction", "kl", "log_likelihood"}
    assert all(promised <= entry.keys() <= promised | {"kind"} for entry in found["test"].values())
    assert (found["protocol"], found["training"], found["config"]) == (PROTOCOL, TRAINING, CONFIG)
    assert found["objective"] == OBJECTIVE


def test_a_gradient_along_paths_is_named(estimates):
    found, document = report(estimates, gradient="sticking_the_landing")
    assert found["objective"]["gradient"] == "sticking_the_landing"
    assert "gradient: sticking the landing, of the same bound" in " ".join(document.split())


@pytest.mark.parametrize("protocol", [PROTOCOL, LEVELS])
def test_the_text_holds_the_numbers_of_the_json(estimates, protocol):
    found, text = report(estimates, protocol)
    printed = rows(text)
    assert {LABELS[name] for name in found["test"]} == printed.keys()
    for name, entry in found["test"].items():
        row = printed[LABELS[name]]
        errors = entry["mean"], entry["standard_error"], entry["monte_carlo_error"]
        assert row == [*(f"{value:.3f}" for value in errors), str(entry["num_samples"]), str(entry["num_data"])]


def test_the_text_names_both_errors_and_the_kind_of_kl(estimates):
    _, text = report(estimates)
    assert "± over data" in text.splitlines()[0]
    assert "± Monte Carlo" in text.splitlines()[0]
    assert "KL: z analytic." in text
    assert "toy, random split 7 / 1 / 2. Not binarised." in text
    assert text.endswith("A note.")


def test_the_columns_stand_under_their_heads(estimates):
    _, text = report(estimates, LEVELS)
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()}) == 1


def test_a_weighted_run_shows_its_loss_beside_the_true_elbo(estimates):
    found, text = report(estimates, kl_weight=0.5, reconstruction_weight=2.0)
    # 2 * 5 + 0.5 * 1.5, from the means -5 and 1.5
    weights = {"kl_weight": 0.5, "reconstruction_weight": 2.0}
    assert found["objective"] == {**OBJECTIVE, **weights, "loss": pytest.approx(10.75)}
    assert found["test"]["elbo"]["mean"] == -6.5
    assert "reconstruction_weight=2, kl_weight=0.5" in " ".join(text.split())
    assert "10.750 nats, which is not a bound" in " ".join(text.split())
    assert rows(text)["ELBO, nats"][0] == "-6.500"


def test_bits_per_dimension_are_those_of_a_hand_calculation(estimates):
    found, text = report(estimates, LEVELS)
    levels, bits = found["test"]["log_likelihood_of_levels"], found["test"]["bits_per_dim"]
    # log2 p = (-5.5 - 6 ln 256) / ln 2 = -5.5 / ln 2 - 48 over 6 numbers of 8 bits each
    assert levels["mean"] == pytest.approx(-5.5 - 6 * math.log(256))
    assert bits["mean"] == pytest.approx(8 + 5.5 / math.log(2) / 6)
    assert bits["standard_error"] == pytest.approx(1.5 / math.log(2) / 6)
    assert bits["monte_carlo_error"] == pytest.approx(0.05 / math.log(2) / 6)
    assert bits["unit"] == "bits/dim"
    assert rows(text)["-log p(level), bits/dim"][0] == f"{8 + 5.5 / math.log(2) / 6:.3f}"


def test_bits_of_data_with_gaps_have_the_error_of_a_ratio():
    random = torch.Generator().manual_seed(0)
    o = torch.randint(1, 7, (400,), generator=random).double()  # of 6 numbers
    v = -1.2 * o + 0.3 * torch.randn(400, generator=random, dtype=torch.float64)
    picks = torch.randint(400, (2000, 400), generator=random)
    for protocol, discrete, each in ((LEVELS, False, v - math.log(256) * o), (PROTOCOL, True, v)):
        given = {"log_likelihood": Estimate("log p(x)", v, torch.full((400,), 0.1), num_samples=100)}
        bits = headline.numbers(
            {**given, "elbo": given["log_likelihood"]}, protocol, TRAINING, CONFIG, discrete=discrete, observed=o
        )["test"]["bits_per_dim"]
        ratios = -each[picks].sum(1) / o[picks].sum(1) / math.log(2)
        assert bits["mean"] == pytest.approx(-each.sum().item() / o.sum().item() / math.log(2))
        # The spread of 2000 resamples has a relative error of 1.6 %.
        assert bits["standard_error"] == pytest.approx(ratios.std().item(), rel=0.08)
        assert bits["monte_carlo_error"] == pytest.approx(0.1 / 20 / o.mean().item() / math.log(2))


def test_data_of_which_nothing_was_observed_have_no_bits(estimates):
    nothing = {**estimates, "log_likelihood": estimate("log p(x)", [0.0, 0.0], [0.0, 0.0])}
    for protocol, discrete in ((LEVELS, False), (PROTOCOL, True)):
        found = headline.numbers(nothing, protocol, TRAINING, CONFIG, discrete=discrete, observed=torch.zeros(2).long())
        assert "bits_per_dim" not in found["test"]
        assert "-log p" not in to_text(training_document(found))


def test_bits_of_discrete_data_are_those_of_a_hand_calculation(estimates):
    found, text = report(estimates, discrete=True)
    bits = found["test"]["bits_per_dim"]
    # log p = -5.5 nats in the mean, over 6 numbers; its errors are 1.5 and 0.05.
    assert bits == {
        "mean": pytest.approx(5.5 / 6 / math.log(2)), "standard_error": pytest.approx(1.5 / 6 / math.log(2)),
        "monte_carlo_error": pytest.approx(0.05 / 6 / math.log(2)), "num_samples": 100, "num_data": 2,
        "unit": "bits/dim",
    }  # fmt: skip
    assert rows(text)["-log p(x), bits/dim"][0] == f"{5.5 / 6 / math.log(2):.3f}"
    assert "log_likelihood_of_levels" not in found["test"]


def test_a_density_has_no_bits(estimates):
    found, text = report(estimates)
    assert "bits" not in text
    assert "bits_per_dim" not in found["test"]


def test_a_report_on_dequantised_data_describes_them_as_such(estimates):
    _, text = report(estimates, LEVELS)
    assert "Noise within a level." in text
    assert "Not binarised." not in text


def test_what_one_datum_and_one_draw_can_not_tell_is_null_not_nan(estimates):
    nan = math.nan
    single = {
        name: estimate(name, [e.mean], [nan], num_samples=1, kind=e.kind) for name, e in estimates.items()
    }  # fmt: skip
    for protocol in (PROTOCOL, LEVELS):
        found, text = report(single, protocol)
        entries = found["test"].values()
        assert {(e["standard_error"], e["monte_carlo_error"]) for e in entries} == {(None, None)}
        assert all(row[1:3] == ["n/a", "n/a"] for row in rows(text).values())
        assert not re.search(r"\bnan\b", text)


# Scales of the likelihood.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.25}, "likelihood: sigma 0.25."),
        ({"scale": 0.25, "learn_scale": "one"}, "likelihood: sigma 0.25, floor 0.001, learned one number."),
        (
            {"scale": 0.25, "learn_scale": "pixel", "x_shape": (2,)},
            "likelihood: sigma min 0.25, median 0.25, max 0.75, floor 0.001, learned per column.",
        ),
        ({"learn_scale": "predicted", "scale_floor": 0.01}, "likelihood: sigma predicted from z, floor 0.01."),
    ],
)
def test_the_report_says_what_the_scales_are_and_their_floor(estimates, options, words):
    likelihood = pv.likelihoods.Normal(lambda z: z, **options)
    if options.get("learn_scale") == "pixel":
        raw = likelihood.learned_scale.raw.detach()
        raw[1] = math.log(0.75 - 1e-3)
    found, text = report(estimates, more={"likelihood": likelihood.scales()})
    assert words in " ".join(text.split())
    assert found["likelihood"] == likelihood.scales()


def test_the_scales_of_a_table_are_listed_by_column_in_their_own_units(estimates):
    units = ColumnScale((2,))
    units.fit(torch.tensor([[0.0, 1000.0], [2.0, 5000.0]]))  # spreads 1 and 2000
    protocol = {**PROTOCOL, "columns": ["weight", "a_price"], "shape": [2]}
    for mode, said in (("no", "."), ("one", ", learned one number."), ("pixel", ", learned per column.")):
        likelihood = pv.likelihoods.Normal(lambda z: z, scale=0.5, learn_scale=mode, x_shape=(2,), column_scale=units)
        listed = headline.scale_by_column(likelihood, protocol)
        floors = [[], []] if mode == "no" else [[pytest.approx(0.001)], [pytest.approx(2)]]
        assert listed["names"] == ["sigma", *(["floor"] if mode != "no" else [])]
        wide = [pytest.approx(0.5)], [pytest.approx(1000)]
        assert listed["rows"] == [["weight", *wide[0], *floors[0]], ["a_price", *wide[1], *floors[1]]]
        more = {"likelihood": likelihood.scales(), "scale_by_column": listed}
        found, text = report(estimates, protocol, more)
        assert found["likelihood"] == likelihood.scales()
        ends = ("", "", "") if mode == "no" else (" +floor", " +0.001", " +2")
        assert re.search(r"column +sigma{}\nweight +0.5{}\na_price +1000{}\n".format(*ends), text)
        for document in (evaluation_document(found), terminal_document(found)):
            assert [block.name for block in document.blocks if isinstance(block, Table)].count("scales") == 1
        assert f"likelihood: sigma of each column: in the table of scales{said}" in " ".join(text.split())
        assert "median" not in text
    assert headline.scale_by_column(likelihood, PROTOCOL) == {}
    assert headline.scale_by_column(pv.likelihoods.Bernoulli(lambda z: z), protocol) == {}
    plain = pv.likelihoods.Normal(lambda z: z, learn_scale="predicted")
    assert headline.scale_by_column(plain, protocol) == {}


@pytest.mark.parametrize(("kl", "objective", "is_said"), [
    (0.0004, {}, True),
    (-0.001, {"reconstruction_weight": 1.0}, True),  # sampled
    (0.02, {}, False),
    (0.0, {"reconstruction_weight": 0.0}, False),  # as the loss wants it
    (None, {}, False),  # not finite
])  # fmt: skip
def test_latents_that_are_not_used_are_a_caution(estimates, kl, objective, is_said):
    found, _ = report(estimates, PROTOCOL, {})
    found["test"]["kl"]["mean"] = kl
    found["objective"] = objective
    cautions = [note.text for note in notes(found) if note.term == "caution"]
    assert [text.startswith(f"The KL is {kl or 0.0:.3f} nats") for text in cautions] == [True] * is_said
    assert ("posterior collapse" in " ".join(to_text(terminal_document(found)).split())) is is_said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "256 grey levels and p(x|z) is a density of real numbers: log p(x) depends on the scale that was set"),
        ({"learn_scale": "predicted"}, "log p(x) grows without limit"),
    ],
)
def test_grey_levels_under_a_density_of_reals_are_a_caution(estimates, options, words):
    more = {"likelihood": pv.likelihoods.Normal(lambda z: z, **options).scales()}
    levels = {**PROTOCOL, "num_levels": 256}
    found, text = report(estimates, levels, more)
    assert words in " ".join(text.split())
    assert [words in note.text for note in notes(found) if note.term == "caution"] == [True]
    assert to_text(terminal_document(found)).count("caution") == 1
    dynamic = {**levels, "binarization": {"kind": "dynamic", "sentence": "Drawn."}}
    for protocol in (PROTOCOL, {**LEVELS, "num_levels": 256}, {**levels, "num_levels": 2}, dynamic):
        assert "caution" not in report(estimates, protocol, more)[1]
    assert "caution" not in report(estimates, levels, {})[1]


def test_a_likelihood_without_scales_is_not_mentioned(estimates):
    found, text = report(estimates, more={"likelihood": pv.likelihoods.Bernoulli(lambda z: z).scales()})
    assert "likelihood" not in found
    assert "likelihood:" not in text


# Conditional programs.


def classes(log_posterior, khat, num_samples=40):
    log_posterior, khat = (torch.tensor(v, dtype=torch.float64) for v in (log_posterior, khat))
    return Classification(torch.zeros_like(log_posterior), log_posterior, khat, num_samples)


LOG_POSTERIOR = [[-0.1, -2.0, -1.0, -3.0], [-3.0, -0.5, -0.4, -2.0], [-4.0, -1.0, -5.0, -0.2]]
KHAT = [[0.1, 0.9, 0.2, 0.3], [0.8, 0.2, 0.9, 0.8], [0.9, 0.1, 0.1, 0.8]]


def test_classification_is_that_of_a_hand_calculation():
    """Predictions 0, 1, 1, 2; true classes 0, 1, 0, 2: three of four are right."""
    found = classes(LOG_POSTERIOR, KHAT).summary(torch.tensor([0, 1, 0, 2]))
    assert found == {
        "accuracy": 0.75, "standard_error": pytest.approx((0.75 * 0.25 / 4 + 1 / 64) ** 0.5 / 1.25),
        "log_p_of_true_class": pytest.approx(-(0.1 + 0.5 + 1.0 + 0.2) / 4), "num_samples": 40, "num_data": 4,
        # k-hat of the true classes: 0.1, 0.2, 0.2, 0.8; of the others: 0.8, 0.9, 0.9, 0.1, 0.9, 0.1, 0.3, 0.8.
        "khat_above_0.7": {"true_class": 0.25, "other_classes": pytest.approx(5 / 8)},
    }  # fmt: skip


def test_the_text_says_how_often_the_classes_are_right_and_what_khat_says(estimates):
    found = classes(LOG_POSTERIOR, KHAT).summary(torch.tensor([0, 1, 0, 2]))
    _, text = report(estimates, more={"classification": found}, conditional=True)
    words = " ".join(text.split())
    assert "75.0% right (± 20.0%) of 4, K = 40." in words
    assert "above 0.7 for 25% of the estimates for the true class and 62% of the estimates for the other" in words


def test_a_class_without_probability_and_a_tail_too_short_to_fit_are_null(estimates):
    """p(y) = 0 of the true class is an infinite log; fewer than 25 draws have no k-hat."""
    impossible = [[0.0] * 4, [-math.inf] * 4, [-math.inf] * 4]
    found = classes(impossible, [[math.nan] * 4] * 3).summary(torch.tensor([0, 1, 0, 2]))
    assert found["log_p_of_true_class"] is None
    assert found["khat_above_0.7"] == {"true_class": None, "other_classes": None}
    kept, text = report(estimates, more={"classification": found}, conditional=True)
    assert kept["classification"] == found
    assert "No k-hat, which needs 25 draws or more" in " ".join(text.split())


def test_an_accuracy_of_all_is_known_no_better_than_the_data_are_many():
    found = classes([[0.0] * 84, [-9.0] * 84], [[0.0] * 84] * 2).summary(torch.zeros(84).long())
    assert found["accuracy"] == 1
    # Wilson's interval for z = 1 reaches from n / (n + 1) to 1.
    assert found["standard_error"] == pytest.approx(0.5 / 85)


def test_a_report_of_few_draws_says_that_khat_needs_more():
    (note,) = notes({"khat": {"above": None, "threshold": 0.7, "values": [None]}})
    assert "needs 25 draws or more" in note.text
    assert "n/a" not in note.text


@pytest.mark.parametrize("protocol", [PROTOCOL, LEVELS])
def test_what_is_given_labels_says_so_in_columns_that_still_stand(estimates, protocol):
    _, text = report(estimates, protocol, conditional=True)
    assert "log p(x|y), nats" in rows(text)
    assert ("-log p(level|y), bits/dim" in rows(text)) == (protocol is LEVELS)
    assert "log p(x|y): by importance sampling" in text
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()}) == 1


def test_measure_gives_the_labels_to_the_program():
    torch.manual_seed(0)
    encoder, decoder = (pv.networks.MLP(*shapes, (8,), y_dim=3) for shapes in (((4,), (4,)), ((2,), (4,))))
    vae = pv.VAE(
        pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(encoder, 2), pv.likelihoods.Bernoulli(decoder)
    )
    x, y = torch.ones(6, 4), torch.eye(3)[[0, 1, 2, 2, 1, 0]]
    found = measure(vae, x, y, elbo_samples=5, likelihood_samples=7, seed=1)
    assert torch.equal(found["log_likelihood"].value, pv.evaluation.iwae(vae, x, 7, y, seed=1).value)
    assert torch.equal(found["elbo"].value, pv.evaluation.elbo(vae, x, 5, y, seed=1).value)


# The plain autoencoder.


def autoencoder(y_dim=0):
    torch.manual_seed(0)
    encoder, decoder = (
        pv.networks.MLP(*shapes, (8,), y_dim=y_dim) for shapes in (((1, 2, 3), (2,)), ((2,), (1, 2, 3)))
    )
    return pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.Delta(encoder, 2), pv.likelihoods.Normal(decoder))


@pytest.mark.parametrize("y_dim", [0, 3])
def test_an_autoencoder_is_measured_by_its_reconstruction_and_rmse(y_dim):
    """Against a slow loop, datum by datum, over blocks of which the last is short."""
    vae, x = autoencoder(y_dim), torch.rand(7, 1, 2, 3)
    y = torch.eye(3)[torch.arange(7) % 3] if y_dim else None
    found = measure(vae, x, y, elbo_samples=4, likelihood_samples=9, seed=1, size=3)
    assert found.keys() == {"reconstruction", "rmse"}
    for i in range(7):
        label = () if y is None else (y[i : i + 1],)
        p = vae.likelihood(vae.posterior.encoder(x[i : i + 1], *label), *label)
        squares = [(a - b) ** 2 for a, b in zip(p.mean.flatten().tolist(), x[i].flatten().tolist(), strict=True)]
        assert found["rmse"].value[i].item() == pytest.approx(math.sqrt(sum(squares) / 6), rel=1e-5)
        assert found["reconstruction"].value[i].item() == pytest.approx(p.log_prob(x[i : i + 1]).item(), rel=1e-5)
    assert found["rmse"].monte_carlo_error == 0.0
    assert (found["rmse"].unit, found["reconstruction"].kind) == ("per number", {"z": "infinite"})


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("protocol", [PROTOCOL, LEVELS])
def test_the_report_of_an_autoencoder_claims_no_bound(discrete, protocol):
    estimates = measure(autoencoder(), torch.rand(7, 1, 2, 3), elbo_samples=4, likelihood_samples=9, seed=1)
    found, text = report(estimates, protocol, discrete=discrete, kl_weight=0.0, latent_dim=2)
    assert found["test"].keys() == {"reconstruction", "rmse"}
    assert found["autoencoder"] == {"numbers_in": 6, "numbers_in_code": 2}
    assert found["objective"]["loss"] == pytest.approx(-estimates["reconstruction"].mean)
    assert rows(text).keys() == {"reconstruction, nats", "RMSE, per number"}
    words = " ".join(text.split())
    assert "plain autoencoder, 6 numbers in, 2 in the code" in words
    assert "there is no ELBO and no log p(x)" in words
    assert "which is not a bound" not in words


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 4, 4), (4,), (8,)), 2),
        pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (1, 4, 4), (8,))),
    )


def test_measure_gives_the_four_estimates_with_their_signs(vae):
    x = torch.ones(6, 1, 4, 4)
    found = measure(vae, x, elbo_samples=50, likelihood_samples=70, seed=1)
    means = {name: e.mean for name, e in found.items()}
    assert means["elbo"] == pytest.approx(means["reconstruction"] - means["kl"])
    assert means["elbo"] < means["log_likelihood"] < 0 < means["kl"]
    assert [e.num_samples for e in found.values()] == [50, 50, 50, 70]
    assert found["kl"].kind == {"z": "analytic"}


def test_measure_is_reproducible_and_leaves_no_trace(vae):
    x = torch.ones(3, 1, 4, 4)
    before = torch.random.get_rng_state()
    flags = [module.training for module in vae.modules()]
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("mine", torch.ones(1))
        first, again = (measure(vae, x, elbo_samples=4, likelihood_samples=4, seed=1) for _ in range(2))
        assert list(store) == ["mine"]
    assert all(torch.equal(first[name].value, again[name].value) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in vae.modules()] == flags
