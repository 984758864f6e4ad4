"""The report of an evaluated run as one page of HTML that stands alone: no script, no network, pictures inside."""

import base64
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from pyro_vae.report.entries import Report, commands, name, num_test, of_x
from pyro_vae.report.notes import notes
from pyro_vae.report.tables import MINUS, Table, clean, number, share, tables

GROUPS = {
    "data": ("Data, rebuilt and generated", "What the model makes of data, and what it makes up."),
    "latent": ("Latent space", "What the codes look like, and which of their dimensions are used."),
    "likelihood": (
        "How probable are the data?",
        "log p(x) is bounded from below by estimators of growing cost. A triangle points to where the truth lies.",
    ),
    "trust": ("Can these numbers be trusted?", "Importance weights with a heavy tail make a loose bound look exact."),
    "posterior": ("Guide and true posterior", "What is lost because q(z|x) is not p(z|x)."),
    "training": ("Training", ""),
}


class Panel(NamedTuple):
    """A picture on the page.

    Attributes:
        title: a few words; the alternative text too.
        caption: what is seen, in sentences.
        picture: PNG or SVG.
        group: one of `GROUPS`, or the title of a group of one's own, which comes after those.
    """

    title: str
    caption: str
    picture: bytes
    group: str = "data"


def to_html(report: Report, panels: Sequence[Panel] = ()) -> str:
    """The whole page. Every string is escaped; pictures are data URIs, in which a script of an SVG can not run.

    Args:
        report: what report.json holds; every key that an evaluation adds may be absent.
        panels: in order; those of one group are shown together.

    Raises:
        ValueError: a picture that is neither PNG nor SVG.

    Example:
        >>> "<h1>a &amp; b</h1>" in to_html({"run": {"name": "a & b"}})
        True
    """
    found = tables(report)
    return _template().render(
        name=clean(name(report)),
        facts=[clean(fact) for fact in _facts(report)],
        headlines=list(headlines(report)),
        groups=_grouped(panels),
        estimates=[_minus(table) for table in found if table.estimates],
        tables=[table for table in found if not table.estimates and table.name != "protocol"],
        card=[table for table in found if table.name == "protocol"],
        commands=[clean(command) for command in commands(report)],
        notes=notes(report),
    )


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("pyro_vae", "report/render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


class Headline(NamedTuple):
    """A number in large type: what, how much, its errors and remarks, each a line."""

    label: str
    value: str
    unit: str
    lines: tuple[str, ...]


def headlines(report: Report) -> list[Headline]:
    """The three or four numbers that a report comes down to, each with its errors.

    Example:
        >>> elbo = {"mean": -3.04, "standard_error": 0.12, "monte_carlo_error": 0.01, "num_data": 9, "unit": "nats"}
        >>> for line in headlines({"test": {"elbo": elbo}})[0]: print(line)
        ELBO
        −3.04
        nats
        ('± 0.12 over 9 test data', '± 0.010 Monte Carlo')
    """
    return [*_bounds(report), *_codes(report), *_shares(report)][:4]


def _bounds(report: Report) -> Iterator[Headline]:
    test, of = report.get("test", {}), of_x(report)
    if (found := test.get("log_likelihood")) is not None:
        lines = ["lower bound in expectation", f"K = {found['num_samples']:,} draws from q(z|x)"]
        if (bits := test.get("bits_per_dim")) is not None:
            lines.append(f"at most {number(bits['mean'])} bits/dim")
        yield _headline(f"log p({of})", found, "≥ ", lines)
    if (found := test.get("elbo")) is not None:
        digits = _digits(found.get("standard_error"))
        parts = [f"{key} {_typeset(test[name]['mean'], digits)}" for name, key in _PARTS.items() if name in test]
        yield _headline("ELBO", found, "", [", ".join(parts)] if parts else [])


_PARTS = {"reconstruction": "reconstruction", "kl": "KL"}


def _codes(report: Report) -> Iterator[Headline]:
    test = report.get("test", {})
    if "elbo" not in test and "reconstruction" in test:
        yield _headline("reconstruction, log p(x|z)", test["reconstruction"])
    if "rmse" in test:
        yield _headline("RMSE", test["rmse"])
    if (found := report.get("autoencoder")) is not None:
        numbers = f"{found['numbers_in']} → {found['numbers_in_code']}"
        yield Headline("numbers in, numbers in the code", numbers, "", ("no density of z: no ELBO, no log p(x)",))


def _shares(report: Report) -> Iterator[Headline]:
    if (found := report.get("classification")) is not None:
        line = f"± {share(found['standard_error'])} over {found['num_data']} test data"
        yield Headline("right class, by Bayes' rule", share(found["accuracy"]), "", (line,))
    if (found := report.get("khat")) is not None and found.get("above") is not None:
        lines = f"of {len(found['values']):,} test data; their log p may be too low", f"K = {found['num_samples']:,}"
        yield Headline(f"k-hat above {found['threshold']:g}", share(found["above"]), "", lines)
    if latent := report.get("latent", {}).get("active"):
        count = ", ".join(f"{found['count']} of {found['of']}" for found in latent.values())
        sites = f"of {', '.join(latent)}, on {report['latent']['num_data']:,} training data"
        yield Headline("active dimensions", count, "", (sites,))


def _headline(label: str, found: Mapping[str, Any], sign: str = "", remarks: Sequence[str] = ()) -> Headline:
    errors = []
    if found.get("standard_error") is not None:
        errors.append(f"± {_short(found['standard_error'])} over {found['num_data']:,} test data")
    if found.get("monte_carlo_error"):  # 0 where nothing is drawn
        errors.append(f"± {_short(found['monte_carlo_error'])} Monte Carlo")
    return Headline(label, sign + _fixed(found), found.get("unit", "nats"), (*errors, *remarks))


def _fixed(found: Mapping[str, Any]) -> str:
    """To the digits that its error over the data leaves."""
    return _typeset(found.get("mean"), _digits(found.get("standard_error")))


def _typeset(value: float | None, digits: int) -> str:
    return number(value, digits).replace("-", MINUS)


def _digits(error: float | None) -> int:
    return 3 if not error else min(3, max(0, 1 - math.floor(math.log10(error))))


def _short(error: float) -> str:
    return number(error, _digits(error))


def _densities(report: Report) -> dict[str, str]:
    """member -> the density that it is."""
    members, y = report.get("run", {}).get("members", {}), ",y" if report.get("config", {}).get("conditional") else ""
    of_z = "|y" if members.get("prior") == "ConditionalNormal" else ""
    if "middle" not in members:
        return {"prior": f"p(z{of_z})", "posterior": f"q(z|x{y})", "likelihood": f"p(x|z{y})"}
    return {
        "prior": f"p(z2{of_z})",
        "middle": f"p(z1|z2{y})",
        "likelihood": f"p(x|z1{y})",
        "posterior1": "q of z1",
        "posterior2": "q of z2",
    }


def _facts(report: Report) -> Iterator[str]:
    run, protocol = report.get("run", {}), report.get("protocol", {})
    members = run.get("members", {})
    for member, density in _densities(report).items():
        if members.get(member):
            yield f"{density} {members[member]}"
    if run.get("num_parameters") is not None:
        yield f"{run['num_parameters']:,} parameters"
    if protocol.get("name") and num_test(report) is not None:
        yield f"{protocol['name']}, {num_test(report):,} test data"
    if report.get("unfinished"):
        yield report["unfinished"].removesuffix(".")
    if run.get("evaluated"):
        yield f"evaluated {run['evaluated'][:10]}"


class _Group(NamedTuple):
    anchor: str
    title: str
    lead: str
    panels: list[dict[str, Any]]


def _grouped(panels: Sequence[Panel]) -> list[_Group]:
    own = dict.fromkeys(panel.group for panel in panels if panel.group not in GROUPS)
    found = []
    for i, group in enumerate((*GROUPS, *own)):
        title, lead = GROUPS.get(group, (clean(group), ""))
        inside = [_shown(panel) for panel in panels if panel.group == group]
        if inside:
            found.append(_Group(f"pictures-{i}", title, lead, inside))
    return found


def _shown(panel: Panel) -> dict[str, Any]:
    kind, width, height = _measured(panel.picture)
    return {
        "title": clean(panel.title),
        "caption": clean(panel.caption),
        "source": f"data:image/{kind};base64,{base64.b64encode(panel.picture).decode()}",
        "width": width,
        "height": height,
        "wide": width > 2.4 * height,
    }


def _measured(picture: bytes) -> tuple[str, int, int]:
    """The kind of a picture, and its width and height in pixels of a page; 0 where an SVG does not tell."""
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png", *struct.unpack(">II", picture[16:24])
    if re.match(rb"\s*<(\?xml|!DOCTYPE svg|svg)", picture):
        head = picture[: picture.find(b">", picture.find(b"<svg"))]
        found = re.findall(rb"\s(width|height)=\"([\d.]+)pt\"", head)
        size = {key: round(float(value) * 4 / 3) for key, value in found}
        return "svg+xml", size.get(b"width", 0), size.get(b"height", 0)
    raise ValueError(f"a panel takes a PNG or an SVG; this picture begins with {picture[:8]!r}")


def _minus(table: Table) -> Table:
    """Numbers stand in the columns 2 to 4."""
    rows = tuple((*row[:2], *(cell.replace("-", MINUS) for cell in row[2:5]), *row[5:]) for row in table.rows)
    return table._replace(rows=rows)
