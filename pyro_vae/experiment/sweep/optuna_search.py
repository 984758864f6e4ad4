"""Settings chosen one after another by the results of earlier ones: Optuna's tree-structured Parzen estimator.

search.log keeps each choice and its result. Interrupted trials are resumed, with their runs.

Reference:
    Bergstra, Bardenet, Bengio & Kégl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011,
    https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization.pdf
"""

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pyro_vae.experiment.sweep import ranking
from pyro_vae.experiment.sweep.sweep_folder import LONGEST_NAME, Sweep
from pyro_vae.experiment.sweep.swept_settings import Range, Setting, Space, label


def search(sweep: Sweep, space: Space) -> list[Setting]:
    """Trains as many settings as the space has trials, and enough of them side by side that every process has a run.

    The draw of a trial depends on its number and on the results before it. It therefore depends on how many trials run
    side by side, but not on interruptions.

    Args:
        sweep: where they are trained.
        space: what may be chosen.

    Returns:
        All settings, each named by its trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "search.log")))
    study = optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)
    distributions = {
        **{name: CategoricalDistribution(tuple(texts)) for name, texts in space.grids.items()},
        **{name: _between(ends) for name, ends in space.ranges.items()},
    }
    side_by_side = max(1, sweep.at_once // space.seeds)
    while going := _going(study, distributions, side_by_side, space.search):
        settings = [_setting(space, trial) for trial in going]
        sweep.train(settings)
        for trial, setting in zip(going, settings, strict=True):
            _tell(study, trial, sweep, setting)
    return [_setting(space, trial) for trial in study.trials]


def _going(
    study: optuna.Study, distributions: dict[str, BaseDistribution], side_by_side: int, trials: int
) -> list[FrozenTrial]:
    """The trials without a result: interrupted ones, or else new ones, as many as run side by side."""
    asked, going = len(study.trials), study.get_trials(states=[TrialState.RUNNING])
    missing = -asked % side_by_side or (0 if going else side_by_side)  # a team may be cut while it is chosen
    for number in range(asked, min(trials, asked + missing)):
        study.sampler = optuna.samplers.TPESampler(seed=number)
        study.ask(distributions)
    return study.get_trials(states=[TrialState.RUNNING])


def _setting(space: Space, trial: FrozenTrial) -> Setting:
    setting = space.setting({name: str(value) for name, value in trial.params.items()})
    short = {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in setting.values.items()}
    name = f"trial={trial.number},{label(short)}"
    return setting._replace(name=name if len(name.encode()) <= LONGEST_NAME else f"trial={trial.number}")


def _tell(study: optuna.Study, trial: FrozenTrial, sweep: Sweep, setting: Setting) -> None:
    (group,) = ranking.ranked({setting.name: setting.values}, sweep.rows(setting))
    if group["elbo"]:
        study.tell(trial.number, group["elbo"]["mean"])
    else:
        study.tell(trial.number, state=TrialState.FAIL)


def _between(ends: Range) -> BaseDistribution:
    low, high = ends
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=ends.is_logarithmic)
    return FloatDistribution(low, high, log=ends.is_logarithmic)
