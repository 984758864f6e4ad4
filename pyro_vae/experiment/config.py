"""Config: everything that decides what a run computes. Each field is a flag; each default has its reason."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pyro_vae.errors import UsageError

_WIDTHS = ("hidden", "hidden2", "flow_hidden")
_MOST_LAYERS = 100
_MOST_SAMPLES = 1 << 17  # as many as one seed keeps apart, see `randomness.block_seed`


def flag(default: Any, reason: str, table: str = "", scope: str = "") -> Any:
    """A dataclass field that is a flag.

    Args:
        default: its value.
        reason: of the default, and what the flag does.
        table: of `build`, that has its names.
        scope: of a field of `Config`: "place" where it says where to compute, and not what; "report" where it changes
            the report on test data, and no training.
    """
    return field(default=default, metadata={"help": reason, "table": table, "scope": scope})


@dataclass(frozen=True)
class Config:
    """One experiment. `metadata["help"]` of a field says what it does and why its default is what it is.

    Fields whose names are also constructor arguments of a member (`latent_dim`, `scale`, `num_particles`, ...) reach
    that member; see `pyro_vae.experiment.build`.

    Raises:
        UsageError: a value out of range; names are checked where they are resolved, in `build`.

    Example:
        >>> Config(latent_dim=2).likelihood
        'bernoulli'
    """

    preset: str = flag(
        "",
        "settings of a published experiment, whose number the report then holds against the run's; other flags change "
        "them",
        table="PRESETS",
    )
    dataset: str = flag(
        "digits",
        "name of a data set, or path of an .npy/.npz file; digits comes with scikit-learn and needs no download",
        table="DATASETS",
    )
    data_dir: str = flag(
        "data", "folder of the data files, laid out as torchvision does, so that both can share it", scope="place"
    )
    download: bool = flag(
        False, "allow downloading into --data-dir; off, so that nothing is fetched by surprise", scope="place"
    )
    binarize: str = flag(
        "auto",
        "dynamic (drawn anew each epoch), static (drawn once), threshold or none; auto is dynamic for a likelihood of "
        "binary data and none for all others",
        table="BINARIZATIONS",
    )
    dequantize: bool = flag(
        False, "add uniform noise below one grey level, as a density on 8-bit data needs; the Jacobian is counted"
    )
    split: str = flag(
        "random", "random, or contiguous for films, whose neighbouring frames are near twins", table="SPLITS"
    )
    data_seed: int = flag(
        0, "seed of the split and of all fixed draws, apart from --seed so that seeds compare on the same test data"
    )

    prior: str = flag("standard", "p(z); the standard normal is the reference for all others", table="PRIORS")
    posterior: str = flag("diagonal", "q(z|x); a diagonal normal has an analytic KL", table="POSTERIORS")
    likelihood: str = flag("bernoulli", "p(x|z); Bernoulli is the density of binary pixels", table="LIKELIHOODS")
    conditional: bool = flag(
        False, "give one-hot labels to encoder and decoder, for p(x|y); off, since not all data have labels"
    )
    latent_dim: int = flag(20, "dimensions of z; more than the data use does no harm, unused ones collapse")
    layers: int = flag(1, "layers of latents: 2 puts z2 above z1, with p(z1|z2) normal; 1 is a VAE")
    latent_dim2: int = flag(10, "dimensions of z2, the upper of --layers 2; fewer than of z1, which it summarises")
    hidden2: tuple[int, ...] = flag((100,), "widths of the networks between z1 and z2, which are small")
    guide: str = flag(
        "top_down",
        "of --layers 2: top_down is q(z2|x) q(z1|x, z2), whose KL is analytic; bottom_up is q(z1|x) q(z2|z1), as in "
        "Burda et al. 2016",
        table="GUIDES",
    )
    network: str = flag("mlp", "kind of encoder and decoder; for 8 x 8 pixels an MLP is enough", table="NETWORKS")
    hidden: tuple[int, ...] = flag((256,), "widths or channels of the hidden layers; one layer is enough for digits")
    activation: str = flag("relu", "non-linearity of the hidden layers", table="ACTIVATIONS")
    precision: str = flag(
        "float32",
        "arithmetic inside encoder and decoder, never of a density; bfloat16 is faster for wide layers on processors "
        "with units for it, and the report says what it changes in the ELBO",
        table="PRECISIONS",
    )
    df: float = flag(5.0, "degrees of freedom of --prior student_t; heavy tails with a finite variance")
    num_components: int = flag(100, "components of a mixture or VampPrior; more cost time and rarely hurt")
    pseudo_inputs: str = flag(
        "data",
        "start of the VampPrior's pseudo-inputs; on random training data they are useful at once",
        table="PSEUDO_INPUTS",
    )
    flow: str = flag("spline", "kind of --prior flow; a spline with coupling is cheap both ways", table="FLOWS")
    flow_transforms: int = flag(3, "transforms of a flow, in prior or posterior, one after another")
    flow_hidden: tuple[int, ...] = flag((64, 64), "hidden widths of each transform's network; z is small, so are they")
    encoder_predicts: str = flag(
        "log_sigma", "what the encoder of --posterior diagonal predicts beside the mean", table="ENCODER_PREDICTS"
    )
    rank: int = flag(2, "columns of the covariance factor of --posterior low_rank and --likelihood low_rank_normal")
    scale: float = flag(
        0.1, "sigma of a normal likelihood, or where a learned one starts; at 1, on [0, 1], nearly all latents collapse"
    )
    learn_scale: str = flag(
        "no",
        "learn the likelihood's sigma (or rate): one number, one a pixel, or predicted from z; no, since on data that "
        "are not dequantised a learned sigma shrinks to its floor",
        table="LEARN_SCALES",
    )
    scale_floor: float = flag(1e-3, "smallest learned sigma, a quarter of a grey level; the report shows it")
    rate: float = flag(
        1000.0, "rate on the RMSE of --likelihood exponential_norm; the best is d / RMSE, thousands on images"
    )

    objective: str = flag(
        "mean_field_elbo", "what is maximised; the analytic KL has less noise than the sampled one", table="OBJECTIVES"
    )
    num_particles: int = flag(1, "draws of z per datum and step; for iwae the K of the bound")
    reconstruction_weight: float = flag(1.0, "weight on the reconstruction term; 1 is the ELBO, 0 is only KL")
    kl_weight: float = flag(1.0, "weight on the KL; 1 is the ELBO, 0 is only reconstruction")
    kl_warmup: int = flag(0, "epochs over which kl_weight rises linearly; the default networks do not need it")

    epochs: int = flag(
        600, "passes over the training data; digits has levelled off by then, in about a quarter of a minute"
    )
    batch_size: int = flag(128, "data per step; ten steps make an epoch of digits")
    optimizer: str = flag("adam", "Adam, fused into one kernel over all parameters", table="OPTIMIZERS")
    lr: float = flag(3e-3, "learning rate at the start; the largest that trains smoothly on digits")
    lr_schedule: str = flag(
        "cosine", "how --lr falls over the epochs; falling to 0 gains some tenths of a nat", table="SCHEDULES"
    )
    weight_decay: float = flag(0.0, "as in the optimiser; 0, since the best epoch on validation data is kept")
    max_grad_norm: float = flag(
        math.inf, "bound on the norm of the whole gradient, per datum; inf is none, and Adam alone rarely needs one"
    )
    patience: int = flag(
        0, "stop after so many epochs without a better validation ELBO; 0, since the falling --lr needs all epochs"
    )

    valid_samples: int = flag(4, "draws per datum for the validation ELBO; few, since all epochs share them")
    test_samples: int = flag(
        1000,
        "draws per datum for log p(x) in the report; with 1000 the bound is tight for networks of this size",
        scope="report",
    )
    elbo_samples: int = flag(
        100, "draws per datum for the test ELBO in the report; 100 make its Monte Carlo error small", scope="report"
    )
    test_data: int = flag(
        0, "report on a random subset of so many test data; 0 is all, the honest default", scope="report"
    )

    seed: int = flag(
        0, "seed of initialisation, order, binarisation and draws of z; fixed, so that a command repeats its numbers"
    )
    compile: str = flag(
        "auto",
        "run training steps as a graph: yes is compiled, no never; auto traced, and compiled from 40,000 steps on",
        table="COMPILE",
    )
    device: str = flag("cpu", "where to train, e.g. cpu or cuda; small networks are fastest on the CPU", scope="place")

    def __post_init__(self) -> None:
        self._check_types()
        for name in _WIDTHS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        positive = (
            "latent_dim", "latent_dim2", "num_components", "flow_transforms", "rank", "df", "scale", "scale_floor",
            "rate", "num_particles", "epochs", "batch_size", "lr", "max_grad_norm",
        )  # fmt: skip
        samples = ("valid_samples", "test_samples", "elbo_samples")
        weights = ("reconstruction_weight", "kl_weight", "kl_warmup", "weight_decay", "patience", "test_data")
        for names, least in ((positive, "above 0"), (samples, "1 or more"), (weights, "0 or above")):
            for name in names:
                value = getattr(self, name)
                if math.isnan(value) or value < 0 or (value == 0 and least != "0 or above"):
                    raise UsageError(f"{name} must be {least}; got {value}")
        for name in samples:
            if getattr(self, name) > _MOST_SAMPLES:
                raise UsageError(f"{name} must be at most {_MOST_SAMPLES}; got {getattr(self, name)}")
        for name in ("reconstruction_weight", "kl_weight", "weight_decay", "lr", "df", "scale", "scale_floor", "rate"):
            if math.isinf(getattr(self, name)):
                raise UsageError(f"{name} must be finite; got {getattr(self, name)}")
        for name in _WIDTHS:
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise UsageError(f"{name} must name one or more widths above 0; got {list(getattr(self, name))}")
        if self.layers not in (1, 2):
            raise UsageError(f"layers must be 1 or 2; got {self.layers}")
        if self.seed < 0 or self.data_seed < 0:
            raise UsageError(f"seeds must be 0 or above; got seed={self.seed}, data_seed={self.data_seed}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite bound becomes the string "inf"."""
        return {k: "inf" if v == math.inf else list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def scientific(self) -> dict[str, Any]:
        """`to_dict` without what says where to compute."""
        return {k: v for k, v in self.to_dict().items() if k not in self.within("place")}

    @classmethod
    def within(cls, scope: str) -> tuple[str, ...]:
        """The names of the fields of this scope, see `flag`.

        >>> Config.within("place")
        ('data_dir', 'download', 'device')
        """
        return tuple(f.name for f in fields(cls) if f.metadata["scope"] == scope)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`. Raises `UsageError` for an unknown field."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UsageError(f"unknown settings {unknown}: written by another version?")
        floats = {f.name for f in fields(cls) if f.type is float}
        plain: dict[str, Any] = {k: math.inf if v == "inf" and k in floats else v for k, v in values.items()}
        return cls(**plain)

    def _check_types(self) -> None:
        # A null in a --config file, or an edited config.json, comes through every parser.
        for name, kind in ((f.name, f.type) for f in fields(self) if isinstance(f.type, type)):
            value = getattr(self, name)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise UsageError(f"{name} must be of type {kind.__name__}; got {value!r}")
        for name in _WIDTHS:
            widths = getattr(self, name)
            if not isinstance(widths, list | tuple) or any(type(width) is not int for width in widths):
                raise UsageError(f"{name} must be a list of whole numbers; got {widths!r:.80}")
            if len(widths) > _MOST_LAYERS:
                raise UsageError(f"{name} has {len(widths)} layers; at most {_MOST_LAYERS} make sense")
        if self.flow_transforms > _MOST_LAYERS:
            raise UsageError(f"flow_transforms is {self.flow_transforms}; at most {_MOST_LAYERS} make sense")
