"""The README as PyPI shows it, which has none of the files that the README links to."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r'^<img src="(?!https?:)[^>]*>\n+(?:\*[^*]+\*\n+)?', re.MULTILINE)  # with its caption
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)[^)]*\)")


def for_pypi(readme: str) -> str:
    """Leaves out pictures, and makes plain words of links to files of the project.

    This is the one place where an address of the repository belongs, in front of each path, once there is one.
    """
    return _LINK.sub(r"\1", _PICTURE.sub("", readme))


class ReadmeHook(MetadataHookInterface):
    """Gives the package its long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = for_pypi((Path(self.root) / "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
