"""Shared models on the Hugging Face hub, through its own client, which is an extra."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_vae.errors import CheckpointError, PyroVAEError, StorageError, UsageError, uninstalled

SCHEME = "hf://"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


def fetch(address: str, names: Sequence[str]) -> Path:
    """Downloads files of a model, or finds them where the client keeps what it has downloaded.

    Args:
        address: "hf://user/name", or "hf://user/name@revision" for a branch, a tag or a commit.
        names: the names of the files; no others are fetched.

    Returns:
        The folder of the files.

    Raises:
        UsageError: the address has another form, or the client is not installed.
        CheckpointError: the files cannot be fetched.
    """
    repository, at, revision = address.removeprefix(SCHEME).partition("@")
    if not _REPOSITORY.fullmatch(repository) or (at and not _REVISION.fullmatch(revision)):
        raise UsageError(
            f"{address!r:.200} is not a model of the hub: write hf://user/name, or hf://user/name@revision"
        )
    client = _client()
    with _said(CheckpointError, f"{address} cannot be fetched"):
        return Path(client.snapshot_download(repository, revision=revision or None, allow_patterns=list(names)))


def send(folder: Path, repository: str, names: Sequence[str], *, private: bool = True) -> str:
    """Uploads files of a folder, as one commit.

    Args:
        folder: where they are.
        repository: "user/name"; it is made if there is none.
        names: the names of the files; no others are sent.
        private: whether a repository that is made is private.

    Returns:
        The address of the commit.

    Raises:
        UsageError: the name has another form, or the client is not installed.
        StorageError: the files cannot be sent.
    """
    check(repository)
    with _said(StorageError, f"{folder} cannot be sent to {repository}, but is whole"):
        api = _client().HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        sent = api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            allow_patterns=list(names),
            commit_message="A model shared by pyro_vae",
        )
        return str(sent.commit_url)


def check(repository: str) -> None:
    """Checks all that `send` checks before it sends anything.

    Raises:
        UsageError: the name is not of the form user/name, or the client is not installed.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"{repository!r:.200} is not the name of a model on the hub: write user/name")
    _client()


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise uninstalled("the hub", "hub") from error
    return huggingface_hub


@contextmanager
def _said(error_class: type[PyroVAEError], what: str) -> Iterator[None]:
    # Anything may go wrong on the way: no network, no such model, no permission, each an error of another library.
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise error_class(f"{what} ({type(error).__name__}: {lines[0][:200]})") from error
