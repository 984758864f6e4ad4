"""Writes a document as one self-contained page of HTML: no script, no network, pictures inside."""

import base64
import re
import struct
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pyro_vae.report import palette
from pyro_vae.report.cells import MINUS, clean
from pyro_vae.report.document import GROUPS, Block, Caution, Code, Document, Notes, Picture, Table

_FRAME = 0.25  # the height of a title and a caption, in widths of a column
_UNUSED = 0.3  # what stays empty next to a picture across both columns, in the same unit


def to_html(document: Document) -> str:
    """Writes the whole page. Every string is escaped; pictures are data URIs, in which a script of an SVG cannot run.

    Sections with a title stand as they are. What the others hold is sorted by kind: tables with common columns become
    one, the table named "protocol" stands apart with the commands, and pictures of one group stand together.

    Args:
        document: what is shown.

    Raises:
        ValueError: a picture is neither PNG nor SVG.

    Example:
        >>> "<h1>a &amp; b</h1>" in to_html(Document("a & b", ()))
        True
    """
    blocks = [block for section in document.sections if not section.title for block in section.blocks]
    tables = [_minus(block) for block in blocks if isinstance(block, Table)]
    facts = [table for table in tables if not table.columns[0].width]
    return _template().render(
        document=document,
        accent=palette.BLUE,
        ink=palette.INK,
        groups=_grouped([*document.pictures, *(block for block in blocks if isinstance(block, Picture))]),
        sections=[
            (section.title, [_kind(block) for block in section.blocks])
            for section in document.sections
            if section.title
        ],
        remarks=[_kind(block) for block in blocks if isinstance(block, Caution | str)],
        estimates=[table for table in tables if table.columns[0].width],
        tables=[table for table in facts if table.name != "protocol"],
        card=[table for table in facts if table.name == "protocol"],
        commands=[block.text for block in blocks if isinstance(block, Code)],
        notes=[note for block in blocks if isinstance(block, Notes) for note in block.items],
    )


def _kind(block: Block) -> tuple[str, Any]:
    """The kind of a block, and what the page shows of it."""
    if isinstance(block, Table):
        return "Table", _minus(block)
    return type(block).__name__, _panel(block) if isinstance(block, Picture) else block


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("pyro_vae", "report/render"),
        autoescape=True,
        finalize=lambda value: clean(value) if type(value) is str else value,  # what is Markup is ours
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _minus(table: Table) -> Table:
    """Writes a minus as wide as a digit in columns of numbers, and in cells that begin with a negative number."""
    right = [column.right for column in table.columns]
    rows = [
        [
            str(c).replace("-", MINUS) if r else re.sub(r"^-(?=\d)", MINUS, str(c))
            for c, r in zip(row, right, strict=True)
        ]
        for row in table.rows
    ]
    return table._replace(rows=rows)


def _grouped(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    own = dict.fromkeys(picture.group for picture in pictures if picture.group not in GROUPS)
    groups = []
    for i, name in enumerate((*GROUPS, *own)):
        title, lead = GROUPS.get(name, (name, ""))
        panels = [{"order": j} | _panel(each) for j, each in enumerate(pictures) if each.group == name]
        columns, across = _arranged(panels)
        about = {"anchor": f"pictures-{i}", "title": title, "lead": lead}
        groups.append(about | {"columns": columns, "across": across})
    return [group for group in groups if group["columns"] or group["across"]]


def _arranged(panels: list[dict[str, Any]]) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Puts panels into two columns, each where there is more room, and some across both, so that little stays empty."""
    choices = [[], *([panel] for panel in reversed(panels)), panels]
    (columns, _), across = min(((_in_columns(panels, across), across) for across in choices), key=_emptiness)
    return (columns if any(columns) else []), across


def _in_columns(panels: list[dict[str, Any]], across: list[dict[str, Any]]) -> tuple[list[list[dict[str, Any]]], float]:
    """The columns of those panels that are not across, and by how much one is longer than the other, in widths."""
    columns: list[list[dict[str, Any]]] = [[], []]
    heights = [0.0, 0.0]
    for panel in panels:
        if panel not in across:
            shorter = heights.index(min(heights))
            columns[shorter].append(panel)
            heights[shorter] += _FRAME + panel["height"] / (panel["width"] or 1)
    return columns, abs(heights[0] - heights[1])


def _emptiness(choice: tuple[tuple[Any, float], list[dict[str, Any]]]) -> float:
    (_, hole), across = choice
    return hole + _UNUSED * len(across)


def _panel(picture: Picture) -> dict[str, Any]:
    kind, width, height = _measured(picture.content)
    source = f"data:image/{kind};base64,{base64.b64encode(picture.content).decode()}"
    return {"title": picture.title, "caption": picture.caption, "source": source, "width": width, "height": height}


def _measured(picture: bytes) -> tuple[str, int, int]:
    """The kind of a picture, and its width and height in pixels of a page; 0 where an SVG does not name them."""
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png", *struct.unpack(">II", picture[16:24])
    if re.match(rb"\s*<(\?xml|!DOCTYPE svg|svg)", picture):
        head = picture[: picture.find(b">", picture.find(b"<svg"))]
        sizes = re.findall(rb"\s(width|height)=\"([\d.]+)pt\"", head)
        size = {key: round(float(value) * 4 / 3) for key, value in sizes}
        return "svg+xml", size.get(b"width", 0), size.get(b"height", 0)
    raise ValueError(f"a page takes a PNG or an SVG; this picture begins with {picture[:8]!r}")
