"""The card of a shared model, its README: what it is, what was measured on which data, and what that does not say.

Any text in it may come from someone else's file. It is escaped for Markdown, or quoted by the writer of YAML.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from pyro_vae.report.cells import clean
from pyro_vae.report.document import Block, Code, Document, Notes, Picture, Section, Table
from pyro_vae.report.documents.estimate_sections import Entry, Report, headline_entries, of_x, sections
from pyro_vae.report.documents.report_notes import notes

SHOWN = ("test", "baselines", "curve", "jackknife", "reference", "simulated", "khat", "classification")
TAGS = ("variational-autoencoder", "generative-model", "density-estimation", "pyro", "pytorch")

# Pictures of a run that go with its card; the braces are for the name of the data.
PICTURES = {
    "samples.png": "Made by the program, without data: means of p(x|z) at z from the prior, and draws of x.",
    "reconstructions.png": "The top row shows test data of {}; below, means of p(x|z) at draws of z from q(z|x).",
    "columns.png": "Columns of {}: test data and draws from the program.",
}


class Own(NamedTuple):
    """A member that is not part of the package.

    Attributes:
        family: its name as an argument of `load`, such as "prior".
        place: where its class was, file.py:Class or module:Class; or only the class.
        arguments: of the class, a JSON object; "" for none.
        sha256: of its source file; "" where that is not known.
    """

    family: str
    place: str
    arguments: str = ""
    sha256: str = ""

    @property
    def module(self) -> str:
        """What Python imports it from; "" where that is not known."""
        module = self.place.rpartition(":")[0].removesuffix(".py")
        return module if all(name.isidentifier() for name in [*module.split("."), *self.classes]) else ""

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return self.place.rpartition(":")[2].split(",")


class Card(NamedTuple):
    """All that a card says.

    Attributes:
        name: the name of the model.
        license: the licence of the weights, as the hub names it; "" where none is stated.
        members: part of the program -> its class.
        own: code that no file of the card's folder holds; anyone who loads the model passes it in.
        shapes: the table that the program's `describe` gives.
        facts: more about the program and its training, label -> text.
        report: what report.json holds; empty where nothing was measured.
        protocol: the protocol of the data, as in run.json.
        protocol_card: the same as label -> text.
        conditional: whether the program is one of x given y.
        remembers: whether some parameters began as data that it was trained on.
        commands: the command lines that trained and evaluated it.
        versions: package -> version.
        files: name -> SHA-256 of each file next to the card.
    """

    name: str
    license: str
    members: Mapping[str, str]
    own: Sequence[Own]
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


def front_matter(card: Card) -> str:
    """Writes what the Hugging Face hub reads of a card: YAML between two lines of dashes."""
    metrics = [
        {"type": entry.name, "name": _measure(entry), "value": entry.numbers["mean"]}
        for entry in headline_entries(card.report)
    ]
    data = clean(str(card.protocol["name"]))
    result = {
        "task": {"type": "other", "name": "density estimation"},
        "dataset": {"name": data, "type": data},
        "metrics": metrics,
    }
    front = {
        "library_name": "pyro-vae",
        **({"license": clean(card.license)} if card.license else {}),
        "tags": list(TAGS),
        **({"model-index": [{"name": clean(card.name), "results": [result]}]} if metrics else {}),
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=float('inf'))}---\n\n"


def card_document(card: Card) -> Document:
    """Makes the text of a card."""
    program = _pairs(("", ""), {**card.members, **card.facts})
    versions, hashes = _pairs(("", "version"), card.versions), _pairs(("file", "SHA-256"), card.files)
    sections = {
        "": (_introduction(card),),
        "The program": (program, Code(card.shapes)),
        "The data": (_pairs(("", ""), card.protocol_card), _NO_CLAIM),
        "Pictures": tuple(_pictures(card)),
        "What was measured": tuple(_measured(card)),
        "What these numbers do not say": (Notes([*notes(card.report), *Notes.of(_limits(card)).items]),),
        "Use": (Notes.of(_use(card)),),
        "Loading it": tuple(_loading(card)),
        "How it was made": (Code("\n".join(map(clean, card.commands)), "sh"), versions),
        "Files": (hashes,),
    }
    return Document(card.name, tuple(Section(title, blocks) for title, blocks in sections.items() if blocks))


def _pairs(heads: tuple[str, str], pairs: Mapping[str, str]) -> Table:
    return Table.of("", heads, pairs.items())


_NO_CLAIM = (
    "This card makes no claim about the licence of the data, or about people who can be recognised in them. Anyone "
    "who shares this model must check both."
)


def _measure(entry: Entry) -> str:
    unit, draws = entry.numbers.get("unit", "nats"), entry.numbers.get("num_samples")
    return clean(f"{entry.label}, {unit}" + (f", K = {draws}" if draws else ""))


def _introduction(card: Card) -> str:
    what = "A plain autoencoder" if "autoencoder" in card.report else "A variational autoencoder"
    given = ", given its label" if card.conditional else ""
    return (
        f"{what} of {card.protocol['name']}{given}: a Pyro program with a model p(x, z) and a guide q(z|x), made with "
        "pyro_vae."
    )


def _pictures(card: Card) -> Iterator[Picture]:
    for file, caption in PICTURES.items():
        if file in card.files:
            sentence = caption.format(card.protocol["name"])
            yield Picture(sentence, sentence, file=file)


def _measured(card: Card) -> Iterator[Block]:
    if not card.report:
        yield "Nothing: the run has no report."
        return
    yield "Only on test data; nats per datum, summed over x and averaged over data, unless a row names another unit."
    yield from (section.table for section in sections(card.report) if section.name in SHOWN)


def _limits(card: Card) -> Iterator[str]:
    if "autoencoder" not in card.report:
        yield (
            f"A high log p({of_x(card.report)}) does not mean that samples look good, and good samples do not mean "
            f"that it is high (Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016)."
        )
    yield "Numbers on another split, another binarisation or other grey levels are not comparable with these."
    yield "They are from one training run with one seed. The last digits depend on machine and number of threads."


def _use(card: Card) -> Iterator[str]:
    yield "For: research and teaching, with data prepared exactly as described above."
    yield (
        "Not for: decisions about people, or samples passed off as data. Not as a detector of outliers without a test "
        "of its own: data of another kind can get a higher density (Nalisnick et al., Do deep generative models know "
        "what they don't know?, 2019)."
    )
    began = " The pseudo-inputs of this prior began as training data, and are stored in the file of tensors."
    yield (
        "A generative model can memorise some of its training data, and show them in its samples."
        f"{began if card.remembers else ''}"
    )
    stated = f"Licence of the weights: {card.license}."
    yield stated if card.license else "No licence is stated for the weights: ask the person who shared them."


def _loading(card: Card) -> Iterator[Block]:
    own = "".join(f", {each.family}={_passed(each)}" for each in card.own if each.family.isidentifier())
    labels = f"torch.eye({int(card.protocol['num_classes'])})"
    lines = [
        *(["import torch"] if card.conditional else []),
        "import pyro_vae as pv",
        *_imports(card.own),
        "",
        f'vae = pv.load("PATH OF THIS FOLDER"{own})  # or "hf://user/name", "hf://user/name@revision"',
        f"x = vae.generate(y={labels})  # one of each class" if card.conditional else "x = vae.generate(16)",
        *([] if "autoencoder" in card.report else [_ESTIMATED.format(f", y={labels}" if card.conditional else "")]),
    ]
    yield Code("\n".join(lines), "python")
    yield "No code is read from these files, and nothing is unpickled. Hashes detect damage, but do not sign."
    if card.own:
        yield f"Not part of pyro_vae or of this folder, so you must pass them in: {'; '.join(map(_told, card.own))}."


def _passed(own: Own) -> str:
    """What stands for a member of your own in the line that loads."""
    if not own.module:
        return f"YOUR_{own.family.upper()}"
    return own.classes[0] if len(own.classes) == 1 else f"({', '.join(own.classes)})"


def _imports(every: Sequence[Own]) -> list[str]:
    modules: dict[str, dict[str, None]] = {}
    for own in every:
        if own.module:
            modules.setdefault(own.module, {}).update(dict.fromkeys(own.classes))
    return [f"from {module} import {', '.join(names)}" for module, names in modules.items()]


def _told(own: Own) -> str:
    arguments = f" with {own.arguments}" if own.arguments else ""
    digest = f", whose source has the SHA-256 {own.sha256}" if own.sha256 else ""
    return f"the {own.family} {own.place}{arguments}{digest}"


_ESTIMATED = "print(pv.evaluation.iwae(vae, x, num_samples=1000{}, seed=0))"
