"""Chains and fits cut short, for tests that look at whose numbers they are and not at how good they are."""

from functools import partial

from pyro_vae import evaluation
from pyro_vae.evaluation.annealing import hamiltonian
from pyro_vae.experiment.evaluate import block_tasks


def few_pilots(patch, transitions=20):
    """20 of them give steps of the right size in a fifth of the time, 1 gives any."""
    for name in ("PILOT_TRANSITIONS", "FIRST_TRANSITIONS"):
        patch.setattr(hamiltonian, name, transitions)


def quick_evaluations(patch):
    """The evaluation of a run with pilots that hardly tune, guides that hardly fit and escalation without patience."""
    few_pilots(patch, 1)
    patch.setattr(block_tasks, "elbos", partial(block_tasks.elbos, steps=2))
    patch.setattr(evaluation, "escalate", partial(evaluation.escalate, num_temperatures=1, num_chains=2))
