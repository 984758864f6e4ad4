"""The card of a shared model, a README in Markdown: what it is, what was measured on which data, and what that hides.

Every text in it may come from anybody's file: it is escaped for Markdown, or quoted by the writer of YAML.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from pyro_vae.report.entries import Entry, Report, of_x, sections
from pyro_vae.report.notes import notes
from pyro_vae.report.render.texts import markdown, markdown_rows
from pyro_vae.report.tables import ESTIMATE_HEADER, clean, estimate_row

SHOWN = ("test", "curve", "jackknife", "reference", "simulated", "khat", "classification")
TAGS = ("variational-autoencoder", "generative-model", "density-estimation", "pyro", "pytorch")


class Card(NamedTuple):
    """What a card is made of.

    Attributes:
        name: of the model.
        license: of the weights, as the hub names it; "" where none is stated.
        members: part of the program -> its class.
        own: those of `members` that no file can name, which whoever loads the model passes in.
        shapes: the table that the program's `describe` gives.
        facts: more about the program and its training, label -> text.
        report: what report.json holds; empty where nothing was measured.
        protocol: the data's own card, as in run.json.
        protocol_card: the same as label -> text.
        conditional: whether the program is one of x given y.
        remembers: whether parameters began as data that it was trained on.
        commands: that trained and evaluated it.
        versions: package -> version.
        files: name -> SHA-256 of all that lies beside the card.
    """

    name: str
    license: str
    members: Mapping[str, str]
    own: Sequence[str]
    shapes: str
    facts: Mapping[str, str]
    report: Report
    protocol: Mapping[str, Any]
    protocol_card: Mapping[str, str]
    conditional: bool
    remembers: bool
    commands: Sequence[str]
    versions: Mapping[str, str]
    files: Mapping[str, str]


def to_markdown(card: Card) -> str:
    """The whole card: front matter as the Hugging Face hub reads it, then the text."""
    front = yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True, width=float("inf"))
    parts = [
        f"# {markdown(card.name)}",
        _introduction(card),
        _section("The program", _rows(("", ""), [*card.members.items(), *card.facts.items()]), _quoted(card.shapes)),
        _section("The data", *_data(card)),
        *_pictures(card),
        _section("What was measured", *_measured(card)),
        _section("What these numbers do not say", _bullets(_limits(card))),
        _section("Use", _bullets(_use(card))),
        _section("Loading it", *_loading(card)),
        _section("How it was made", _quoted("\n".join(card.commands)), _rows(("", "version"), card.versions.items())),
        _section("Files", _rows(("file", "SHA-256"), card.files.items())),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _front_matter(card: Card) -> dict[str, Any]:
    found = [
        {"type": entry.name, "name": _measure(entry), "value": entry.numbers["mean"]}
        for section in sections(card.report)
        if section.name == "test"
        for entry in section.entries
        if entry.name in card.report["test"]
    ]
    data = clean(str(card.protocol["name"]))
    result = {
        "task": {"type": "other", "name": "density estimation"},
        "dataset": {"name": data, "type": data},
        "metrics": found,
    }
    return {
        "library_name": "pyro-vae",
        **({"license": clean(card.license)} if card.license else {}),
        "tags": list(TAGS),
        **({"model-index": [{"name": clean(card.name), "results": [result]}]} if found else {}),
    }


def _measure(entry: Entry) -> str:
    unit, draws = entry.numbers.get("unit", "nats"), entry.numbers.get("num_samples")
    return clean(f"{entry.label}, {unit}" + (f", K = {draws}" if draws else ""))


def _introduction(card: Card) -> str:
    what = "A plain autoencoder" if "autoencoder" in card.report else "A variational autoencoder"
    given = ", given its label" if card.conditional else ""
    return (
        f"{what} of {markdown(str(card.protocol['name']))}{given}: a Pyro program with a model p(x, z) and a guide "
        "q(z|x), made with pyro\\_vae."
    )


def _data(card: Card) -> Iterator[str]:
    yield _rows(("", ""), card.protocol_card.items())
    yield (
        "No claim is made here about the licence of the data, nor about who may be seen in them: both are for whoever "
        "shares this to know."
    )


def _pictures(card: Card) -> Iterator[str]:
    if shown := [name for name in card.files if name.endswith(".png")]:
        name = markdown(str(card.protocol["name"]))
        captions = {
            "samples.png": "Made by the program alone, no data: means of p(x|z) at z from the prior, and draws of x.",
            "reconstructions.png": f"The top row shows test data of {name}; below, means of p(x|z) at draws of z from "
            "q(z|x).",
        }
        yield _section("Pictures", *(f"![{captions[file]}]({file})\n\n{captions[file]}" for file in shown))


def _measured(card: Card) -> Iterator[str]:
    if not card.report:
        yield "Nothing: the run has no report."
        return
    yield "On test data alone; nats per datum, summed over x and averaged over data, unless a row names another unit."
    for section in sections(card.report):
        if section.name in SHOWN:
            title = f"**{markdown(section.title)}**"
            yield f"{title}\n\n{markdown_rows(ESTIMATE_HEADER, map(estimate_row, section.entries), range(2, 7))}"


def _limits(card: Card) -> Iterator[str]:
    yield from (f"**{markdown(term)}**: {markdown(text)}" for term, text in notes(card.report))
    if "autoencoder" not in card.report:
        yield (
            f"A high log p({markdown(of_x(card.report))}) does not mean that samples look good, nor good samples that "
            "it is high (Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016)."
        )
    yield "Numbers on another split, another binarisation or other grey levels are not comparable with these."
    yield "They are one training run's, of one seed. On other machines and threads the last digits differ."


def _use(card: Card) -> Iterator[str]:
    yield "For: research and teaching, with data that were made exactly as those above."
    yield (
        "Not for: decisions about people, or samples passed off as data. Not as a detector of outliers without a test "
        "of its own: data of another kind can get a higher density (Nalisnick et al., Do deep generative models know "
        "what they don't know?, 2019)."
    )
    yield "A generative model may keep some of the data that it was trained on, and show them in its samples." + (
        " The pseudo-inputs of this prior began as training data, and lie in the file of tensors."
        if card.remembers
        else ""
    )
    yield (
        f"Licence of the weights: {markdown(card.license)}."
        if card.license
        else "No licence is stated for the weights: ask whoever shared them."
    )


def _loading(card: Card) -> Iterator[str]:
    own = "".join(f", {name}=YOUR_{name.upper()}" for name in card.own if name.isidentifier())
    labels = f"torch.eye({int(card.protocol['num_classes'])})"
    lines = [
        *(["import torch"] if card.conditional else []),
        "import pyro_vae as pv\n",
        f'vae = pv.load("PATH OF THIS FOLDER"{own})  # or "hf://user/name", "hf://user/name@revision"',
        f"x = vae.generate(y={labels})  # one of each class" if card.conditional else "x = vae.generate(16)",
        *([] if "autoencoder" in card.report else [_ESTIMATED.format(f", y={labels}" if card.conditional else "")]),
    ]
    yield "\n".join(["```python", *lines, "```"])
    yield "No code is read from these files, and nothing is unpickled. The hashes find damage; they sign nothing."
    if card.own:
        yield f"Not part of pyro\\_vae, and to be passed in: {markdown(', '.join(card.own))}."


_ESTIMATED = "print(pv.evaluation.iwae(vae, x, num_samples=1000{}, seed=0))"


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *(part for part in parts if part)])


def _rows(header: tuple[str, str], pairs: Any) -> str:
    rows = [(str(label), str(text)) for label, text in pairs]
    return markdown_rows(header, rows) if rows else ""


def _bullets(sentences: Iterator[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _quoted(text: str) -> str:
    """A block of code by its indent, which nothing in it can end."""
    return "\n".join(f"    {clean(line)}" for line in text.splitlines())
