"""The words that options take, each list in one place.

Members and steps name these types in their signatures; the command line reads the words from them, without torch. To
offer another word, add it here, and add what it does to the member.

    >>> words(Guide)
    ('top_down', 'bottom_up')
"""

from typing import Any, Literal, get_args

from pyro_vae.errors import unknown

Binarize = Literal["dynamic", "static", "threshold", "none"]
SplitKind = Literal["random", "contiguous"]
Guide = Literal["top_down", "bottom_up"]
Precision = Literal["float32", "bfloat16"]
PseudoInputs = Literal["data", "random"]
Flow = Literal["spline", "autoregressive"]
EncoderPredicts = Literal["log_sigma", "log_variance"]
LearnScale = Literal["no", "one", "pixel", "predicted"]
PathKind = Literal["straight", "spherical", "base"]
LearningRates = Literal["constant", "cosine", "step", "cooldown"]
Init = Literal["torch", "glorot", "he"]
Channels = Literal["auto", "first", "last"]
Colour = Literal["as_stored", "grey", "rgb"]
Standardize = Literal["auto", "yes", "no"]
Scaling = Literal["as_stored", "standardized", "counts"]
Missing = Literal["no", "nan"]
Scored = Literal["train", "valid", "test"]
Picture = Literal["samples", "reconstructions", "columns", "interpolation", "traversal", "latent_cloud", "latent_grid"]
Threads = Literal["auto"] | int
Gradient = Literal["total", "sticking_the_landing", "doubly_reparametrised"]


def words(choice: Any) -> tuple[str, ...]:
    """The words of one of these types."""
    return get_args(choice)


def check_word(name: str, word: str, choice: Any) -> None:
    """Checks the value of an argument against the words that it takes.

    Raises:
        UsageError: it is not one of them; the message names the nearest one.

    Example:
        >>> check_word("guide", "bottomup", Guide)
        Traceback (most recent call last):
        ...
        pyro_vae.errors.UsageError: unknown guide 'bottomup'; did you mean 'bottom_up'? (top_down, bottom_up)
    """
    if word not in words(choice):
        raise unknown(name, word, words(choice))
