"""The protocol card: what must be the same where two numbers are compared.

A report shows these rows, and runs that differ in one of them are not compared.
"""

from collections.abc import Mapping
from typing import Any

from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config


def tested(config: Config, protocol: dict[str, Any], num_data: int) -> dict[str, str]:
    """Makes the protocol card of a run: what it was tested on, and what its numbers are.

    Args:
        config: the settings of the run.
        protocol: the data's own card, as in run.json.
        num_data: how many test data are used; 0, or as many as there are, is all of them.

    Returns:
        Label -> text. Numbers are comparable where all texts are equal.
    """
    return compared(
        protocol,
        num_data,
        config.data_seed,
        is_autoencoder=config.posterior == "delta",
        is_discrete=build.is_discrete(config),
        missing=config.missing == "nan",
        conditional=config.conditional,
    )


def compared(protocol: Mapping[str, Any], num_data: int, data_seed: int, **measured: bool) -> dict[str, str]:
    """Makes the protocol card of any program, see `tested`.

    Args:
        protocol: the data's own card.
        num_data: how many test data are used; 0, or as many as there are, is all of them.
        data_seed: of a choice among them.
        measured: `is_autoencoder`, `is_discrete`, `missing` and `conditional`, which say what the numbers are.
    """
    split, drawn, noise = protocol["split"], protocol["binarization"], protocol["dequantized"]
    size = split["sizes"]["test"]
    is_subset = 0 < num_data < size
    is_seeded = is_subset or any(choice is not None and choice["seed"] is not None for choice in (split, drawn, noise))
    sizes = " / ".join(str(split["sizes"][name]) for name in ("train", "valid", "test"))
    return {
        "data set": protocol["name"],
        "files": ", ".join(f"{name} {digest}" for name, digest in sorted(protocol["files"].items())),
        "contents": protocol["sha256"],
        "shape": " x ".join(map(str, protocol["shape"])),
        "levels": "none, floats" if protocol["num_levels"] is None else str(protocol["num_levels"]),
        "split": f"{split['kind']} {sizes}, test {split['index_sha256']['test']}",
        "data seed": str(data_seed) if is_seeded else "none, nothing is drawn",
        "binarisation": drawn["kind"],
        "dequantisation": f"within {noise['num_levels']} levels" if noise else "none",
        "test data": f"{num_data} of {size}, drawn at random" if is_subset else f"all {size}",
        **measured_by(is_dequantised=noise is not None, **measured),
    }


def measured_by(
    *, is_autoencoder: bool, is_discrete: bool, missing: bool, conditional: bool, is_dequantised: bool = False
) -> dict[str, str]:
    """Returns what the numbers are: the last rows of the card."""
    if is_autoencoder:
        return {"quantity": "reconstruction: a plain autoencoder has no log p(x)"}
    what = ("observed " if missing else "") + ("level" if is_dequantised else "x")
    return {
        "quantity": f"log p({what}{'|y' if conditional else ''})",
        "values": "masses" if is_discrete else "densities per level" if is_dequantised else "densities",
    }
