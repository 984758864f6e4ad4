"""Pairs of files that may come from elsewhere: a manifest, JSON with its own SHA-256, and the tensors that it names.

A hash finds damage and mistakes. It is not a signature: anyone who alters a file on purpose makes a new hash. So a file
of the right hash is not trusted either: its size is bounded before it is read, its types are checked before they are
used, and nothing in it names a place outside the folder.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from pyro_vae.data.formats import digest
from pyro_vae.errors import CheckpointError, PyroVAEError, first_line
from pyro_vae.experiment.run import files

# 1 had no middles of epochs, and no hash of the history; 2 did not say how networks see the data
SCHEMA = 3


def sealed(body: dict[str, Any]) -> bytes:
    """Writes a manifest: the body and its SHA-256."""
    return files.to_json({**body, "sha256": files.sha256(files.to_json(body))})


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Writes tensors in the form of safetensors, wherever they are. Equal tensors give equal bytes."""
    return save_tensors({name: _apart(tensor.detach().cpu()) for name, tensor in tensors.items()})


def _apart(tensor: Tensor) -> Tensor:
    """Returns the tensor in memory of its own, since a part of a larger one cannot be written."""
    return tensor.contiguous() if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def write(path: Path, body: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors, and then the manifest that names them: the pair exists once its manifest does.

    Args:
        path: the path of the manifest; the tensors lie next to it, under its name with another ending.
        body: what else the manifest says.
        tensors: by name.

    Raises:
        StorageError: a file cannot be written.
    """
    content, beside = packed(tensors), path.with_suffix(".safetensors")
    entry = {"file": beside.name, "sha256": files.sha256(content), "bytes": len(content)}
    files.write(beside, content)
    files.write(path, sealed({"schema": SCHEMA, "tensors": entry, **body}))


def read(path: Path) -> dict[str, Any]:
    """Reads the body of a manifest, and verifies its hash.

    Raises:
        CheckpointError: the file cannot be read, is damaged, altered, or of a newer schema.
    """
    content = _bytes(path, files.LARGEST_JSON)
    try:
        body = json.loads(content)
        claimed, schema = body.pop("sha256"), int(body["schema"])
        whole = sealed(body)
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged, it cannot be read as a manifest ({error!r:.200}): the SHA-256 that it should have is "
            f"lost with it, that of its {len(content)} bytes is {files.sha256(content)}."
        ) from error
    if content == whole and schema <= SCHEMA:
        return body
    here = files.sha256(files.to_json(body))
    hashes = f"its content should have SHA-256 {_shown(claimed)}, has {here}"
    if schema > SCHEMA:
        doubt = "" if here == claimed else f", unless it is damaged: {hashes}"
        raise CheckpointError(f"{path} has schema {schema}, this version reads up to {SCHEMA}: update pyro_vae{doubt}.")
    form = " and is written in another form" if here == claimed else ""
    raise CheckpointError(f"{path} was altered: {hashes}{form}.")


@contextmanager
def well_formed(path: Path) -> Iterator[None]:
    """Turns the errors of reading a manifest with the right hash but the wrong form into a sentence.

    Args:
        path: the path of the manifest.

    Raises:
        CheckpointError: a name is unknown to this version, or an entry is missing or of another type.
    """
    try:
        yield
    except CheckpointError:
        raise
    except PyroVAEError as error:
        raise CheckpointError(f"{path} names what this version does not know: {error}.") from error
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} has not the form of a manifest: {error!r:.200}.") from error


def tensors(path: Path, entry: dict[str, Any], name: str = "") -> dict[str, Tensor]:
    """Reads the tensors that belong to a manifest, and verifies their hash.

    Args:
        path: the path of the manifest.
        entry: `file`, `sha256` and `bytes` of the file next to it.
        name: the name of that file; by default the manifest's with another ending.

    Raises:
        CheckpointError: that file is missing, damaged, or another one.
    """
    beside = path.with_name(name or f"{path.stem}.safetensors")
    if entry["file"] != beside.name:
        raise CheckpointError(
            f"{path} belongs to {_shown(entry['file'])}, whose SHA-256 is {_shown(entry['sha256'])}, and not to "
            f"{beside.name}, which has {_digest(beside)}."
        )
    with _readable(beside):
        size = beside.stat().st_size
    content = _bytes(beside, size) if size == entry["bytes"] else None
    here = _digest(beside) if content is None else files.sha256(content)
    if content is None or here != entry["sha256"]:
        raise CheckpointError(
            f"{beside} is damaged: SHA-256 should be {_shown(entry['sha256'])} of {_shown(entry['bytes'])} bytes, is "
            f"{here} of {size}."
        )
    try:
        return load_tensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{beside} is not a safetensors file: {first_line(error)}.") from error


def _bytes(path: Path, most: int) -> bytes:
    with _readable(path), path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise CheckpointError(f"{path} is damaged: it has more than the {most} bytes that a file of its kind can have.")
    return content


def _digest(path: Path) -> str:
    with _readable(path):
        return digest(path)


def _shown(value: Any) -> str:
    """Shows a value from a foreign file in a message: short, and without control characters."""
    text = str(value)
    return text if len(text) <= 80 and text.isprintable() and text.isascii() else f"{text!a:.80}"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if path.exists() and not path.is_file():  # reading a pipe would block, and some devices never end
        raise CheckpointError(f"{path} is not a file.")
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
