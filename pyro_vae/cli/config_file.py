"""`--config FILE`, looked through before YAML makes anything of it: aliases fill the memory, and depth the stack."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

_LARGEST, _DEEPEST, _LONGEST = 1 << 16, 4, 4096  # bytes, levels, characters of a setting


class ConfigFile(ActionConfigFile):
    """Looks through the file first: aliases and depth make YAML's readers fill the memory, or crash."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            _check_plain(Path(values))
        except (ValueError, OSError, yaml.YAMLError) as error:
            parser.error(f"--config {values} is not a file of flag values: {str(error)[:300]}")
        super().__call__(parser, cfg, values, option_string)


def _check_plain(path: Path) -> None:
    """ValueError for anything except a YAML (or JSON) file with a few plain settings. It is read event by event."""
    if not path.is_file():
        raise ValueError("it does not exist, or is a folder or a pipe")
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    depth = 0
    for event in yaml.parse(content.decode(), Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
            raise ValueError("settings are numbers, words and lists of them, without references and without depth")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST:
            raise ValueError(f"a setting has more than {_LONGEST} characters")
    settings = yaml.safe_load(content)
    if not isinstance(settings, dict) or "config" in settings:
        raise ValueError("it takes one setting per line, name: value, and names no other file")
