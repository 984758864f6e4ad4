"""Checks of members against the contract of their family: `check_prior`, `check_posterior`, `check_likelihood` ->
`Report`.

    python -m pyro_vae.model.checks my_module:StudentPrior --latent-dim 3

    contract.py    the contract, one short function per line
    agreement.py   a density compared with the draws of its sampler
    cubature.py    integrals over one to three numbers
    far_tails.py   densities far from their draws
    moderation.py  networks kept in range if they see large numbers
    __main__.py    the command line

Only copies of the member are called, never the member itself. The random state and Pyro's parameter store stay as they
were.
"""

import contextvars
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.model.checks import contract
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.posteriors import Posterior
from pyro_vae.model.priors import Prior, StandardNormal
from pyro_vae.model.program import check_member, check_tensor, undisturbed
from pyro_vae.model.squashed_logits import warn_of_squashed_logits
from pyro_vae.notebook_html import html_table
from pyro_vae.randomness import stream


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Args:
        name: the line of the contract.
        passed: None if the line does not apply.
        detail: one sentence, with the measured numbers.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """The outcome of a check; it prints as a table.

    Args:
        subject: the member's class.
        findings: in the order of the contract.

    Example:
        >>> findings = Finding("shapes", True, "batch (), event (2,)"), Finding("plates", None, "...")
        >>> report = Report("MyPrior", findings)
        >>> report.passed
        True
        >>> print(report)
        MyPrior: passed (1 passed, 0 failed, 1 not checked)
          ok    shapes  batch (), event (2,)
          -     plates  ...
    """

    subject: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """True if no line failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the lines that failed."""
        return tuple(finding.name for finding in self.findings if finding.passed is False)

    def raise_if_failed(self) -> None:
        """Raises ValueError, with the whole table, if a line failed."""
        if not self.passed:
            raise ValueError(str(self))

    def __str__(self) -> str:
        marks = {True: "ok", False: "FAIL", None: "-"}
        count = [sum(finding.passed is mark for finding in self.findings) for mark in marks]
        width = max(len(finding.name) for finding in self.findings)
        head = f"{self.subject}: {'passed' if self.passed else 'FAILED'} "
        head += "({} passed, {} failed, {} not checked)".format(*count)
        return "\n".join([head, *(f"  {marks[f.passed]:<4}  {f.name:<{width}}  {f.detail}" for f in self.findings)])

    def _repr_html_(self) -> str:
        words = {True: "ok", False: "FAILED", None: "not checked"}
        title = f"{self.subject}: {'passed' if self.passed else 'FAILED'}"
        rows = [{"": f.name, "passed": words[f.passed], "what was measured": f.detail} for f in self.findings]
        return html_table(rows, title)


def check_prior(prior: Prior, y: Tensor | None = None, *, seed: int = 0) -> Report:
    """Checks a prior p(z), or p(z|y), against its contract.

    Density and draws: up to three dependent numbers the density is integrated by quadrature, above that by bridge
    sampling. Each comparison is allowed 5 standard errors + 25 / N, with N = 1000 to 10,000 draws. False alarms: none
    in 1000 good distributions of 2 to 10 numbers, with the largest disagreement below 0.8 of what is allowed (a test
    marked slow). Power: up to D = 20 it finds a density that is off by a factor of 1.1, a sampler that is 1.1 times too
    wide, and a density that mixes whole vectors while the sampler mixes single dimensions, or the reverse (tests, for
    normals, Student-t and mixtures).

    A registered KL of a normal to it is compared with draws: a KL that was registered for a base class does not know a
    density that a subclass defines.

    It cannot find a mode that neither the draws nor the boxes of the quadrature reach, draws that depend on each other,
    or a wrong gradient through samples that are drawn by rejection (Gamma, Student-t). Above a few tens of dependent
    numbers it reports the integral as not measured.

    Args:
        prior: the member.
        y: labels (B, C), if it takes them.
        seed: of the draws.

    Raises:
        TypeError: it is not an instance of `Prior`. An error of the member itself is a failed line.

    Example:
        >>> from pyro_vae.model.priors import StandardNormal
        >>> check_prior(StandardNormal(2)).passed
        True
    """
    check_member("prior", prior, Prior)
    return _report(contract.Case(prior, (y,), torch.Size([prior.latent_dim]), seed), contract.PRIOR)


def check_posterior(
    posterior: Posterior, x: Tensor, y: Tensor | None = None, *, prior: Prior | None = None, seed: int = 0
) -> Report:
    """Checks a posterior q(z|x) against its contract; power and false alarms as for `check_prior`.

    The density is integrated for the first 2 data. A registered analytic KL is compared with the mean of log q(z|x) -
    log p(z) over 4000 draws for each datum.

    Args:
        posterior: the member.
        x: data (B, *x_shape), two or more.
        y: labels (B, C), if it takes them.
        prior: p(z) of that KL; by default a standard normal.
        seed: of the draws.

    Raises:
        TypeError: it is not an instance of `Posterior`, or x is not a tensor.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> from pyro_vae.model.posteriors import DiagonalNormal
        >>> _ = torch.manual_seed(0)
        >>> check_posterior(DiagonalNormal(MLP((8,), (4,)), latent_dim=2), torch.rand(5, 8)).failed
        ()
    """
    check_member("posterior", posterior, Posterior)
    check_tensor(x)
    D = posterior.latent_dim
    prior = StandardNormal(D) if prior is None else prior
    return _report(contract.Case(posterior, (x, y), torch.Size([D]), seed, prior=prior), contract.POSTERIOR)


def check_likelihood(
    likelihood: Likelihood, z: Tensor, x: Tensor | None = None, y: Tensor | None = None, *, seed: int = 0
) -> Report:
    """Checks a likelihood p(x|z) against its contract; power and false alarms as for `check_prior`.

    Density and mean are checked for the first 2 latents. If all logits lie in [0, 1], as from a decoder that ends in a
    Sigmoid, there is a warning but no failed line.

    Args:
        likelihood: the member.
        z: latents (B, D), two or more.
        x: data (B, *x_shape), for support and gradients; by default a draw of the member itself. NaN, a missing number,
            is replaced by a number inside the support.
        y: labels (B, C), if it takes them.
        seed: of the draws.

    Raises:
        TypeError: it is not an instance of `Likelihood`, or z is not a tensor.

    Example:
        >>> from pyro_vae.model.likelihoods import Bernoulli
        >>> from pyro_vae.model.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> check_likelihood(Bernoulli(MLP((2,), (1, 4, 4))), torch.randn(5, 2)).raise_if_failed()
    """
    check_member("likelihood", likelihood, Likelihood)
    check_tensor(z)
    event = None if x is None else x.shape[1:]
    x = likelihood.filled(x) if x is not None and x.isnan().any() else x
    case = contract.Case(likelihood, (z, y), event, seed, x=x)
    report = _report(case, contract.LIKELIHOOD)
    if not {"distribution", "shapes"} & {*report.failed}:
        wide = contract.Case(likelihood, (torch.stack([z, -z, 10 * z]), y), event, seed)
        with undisturbed(None), stream(seed, "checks", "logits"), torch.no_grad():
            p = wide.p()
        warn_of_squashed_logits(type(likelihood).__name__, p)
    return report


def _report(case: contract.Case, lines: dict[str, contract.Check]) -> Report:
    findings: list[Finding] = []
    for name, check in lines.items():
        if any(finding.name in contract.NEEDED_FIRST and finding.passed is False for finding in findings):
            findings.append(Finding(name, None, "not checked until the failures above are fixed"))
        else:
            # An empty context: the copies must not use what `once` remembers for a caller's evaluation.
            findings.append(Finding(name, *contextvars.Context().run(_outcome, case, name, check)))
    return Report(type(case.member).__name__, tuple(findings))


def _outcome(case: contract.Case, name: str, check: contract.Check) -> contract.Outcome:
    with undisturbed(None), stream(case.seed, "checks", name), torch.enable_grad(), dist.validation_enabled():
        try:
            return check(case)
        except Exception as error:  # any error of a user's member is a finding
            return False, f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}"
