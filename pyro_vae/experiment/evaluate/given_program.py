"""A program and data that a caller passes, without a run: they are all that is known."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data import Form, Split, Splits
from pyro_vae.data.protocol import without_scaling
from pyro_vae.errors import UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.seen_program import arguments, check_program, densities, look_at
from pyro_vae.experiment.protocol_card import compared, measured_by
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.run.program_and_data import Facts, ProgramAndData
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.given_data import check_one_hot
from pyro_vae.model.program import check_tensor
from pyro_vae.model.scaling import Scaling

_NEEDED = ("epoch", "loss", "valid_elbo", "valid_standard_error", "valid_reconstruction", "best")  # of a record


@dataclass(frozen=True, eq=False)
class AsGiven(Split):
    """A split of x as a tensor holds them: nothing is drawn, and the type stays."""

    def fixed(self, index: Tensor | None = None) -> Tensor:
        """Returns x (N, *x_shape), or of these positions (M,)."""
        return self.levels if index is None else self.levels[index]

    def x(self, levels: Tensor, noise: Tensor | None) -> Tensor:
        """Returns x as they are."""
        return levels


class GivenProgram(ProgramAndData):
    """A program and data of the caller's own.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        data: `Splits`, or only test data (N, *x_shape).
        y: one-hot labels (N, C) of test data that are a tensor.
        history: the records of its epochs, as `fit` yields them, or dictionaries of theirs.
        conditional: whether the program takes labels; None for what it needs.
        name: what it is called.
        seed: of all draws.

    Raises:
        UsageError: there is no model, no guide, or no test data; or labels or records are of another form.
        DataError: data outside the support, or a row of y without a single 1 among zeros.
        ValueError: model and guide do not fit each other.
    """

    def __init__(
        self,
        vae: Any,
        data: Splits | Tensor,
        y: Tensor | None = None,
        *,
        history: Sequence[Any] = (),
        conditional: bool | None = None,
        name: str = "",
        seed: int = 0,
    ) -> None:
        check_program(vae)
        self.vae, self._records = vae, [_record(record) for record in history]
        self._splits = data if isinstance(data, Splits) else None
        self._test = data.test if isinstance(data, Splits) else _split_of(data, y)
        self._num_classes = data.num_classes if isinstance(data, Splits) else 0 if y is None else y.shape[1]
        if isinstance(data, Splits) and y is not None:
            raise UsageError("the splits hold their labels: leave `y` out")
        if not len(self._test):
            raise UsageError("there are no test data to evaluate on")
        self._card = (
            _card_of(data, self._test, self._num_classes) if isinstance(data, Tensor) else _true_card(vae, data)
        )
        self.name = name or f"{type(vae).__name__} on {self._card['name']}"
        self._dtype = _dtype(vae) if isinstance(data, Splits) else None
        self._config = Config(seed=seed, data_seed=self._test.data_seed, device=str(_device(vae, self._test.device)))
        self._facts = self._look(True if y is not None else conditional)

    def _look(self, conditional: bool | None) -> Facts:
        """Runs the program once, and tells what is seen."""
        labelled = self._reading(conditional=self._test.labels is not None and conditional is not False)
        x, y = DataReader(labelled, self._test, self._num_classes, 0, self._dtype).at(
            torch.arange(min(2, len(self._test)))
        )
        if conditional and y is None:
            raise UsageError("`conditional=True` needs labels, and these data have none")
        self.seen, given = look_at(self.vae, x, y, conditional)
        self._config = self._reading(conditional=given)
        self.silent = self.seen.silent
        support, form = self.seen.support, self._form()
        names = self._splits.classes if self._splits is not None else ()
        trained = self._splits.trained_classes if self._splits is not None else tuple(range(self._num_classes))
        return Facts(
            seed=self._config.seed,
            data_seed=self._config.data_seed,
            conditional=given,
            missing=bool(getattr(self.vae, "missing", False)),
            device=self._config.device,
            latent_dim=sum(self.seen.latents.values()),
            support=support,
            form=form,
            classes=tuple(names or map(str, range(self._num_classes))),
            trained_classes=trained,
            shown_range=build.range_under(support, form, self._card),
            settings={"conditional": given, "latent_dim": sum(self.seen.latents.values())},
        )

    def _reading(self, *, conditional: bool) -> Config:
        old = self._config
        return Config(seed=old.seed, data_seed=old.data_seed, device=old.device, conditional=conditional)

    def _form(self) -> Form:
        if self._splits is not None:
            return self._splits.form
        return Form(tuple(self._test.levels.shape[1:]), None, self._num_classes)

    @property
    def facts(self) -> Facts:
        """The facts about it."""
        return self._facts

    @property
    def data(self) -> Splits | None:
        """The splits; None if there are only test data."""
        return self._splits

    @property
    def card(self) -> Mapping[str, Any]:
        """The protocol of the data."""
        return self._card

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """The records of the epochs, as far as they were given."""
        return self._records

    @property
    def progress(self) -> dict[str, Any]:
        """The number of epochs in the records, and the best one; empty without records."""
        best = [record for record in self._records if record["best"]]
        if not best:
            return {}
        epochs, last = self._records[-1]["epoch"], best[-1]
        return {"epochs": epochs, "best_epoch": last["epoch"], "valid_elbo": last["valid_elbo"]}

    def reader(self, part: str, num_data: int | None = None) -> DataReader:
        """Gives a reader of the data, in the type of the program where they come from splits."""
        split = self._test if part == "test" or self._splits is None else self._splits.train
        return DataReader(self._config, split, self._num_classes, num_data, self._dtype)

    def graphs(self, num_draws: int, kept: dict[Any, Any] | None = None) -> AbstractContextManager[None]:
        """Returns the context for estimates with this many draws: compiled graphs from some millions on."""
        return build.estimating(self._config, num_draws, kept)

    def tested(self, num_data: int) -> dict[str, str]:
        """Lists what must be the same where numbers on this many test data are compared, label -> text."""
        facts, card = self.facts, self._card
        measured = {
            "is_autoencoder": self.is_autoencoder,
            "is_discrete": facts.is_discrete,
            "missing": facts.missing,
            "conditional": facts.conditional,
        }
        if self._splits is not None:
            rows = compared(dict(card), num_data, facts.data_seed, **measured)
            return {label: text for label, text in rows.items() if text}
        size, shape = len(self._test), " x ".join(map(str, card["shape"])) or "a number"
        used = f"{num_data} of {size}, drawn at random" if 0 < num_data < size else f"all {size}"
        about = {"data set": card["name"], "contents": card["sha256"], "shape": shape, "test data": used}
        return about | measured_by(**measured)

    def described(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """Names the program and its parts: [what it is, class, arguments as far as they are known]."""
        return {"name": self.name, "program": type(self.vae).__name__, "parts": list(map(list, self._parts()))}

    def seeds(self, draws: int) -> str:
        """Returns the seed that was asked for; nothing is known of a training here."""
        return f"{self._config.seed}, of all draws"

    def _parts(self) -> Iterator[tuple[str, str, str]]:
        if isinstance(self.vae, Autoencoder):
            for member, density in densities(self.vae, conditional=self.facts.conditional).items():
                yield density, type(getattr(self.vae, member)).__name__, arguments(getattr(self.vae, member))
            return
        yield from ((f"model, {site}", kind, "") for site, kind in self.seen.model.items())
        yield from ((f"guide, {site}", kind, "") for site, kind in self.seen.guide.items())
        children = self.vae.named_children() if isinstance(self.vae, nn.Module) else ()
        yield from ((member, type(module).__name__, arguments(module)) for member, module in children)


def _split_of(x: Tensor, y: Tensor | None) -> Split:
    if not isinstance(x, Tensor):
        raise UsageError(
            f"`data` is Splits, or a tensor of test data; got {type(x).__name__}: pv.data.from_arrays(x) makes splits, "
            "torch.as_tensor(x) only test data"
        )
    check_tensor(x)
    if y is None:
        return AsGiven("test", x, None, None, "none", 0)
    if not isinstance(y, Tensor) or y.shape[:-1] != x.shape[:1]:
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise UsageError(
            f"`y` are one-hot labels ({len(x)}, C) of {len(x)} data; got {shape}: "
            "torch.nn.functional.one_hot(labels, C).float()"
        )
    check_one_hot(y)
    return AsGiven("test", x, (y == 1).int().argmax(1).cpu(), None, "none", 0)


def _card_of(x: Tensor, split: Split, num_classes: int) -> dict[str, Any]:
    finite = x[x.isfinite()] if x.is_floating_point() else x
    ends = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 1.0)
    return {
        "name": "a tensor",
        "sha256": files.sha256(_bytes(x) + (b"" if split.labels is None else _bytes(split.labels))),
        "shape": list(x.shape[1:]),
        "num_levels": None,
        "num_classes": num_classes,
        "range": (0.0, 1.0) if ends[0] >= 0 and ends[1] <= 1 else ends,
        "dequantized": None,
        "notes": [f"x: {len(split):,} test data as a tensor of {str(x.dtype).removeprefix('torch.')}, as they are."],
    }


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().numpy().tobytes()


def _true_card(vae: Any, data: Splits) -> Mapping[str, Any]:
    """The protocol of the data, without what it says of networks that scale x, where these do not."""
    modules = vae.modules() if isinstance(vae, nn.Module) else ()
    return data.protocol if any(isinstance(module, Scaling) for module in modules) else without_scaling(data.protocol)


def _tensors(vae: Any) -> Iterator[Tensor]:
    if isinstance(vae, nn.Module):
        yield from vae.parameters()
        yield from vae.buffers()


def _device(vae: Any, otherwise: torch.device) -> torch.device:
    return next((tensor.device for tensor in _tensors(vae)), otherwise)


def _dtype(vae: Any) -> torch.dtype | None:
    return next((tensor.dtype for tensor in _tensors(vae) if tensor.is_floating_point()), None)


def _record(record: Any) -> dict[str, Any]:
    known = record if isinstance(record, Mapping) else record.to_dict() if hasattr(record, "to_dict") else {}
    if lacking := [name for name in _NEEDED if name not in known]:
        raise UsageError(
            f"`history` holds the records of epochs, as fit yields them; {type(record).__name__} lacks "
            f"{', '.join(lacking)}"
        )
    return dict(known)
