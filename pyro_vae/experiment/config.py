"""Config: everything that decides what a run computes. Each field is a flag; each default has its reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pyro_vae.errors import UsageError
from pyro_vae.experiment.checked_fields import MOST_LAYERS, check, flag, settings_of
from pyro_vae.experiment.own_members import FAMILIES, OwnMembers, canonical
from pyro_vae.option_words import (
    Binarize,
    Channels,
    Colour,
    EncoderPredicts,
    Flow,
    Gradient,
    Guide,
    Init,
    LearningRates,
    LearnScale,
    Missing,
    Precision,
    PseudoInputs,
    SplitKind,
    Standardize,
    Threads,
)
from pyro_vae.randomness import MOST_SAMPLES

# How flags are listed: the groups, each by its first field in the order of `Config`, and the flags that come before all
# others.
GROUPS = {
    "preset": "data",
    "prior": "model",
    "objective": "training",
    "valid_samples": "report",
    "seed": "machine",  # with every setting that says where to compute
}
MOST_USED = (
    "dataset", "label", "prior", "posterior", "likelihood", "latent_dim", "network", "hidden", "epochs", "lr", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The settings of one experiment. `metadata["help"]` of a field says what it does, and the reason of its default.

    Fields whose names are also constructor arguments of a member (`latent_dim`, `scale`, `num_particles`, ...) reach
    that member; see `pyro_vae.experiment.build`. `own` is not a setting: it carries the classes of members such as
    `prior="mine.py:Mine"`, and is never written down.

    Raises:
        UsageError: a value is out of range. Names of a table are checked where they are resolved, in `build`.

    Example:
        >>> Config(latent_dim=2).likelihood
        'bernoulli'
    """

    preset: str = flag(
        "",
        "settings of a published experiment; the report compares its number with the run's, and other flags override "
        "the settings; a preset that begins with the weights of a run of another one says so",
        table="PRESETS",
    )
    dataset: str = flag(
        "digits",
        "name of a data set, or path of an .npy, .npz or .csv file or of a folder of images; digits comes with "
        "scikit-learn and needs no download",
        table="DATASETS",
    )
    data_dir: str = flag(
        "data", "folder of the data files; it has torchvision's layout, so that both can share it", scope="place"
    )
    download: bool = flag(
        False,
        "allow downloading into `data_dir`; off by default, so that nothing is fetched by surprise",
        scope="place",
    )
    binarize: Literal["auto", Binarize] = flag(
        "auto",
        "dynamic (drawn again each epoch), static (drawn once), threshold or none; auto is dynamic for a likelihood of "
        "binary data and none for all others",
    )
    dequantize: bool = flag(
        False,
        "add uniform noise of less than one grey level, which a density on 8-bit data needs; the Jacobian is counted",
    )
    label: str = flag(
        "", "column of a table, or array of an archive, that holds the classes; by default it is found by its name"
    )
    id: str = flag("", "column of a table that names its rows; x does not use it")
    group: str = flag(
        "",
        "column whose equal values stay in one split, so that no patient, film or speaker is both trained and tested "
        "on",
    )
    columns: tuple[str, ...] = flag((), "columns of a table that make up x; by default all columns of numbers")
    channels: Channels = flag(
        "auto",
        "where images have their channels: first is (N, C, H, W), last is (N, H, W, C); auto is first, and refuses "
        "data that look like last",
        before="first",
    )
    levels: int = flag(
        0,
        "number of levels of whole numbers 0, 1, ...; 0 means 256 for bytes, and otherwise the largest level + 1 if "
        "that is 128 or less",
        least=0,
        most=1 << 16,
    )
    image_size: int = flag(
        0,
        "height and width to which the images of a folder are resized; 0 leaves them as they are, since a size is "
        "your choice",
        least=0,
    )
    colour: Colour = flag(
        "as_stored", "convert the images of a folder to grey or rgb; as_stored leaves them as they are"
    )
    reader: int = flag(
        2,
        "version of the reader for your own files; 1 reads them as the first version of the package did, for its runs",
        least=1,
        most=2,
        before=1,
    )
    standardize: Standardize = flag(
        "auto",
        "show the networks each column of a table in units of its spread, and counts through log(1 + x); x and log "
        "p(x) stay in the data's own units; auto is yes for counts, and for floats that are not images under normal, "
        "laplace and low_rank_normal; no shows the data as they are stored",
        before="no",
    )
    missing: Missing = flag(
        "no",
        "what NaN in the data means: nan makes it a missing number, and log p that of the observed numbers, which is "
        "right if gaps depend only on observed values; no makes it an error, since it could be a mistake",
    )
    split: SplitKind = flag(
        "random", "how the data are split; contiguous is for films, whose neighbouring frames are near twins"
    )
    data_seed: int = flag(
        0,
        "seed of the split and of all fixed draws; it is separate from `seed`, so that seeds are compared on the "
        "same test data",
        least=0,
    )

    valid_data: int = flag(
        0,
        "number of validation data, cut from the training data; 0 means the share that belongs to the data set, which "
        "is a sixth of MNIST's 60,000",
        least=0,
    )

    prior: str = flag("standard", "p(z); the standard normal is the reference for all others", table="PRIORS")
    prior_args: str = flag(
        "", "arguments of a prior of your own, as a JSON object; sizes and other facts are filled in"
    )
    posterior: str = flag("diagonal", "q(z|x); a diagonal normal has an analytic KL", table="POSTERIORS")
    posterior_args: str = flag("", "arguments of a posterior of your own, as a JSON object")
    likelihood: str = flag("bernoulli", "p(x|z); Bernoulli is the density of binary pixels", table="LIKELIHOODS")
    likelihood_args: str = flag("", "arguments of a likelihood of your own, as a JSON object")
    conditional: bool = flag(
        False, "give one-hot labels to encoder and decoder, for p(x|y); off by default, since not all data have labels"
    )
    latent_dim: int = flag(
        20, "dimensions of z; more than the data need do no harm, since unused ones collapse", above=0
    )
    layers: int = flag(1, "layers of latents: 1 is a VAE, 2 puts z2 above z1, with p(z1|z2) normal", least=1, most=2)
    latent_dim2: int = flag(
        10, "dimensions of z2, the upper of `layers=2`; fewer than of z1, which it summarises", above=0
    )
    hidden2: tuple[int, ...] = flag(
        (100,), "widths of the networks between z1 and z2; z1 and z2 are small, so these are too", above=0
    )
    guide: Guide = flag(
        "top_down",
        "guide of `layers=2`: top_down is q(z2|x) q(z1|x, z2), whose KL is analytic; bottom_up is q(z1|x) q(z2|z1), "
        "as in "
        "Burda et al. 2016",
    )
    network: str = flag("mlp", "kind of encoder and decoder; for 8 x 8 pixels an MLP is enough", table="NETWORKS")
    network_args: str = flag(
        "", "arguments of networks of your own, as a JSON object; each network takes those that it knows"
    )
    hidden: tuple[int, ...] = flag(
        (256,), "widths or channels of the hidden layers; one layer is enough for digits", above=0
    )
    activation: str = flag("relu", "non-linearity of the hidden layers", table="ACTIVATIONS")
    init: Init = flag(
        "torch",
        "first weights of encoder and decoder: glorot and he by the rules of Glorot & Bengio 2010 and He et al. 2015, "
        "with biases of 0; torch leaves each layer as torch makes it, as in most programs",
    )
    precision: Precision = flag(
        "float32",
        "arithmetic inside encoder and decoder, never that of a density; bfloat16 is faster for wide layers on "
        "processors that support it, and the report shows how it changes the ELBO",
    )
    df: float = flag(
        5.0, "degrees of freedom of `prior='student_t'`; 5 gives heavy tails and a finite variance", above=0
    )
    num_components: int = flag(100, "components of a mixture or VampPrior; more take longer and rarely hurt", above=0)
    pseudo_inputs: PseudoInputs = flag(
        "data", "start of the VampPrior's pseudo-inputs; random training data are useful from the first step"
    )
    flow: Flow = flag("spline", "kind of `prior='flow'`; a spline with coupling is cheap in both directions")
    flow_transforms: int = flag(3, "number of transforms of a flow, in prior or posterior", above=0, most=MOST_LAYERS)
    flow_hidden: tuple[int, ...] = flag(
        (64, 64), "hidden widths of each transform's network; z is small, so these are too", above=0
    )
    encoder_predicts: EncoderPredicts = flag(
        "log_sigma", "what the encoder of `posterior='diagonal'` predicts in addition to the mean"
    )
    rank: int = flag(
        2,
        "columns of the covariance factor of `posterior='low_rank'` and `likelihood='low_rank_normal'`",
        above=0,
    )
    scale: float = flag(
        0.0,
        "sigma of a normal likelihood, or the start of a learned one, in units of each column's spread where data "
        "are standardised; 0 means 1 there and 0.1 elsewhere, since nearly all latents collapse at 1 for data in [0, "
        "1]",
        least=0,
    )
    learn_scale: Literal["auto", LearnScale] = flag(
        "auto",
        "learn the likelihood's sigma (or rate): one number, one per pixel (or column), or predicted from z; auto is "
        "pixel where data are standardised and no elsewhere, since a learned sigma shrinks to its floor on data that "
        "are not dequantised",
    )
    scale_floor: float = flag(
        1e-3,
        "smallest learned sigma; 0.001 is a quarter of a grey level, or a thousandth of a column's spread where data "
        "are standardised; the report shows it",
        above=0,
    )
    rate: float = flag(
        1000.0,
        "rate on the RMSE of `likelihood='exponential_norm'`; the best rate is d / RMSE, which is thousands on images",
        above=0,
    )

    objective: str = flag(
        "mean_field_elbo",
        "what is maximised; the analytic KL of mean_field_elbo has less noise than a sampled one",
        table="OBJECTIVES",
    )
    num_particles: int = flag(1, "draws of z per datum and step; for iwae this is the K of the bound", above=0)
    gradient: Gradient = flag(
        "total",
        "gradient of a sampled objective: sticking_the_landing (for trace_elbo) and doubly_reparametrised (for iwae) "
        "have the same mean, and less noise for the encoder where q(z|x) is near the posterior; total is Pyro's own, "
        "for any q",
    )
    reconstruction_weight: float = flag(
        1.0, "weight on the reconstruction term; 1 is the ELBO, 0 leaves only the KL", least=0
    )
    kl_weight: float = flag(1.0, "weight on the KL; 1 is the ELBO, 0 leaves only the reconstruction", least=0)
    kl_warmup: int = flag(
        0, "epochs over which kl_weight rises linearly; mlp rarely needs it, conv often does", least=0
    )

    epochs: int = flag(
        600,
        "passes over the training data; digits levels off within 600, which take less than a minute",
        above=0,
    )
    batch_size: int = flag(128, "data per step; at 128, an epoch of digits has ten steps", above=0)
    fewest_steps: int = flag(
        8,
        "fewest steps in an epoch; `batch_size` is lowered on small data sets to reach it, since an epoch of one "
        "step is a poor unit of training",
        above=0,
        before=1,
    )
    optimizer: str = flag("adam", "optimiser; Adam is fused into one kernel over all parameters", table="OPTIMIZERS")
    lr: float = flag(3e-3, "learning rate at the start; 0.003 is the largest that trains smoothly on digits", above=0)
    lr_schedule: LearningRates = flag(
        "cosine", "how `lr` falls over the epochs; falling to 0 gains some tenths of a nat"
    )
    average: float = flag(
        0.0,
        "average the parameters: two thirds of the weight lie on this last share of the steps, as 0.1; the average is "
        "what is validated, kept and tested; 0 averages nothing, since a falling `lr` does nearly the same",
        least=0,
        most=1,
    )
    weight_decay: float = flag(
        0.0, "weight decay of the optimiser; 0 is enough, since the best epoch on validation data is kept", least=0
    )
    max_grad_norm: float = flag(
        math.inf,
        "bound on the norm of the whole gradient, per datum; inf means no bound, and Adam rarely needs one",
        above=0,
        finite=False,
    )
    patience: int = flag(
        0,
        "stop after this many epochs without a better validation ELBO; 0 never does, since the falling `lr` needs "
        "all epochs",
        least=0,
    )

    valid_samples: int = flag(
        4,
        "draws per datum for the validation ELBO; few are enough, since all epochs share them",
        least=1,
        most=MOST_SAMPLES,
    )
    test_samples: int = flag(
        1000,
        "draws per datum for log p(x) in the report; with 1000 the bound is tight for networks of this size",
        scope="report",
        least=1,
        most=MOST_SAMPLES,
    )
    elbo_samples: int = flag(
        100,
        "draws per datum for the test ELBO in the report; 100 make its Monte Carlo error small",
        scope="report",
        least=1,
        most=MOST_SAMPLES,
    )
    test_data: int = flag(
        0,
        "report on a random subset of this many test data; 0 means all, the honest default",
        scope="report",
        least=0,
    )

    seed: int = flag(
        0,
        "seed of initialisation, order, binarisation and draws of z; fixed, so that a command repeats its numbers",
        least=0,
    )
    compile: Literal["auto", "yes", "no"] = flag(
        "auto",
        "run training steps as a graph: yes compiles it, no uses none, auto traces it and compiles it from 40,000 "
        "steps on",
    )
    device: str = flag("cpu", "where to train, e.g. cpu or cuda; small networks are fastest on the CPU", scope="place")
    threads: Threads = flag(
        "auto",
        "threads of torch; auto is 1 for steps of up to 100 million multiplications, which more threads hardly speed "
        "up and other programs slow down, and otherwise one for each core; OMP_NUM_THREADS goes before auto, and a run "
        "keeps its number",
        scope="place",
        least=1,
    )

    own: OwnMembers = field(default=OwnMembers(), compare=False, repr=False)

    def __post_init__(self) -> None:
        check(self)
        for setting in settings_of(Config):
            if isinstance(setting.default, tuple):
                object.__setattr__(self, setting.name, tuple(getattr(self, setting.name)))
        for option in (f"{family}_args" for family in FAMILIES):
            object.__setattr__(self, option, canonical(option, getattr(self, option)))
        if self.kl_weight == self.reconstruction_weight == 0.0:
            raise UsageError("`kl_weight` and `reconstruction_weight` are both 0: there is nothing to train")

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain values for JSON; an infinite bound becomes the string "inf"."""
        values = {setting.name: getattr(self, setting.name) for setting in settings_of(Config)}
        return {k: "inf" if v == math.inf else list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def scientific(self) -> dict[str, Any]:
        """Converts to plain values like `to_dict`, without those that say where to compute."""
        return {k: v for k, v in self.to_dict().items() if k not in self.within("place")}

    def portable(self) -> "Config":
        """Returns the settings without what holds on one machine alone: where to compute, and the folder of the data.

        Example:
            >>> Config(dataset="/home/me/data.npy", device="cuda").portable() == Config(dataset="data.npy")
            True
        """
        here = {name: getattr(Config, name) for name in self.within("place")}
        return replace(self, dataset=Path(self.dataset).name, **here)

    @classmethod
    def within(cls, scope: str) -> tuple[str, ...]:
        """Lists the names of the fields of this scope, see `flag`.

        Example:
            >>> Config.within("place")
            ('data_dir', 'download', 'device', 'threads')
        """
        return tuple(f.name for f in settings_of(cls) if f.metadata["scope"] == scope)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Makes the config of the values in a saved file, as `to_dict` wrote them, perhaps in an older version.

        A setting that the file lacks, being newer than it, means what was done before there was one.

        Raises:
            UsageError: a setting is unknown, or a value out of range.
        """
        known = {f.name for f in settings_of(cls)}
        if unknown := sorted(set(values) - known):
            raise UsageError(f"unknown settings {unknown}: written by another version?")
        floats = {f.name for f in settings_of(cls) if f.type is float}
        older = {f.name: f.metadata["before"] for f in settings_of(cls)}
        plain: dict[str, Any] = {k: math.inf if v == "inf" and k in floats else v for k, v in values.items()}
        try:
            return cls(**{**older, **plain})
        except UsageError as error:
            raise UsageError(str(error).replace("`", "")) from None  # in a file it is a name, and no argument
