"""Constants: buffers that follow from the arguments of a module and that a state dict leaves out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Constants(nn.Module):
    """Base class of modules with constants: buffers that move with `.to()` and are in no checkpoint.

    A module that is built on the device "meta", or moved by `to_empty`, holds whatever was in its new memory, and no
    state dict brings the constants back. So they are filled again whenever a module is moved. A constant that was set
    to other values keeps them.

    A member implements `constants`, and calls `register_constants` once its arguments are set.

    Example:
        >>> class Ones(Constants):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.size = size
        ...         self.register_constants()
        ...     def constants(self):
        ...         return {"one": torch.ones(self.size)}
        >>> Ones(2).to("meta").to_empty(device="cpu").one
        tensor([1., 1.])
    """

    def constants(self) -> dict[str, Tensor]:
        """Returns the values, by name."""
        raise NotImplementedError(f"{type(self).__name__} has no constants()")

    def register_constants(self) -> None:
        """Makes each constant a buffer."""
        for name, value in self.constants().items():
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        is_described = all(buffer.is_meta for buffer in self._buffers.values() if buffer is not None)
        with torch.device("meta" if is_described else "cpu"):  # of what holds no values only the shapes count
            kept = [name for name, value in self.constants().items() if _is(self._buffers.get(name), value)]
        super()._apply(fn, recurse)
        filled = [name for name in kept if not getattr(self, name).is_meta]
        with torch.device("cpu"):
            values = self.constants() if filled else {}
        for name in filled:
            getattr(self, name).copy_(values[name])
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Fills those still on "meta" when `load_state_dict(..., assign=True)` brings all other tensors."""
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        if not local_metadata.get("assign_to_params_buffers", False):
            return
        devices = (tensor.device for tensor in state_dict.values() if isinstance(tensor, Tensor))
        device = next(devices, torch.get_default_device())
        for name, value in self.constants().items():
            buffer = self._buffers.get(name)
            if buffer is not None and buffer.is_meta:
                self._buffers[name] = value.to(device)


def _is(buffer: Tensor | None, value: Tensor) -> bool:
    """Whether a buffer holds these values; of a buffer on "meta", which holds none, only the shape counts."""
    if buffer is None or buffer.shape != value.shape:
        return False
    return buffer.is_meta or torch.equal(buffer.cpu(), value.to(buffer.dtype))
