"""The number of threads that a training computes with, decided once, when it begins."""

from typing import Any

import torch

from pyro_vae.data import Splits
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.inference import SVI
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import preserved
from pyro_vae.threads import by_size, chosen, multiplications


def threads_for(svi: SVI, program: Any, data: Splits, config: Config) -> int:
    """Chooses the number of threads by the size of a step on a full batch, unless the caller has chosen one.

    Args:
        svi: the step.
        program: the program that it trains, which is left as it is.
        data: a batch of the training data is used.
        config: `batch_size`, `fewest_steps` and `conditional` are read.
    """

    def by_step() -> int:
        train, like = data.train, next(program.parameters())
        first = torch.arange(build.batch_size(config, len(train)))
        given = [train.fixed(first).to(like)]
        if config.conditional:
            given.append(train.one_hot(data.num_classes)[first].to(like))
        with undisturbed(program), preserved(like.device):
            return by_size(multiplications(lambda: svi.loss.loss(svi.model, svi.guide, *given)))

    return chosen(by_step)
