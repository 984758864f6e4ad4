"""Makes RESULTS.md and its picture from the reports of finished runs, which stand as JSON in this folder.

    python docs/results/results.py take runs/vamp_dynamic_mnist-0 ...
    python docs/results/results.py write

`take` keeps what can be checked of finished work: of a run its settings, report, history and times, of an evaluation
its report, of a comparison its differences. The name is that of the folder. A run is taken before it is evaluated, or
is evaluated with --out, since its folder has one report. `write` makes the page from page.jinja.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.ticker import ScalarFormatter

from pyro_vae.experiment import presets
from pyro_vae.experiment.config import Config
from pyro_vae.report.draw.style import figure, plain, png
from pyro_vae.report.palette import BLUE, GREY, ORANGE

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "RESULTS.md"
PICTURE = HERE.parent / "images" / "published.png"
_PIXELS = 28 * 28  # of MNIST
_EPOCHS = 60  # of a history, which is drawn no finer
_OF_AN_EPOCH = ("epoch", "loss", "learning_rate", "valid_elbo", "valid_bound")
_OF_A_REPORT = ("test", "training")
_OF_AN_EVALUATION = ("test", "khat", "latent", "reference", "simulated", "gaps", "jackknife")
_LONGEST_LIST = 50  # of numbers: those of each datum stay in the run


def take(folder: Path) -> Path:
    """Keeps the essentials of a run, an evaluation or a comparison, and returns the new file."""
    if (folder / "comparison.json").exists():
        return _keep("comparisons", folder, _read(folder / "comparison.json"))
    report = _read(folder / "report.json")
    if "reference" in report:  # which only an evaluation has; it writes into its run unless --out names a folder
        seconds = _read(folder / "timings.json")["seconds"]
        kept = {name: report[name] for name in _OF_AN_EVALUATION} | {"seconds": seconds}
        return _keep("evaluations", folder, kept)
    config, about = _config(folder), _read(folder / "run.json")
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    size, batch = report["protocol"]["split"]["sizes"]["train"], config["batch_size"]
    kept = {name: report[name] for name in _OF_A_REPORT if name in report}
    kept["training"]["steps"] = len(records) * math.ceil(size / batch)
    kept |= {name: about[name] for name in ("seconds", "versions", "started_from") if name in about}
    return _keep("runs", folder, {"config": config, **kept, "history": list(_thinned(records))})


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def _config(folder: Path) -> dict[str, Any]:
    """The settings, without the places of the machine."""
    config = _read(folder / "config.json")
    return {name: value for name, value in config.items() if name not in ("data_dir", "device", "download")}


def _thinned(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields some epochs, evenly on a logarithmic scale, with the first, the best and the last."""
    last, best = len(records), max((r["epoch"] for r in records if r["best"]), default=len(records))
    wanted = {round(math.exp(math.log(last) * i / _EPOCHS)) for i in range(_EPOCHS + 1)} | {best, last}
    for record in records:
        if record["epoch"] in wanted:
            yield {name: record[name] for name in _OF_AN_EPOCH if record.get(name) is not None}


def _keep(kind: str, folder: Path, content: Any) -> Path:
    path = HERE / kind / f"{folder.resolve().name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(_short(content), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def _short(content: Any) -> Any:
    """Leaves out long lists, and the folders in which runs stood on the machine that made them."""
    if isinstance(content, dict):
        kept = {name: _short(value) for name, value in content.items()}
        return {name: value for name, value in kept.items() if not _is_long(value)}
    if isinstance(content, list):
        return [_short(value) for value in content]
    return Path(content).name if isinstance(content, str) and content.startswith("/") else content


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > _LONGEST_LIST and not isinstance(value[0], dict)


class Results:
    """What stands in this folder, as the page asks for it.

    Attributes:
        runs, evaluations, comparisons: the content of the files of each kind, by name.
    """

    def __init__(self, folder: Path = HERE) -> None:
        kinds = ("runs", "evaluations", "comparisons")
        self.runs, self.evaluations, self.comparisons = (
            {path.stem: _read(path) for path in sorted((folder / kind).glob("*.json"))} for kind in kinds
        )

    def of(self, preset: str) -> list[dict[str, Any]]:
        """The runs of a preset, by their seeds."""
        found = [run for run in self.runs.values() if run["config"]["preset"] == preset]
        return sorted(found, key=lambda run: run["config"]["seed"])

    def presets(self) -> list[str]:
        """The presets that have runs, in the order of the page."""
        return [name for name in presets.names() if self.of(name)]

    def verdict(self, preset: str) -> dict[str, Any]:
        """The verdict on the mean over seeds."""
        return presets.over_seeds([judged(run) for run in self.of(preset)]) or {}

    def mean(self, preset: str, *path: str) -> float:
        """The mean over seeds of a number of the runs, which stands at this path."""
        return statistics.fmean(float(_at(run, path)) for run in self.of(preset))

    def steps(self, preset: str) -> int:
        """The steps of a run, over all epochs."""
        return self.of(preset)[0]["training"]["steps"]


def judged(run: Mapping[str, Any]) -> dict[str, Any]:
    """Compares a run with its preset as it stands."""
    config = Config.from_dict({**Config().to_dict(), **run["config"]})
    otherwise = presets.other_start(config.preset, run.get("started_from", []))
    return presets.verdict(config, run["test"], _PIXELS, otherwise) or {}


def _at(content: Any, path: Sequence[str]) -> Any:
    for name in path:
        content = content[name]
    return content


def page(results: Results) -> str:
    """Returns the text of RESULTS.md."""
    environment = Environment(  # noqa: S701 - Markdown, which nothing escapes
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"nats": _nats, "interval": _interval, "percent": _percent}
    return environment.from_string((HERE / "page.jinja").read_text(encoding="utf-8")).render(results=results)


def _nats(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


def _interval(ends: Sequence[float]) -> str:
    return f"[{', '.join(map(_nats, ends))}]"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def picture(results: Results) -> bytes:
    """Draws what was published and what was reached, and how the validation ELBO came there."""
    names = [name for name in results.presets() if results.verdict(name)["unit"] == "nats"]
    with figure(1.2 + 0.34 * len(names) + 3.0) as drawn:
        above, below = drawn.subplots(2, 1, height_ratios=[0.34 * len(names) + 0.6, 3.0])
        for place, name in enumerate(names):
            verdict = results.verdict(name)
            above.plot(verdict["target"], place, "|", ms=16, mew=2.0, color=ORANGE, label="published")
            above.errorbar(
                verdict["result"], place, xerr=1.96 * verdict["standard_error"], fmt="o", color=BLUE, capsize=3,
                label="reached, 95 % over images",
            )  # fmt: skip
            seeds = [judged(run)["result"] for run in results.of(name)]
            above.plot(seeds, [place + 0.25] * len(seeds), ".", ms=4, color=GREY, label="single seeds")
        above.set_yticks(range(len(names)), names)
        above.set_ylim(len(names) - 0.4, -0.6)
        above.set_xlabel("log p(x), nats per image")
        handles = dict(zip(*reversed(above.get_legend_handles_labels()), strict=True))
        shown = ("published", "reached, 95 % over images", "single seeds")
        drawn.legend([handles[name] for name in shown], shown, loc="outside upper left", ncols=3)
        for name in names:
            history = results.of(name)[0]["history"]
            line = [(each["epoch"], each["valid_elbo"]) for each in history if each["valid_elbo"] > -100]
            below.plot(*zip(*line, strict=True), label=name, lw=1.2)
        below.set_xscale("log")
        below.xaxis.set_major_formatter(ScalarFormatter())
        below.set_xlabel("epoch")
        below.set_title("ELBO on validation data, nats per image")
        drawn.legend(*below.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        plain(above, "x")
        plain(below, "y")
        return png(drawn)


def main() -> None:
    """Takes folders, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("take", help="keep finished work").add_argument("folders", nargs="+", type=Path)
    commands.add_parser("write", help="write RESULTS.md")
    given = parser.parse_args()
    if given.command == "take":
        for folder in given.folders:
            print(take(folder))
        return
    results = Results()
    PAGE.write_text(page(results), encoding="utf-8")
    PICTURE.write_bytes(picture(results))


if __name__ == "__main__":
    main()
