"""What a row of the tables is able to do.

To add a peer, subclass `Peer`, implement what it can, and list it in `benchmarks.rows`. Methods are called in a
process of the peer's own, and take and return what JSON can hold, or NumPy arrays for data and parameters.
"""

from benchmarks.problem import Array, Parameters, Size


class NotAvailableError(RuntimeError):
    """This row cannot be measured here; the table prints why in its place."""


class Peer:
    """Base class.

    Args:
        size: of the program.
        device: "cpu" or "cuda".
    """

    tolerance = 2e-5  # of the loss, relative: rounding in float32

    def __init__(self, size: Size, device: str = "cpu") -> None:
        self.size, self.device = size, device

    def set_parameters(self, parameters: Parameters) -> None:
        """Puts the canonical parameters into the program, where it has them."""
        raise NotImplementedError

    def parameters(self) -> Parameters:
        """The canonical parameters, as they are now."""
        raise NotImplementedError

    def feed(self, x: Array) -> None:
        """Data (N, 784). Steps take batches of `size.batch` of them in turn; log-likelihoods take all."""
        raise NotImplementedError

    def losses(self, num_steps: int) -> list[float]:
        """Takes steps; returns the loss of each, summed over the batch, at the parameters before it."""
        raise NotAvailableError("it does not train")

    def steps(self, num_steps: int) -> int:
        """Takes so many steps or a few more, as fast as it can; returns their number when they are done."""
        raise NotAvailableError("it does not train")

    def log_likelihood(self, num_samples: int) -> list[float]:
        """The importance-weighted bound of each datum, K = `num_samples`, in nats; or its mean alone, as a list."""
        raise NotAvailableError("it has no log-likelihood")
