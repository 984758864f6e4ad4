"""The text of pages, messages and docstrings is plain English: kinds of phrases that readers read twice stay out."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG", "RESULTS")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "pyro_vae").rglob("*.yaml")),
]
SOURCES = [*sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "pyro_vae").rglob("*.py"))]

_NOUN = "array|bound|class|column|density|file|flow|folder|images?|labels?|levels?|number|part|path|run|tensor"
# A kind of phrase: letters that are in each of its kind, the phrases, and what to write instead.
KINDS = (
    ("hoever", r"\b[Ww]hoever\b", "anyone who, or name the reader"),
    ("obody", r"\b[Nn]obody\b", "no one, or say that it is not known"),
    ("anew", r"(?<!iwae_)\banew\b(?!:)", "again"),  # `anew:` documents a field
    ("ut for", r"\b[Bb]ut for\b", "except"),
    ("an not", r"\b[Cc]an not\b", "cannot"),
    ("otherwise", r"\bmay say otherwise\b", "the subject first"),
    ("what it", r"\bis what it does\b", "the subject first"),
    ("alike", r"\balike\b", "in the same way, similar, the same"),
    ("eside", r"(?!^beside$)\b[Bb]eside\b(?!:)", "next to, with, in addition to"),  # a table and a field have the name
    ("at the door", r"\bat the door\b", "when loading, before training"),
    ("one's", r"\bone's own\b", "your own"),
    ("in all", r"\bin all[,.;:)]", "altogether, or leave it out"),
    ("held ", r"\bheld (against|to (what|its|the|those))\b", "compared with, checked against"),
    ("hold", r"\bhold(s|ing)? (against|to (what|its|the|those))\b", "compare with, check against"),
    ("by ", r"\bby (itself|themselves)\b", "alone, on its own"),
    ("is no ", rf"(?<!there )\bis no ({_NOUN})\b", "is not a"),
    ("are no ", rf"(?<!there )\bare no ({_NOUN})\b", "are not"),
    ("so many", r"\bso many\b", "this many, that many"),
    ("see", r"\bfor which see\b|\bsee there\b", "a sentence that names the place"),
    ("such as has", r"\bsuch as has\b", "name the thing again"),
    ("it is not", r"\bso that it is not\b", "a sentence of its own"),
    ("Says", r"^Says\b", "Returns, Explains, Describes"),
    ("Tells", r"^Tells\b", "Returns, Explains, Describes"),
    (" to be", r"\b(is|are) to be\b", "must be, should be, will be"),
    ("one a", r"\bone an? (layer|pixel|datum|line|epoch)\b", "one per"),
    ("d a", r"\brecord an? (epoch|layer)\b", "a record per"),
    ("line a", r"\bline an? (epoch|layer)\b", "a line per"),
    ("as well", r"\bas well\b(?! as)", "too, also"),
    ("mend", r"\bmend(s|ed)?\b", "correct, repair"),
    ("away", r"\b[Tt]aken? away\b", "remove, subtract"),
    (" less ", r"\bless (its|the|what)\b", "minus"),
    (", as th", r", as (that|those) of\b", "such as, or name the thing again"),
    ("the same kind", r"\bother (test )?data of the same kind\b", "another test set from the same distribution"),
    ("said to be", r"\bsaid to be\b", "called, recorded as"),
    ("none given", r"\bnone given\b", "by default"),
    ("whatever default", r"\bwhatever default\b", "not the default"),
)
_BREAK = re.compile(r"[\"']\n *[rf]*[\"']|\n *#")  # where a string or comment goes on in another line
_INSERTED = re.compile(r"\{[^{}]*\}")  # code within an f-string, in which names are not words
_OPENING = re.compile(r"^[rRfFbB]*(\"\"\"|'''|\"|')")


def paragraphs(page):
    """Lists the paragraphs of a page of Markdown, each as one line."""
    return [" ".join(paragraph.split()) for paragraph in page.split("\n\n")]


def texts(source):
    """Lists the strings and comments of Python, each as one line: literals that stand together make one string."""
    found, last = [], None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            content = token.string[:-3] if token.string.endswith('"""') else token.string[:-1]
            words = _INSERTED.sub("X", _OPENING.sub("", content))
        elif token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ")
        else:
            last = last if token.type == tokenize.NL else None
            continue
        joint = " " if token.type == tokenize.COMMENT else ""
        if found and last == token.type:
            found[-1] += joint + words
        else:
            found.append(words)
        last = token.type
    return [" ".join(text.split()) for text in found]


def complaints(lines):
    """Lists the phrases of `KINDS` in some lines of text, each with what to write instead."""
    return [
        f"{phrase[0]!r} ({better}) in: {line[max(0, phrase.start() - 60) : phrase.end() + 60]}"
        for line in lines
        for letters, kind, better in KINDS
        if letters in line
        for phrase in re.finditer(kind, line)
    ]


def complaints_of(source):
    """Lists the phrases in strings and comments of Python; most sources have none anywhere, which is seen fast."""
    flat = " ".join(_BREAK.sub(" ", source).split())
    is_clean = not any(letters in flat and re.search(kind.lstrip("^"), flat) for letters, kind, _ in KINDS)
    return [] if is_clean else complaints(texts(source))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_plain_english(path):
    assert complaints(paragraphs(path.read_text(encoding="utf-8"))) == []


def test_docstrings_messages_and_comments_are_plain_english():
    found = {path: path.read_text(encoding="utf-8") for path in SOURCES}
    assert [f"{path}: {each}" for path, text in found.items() for each in complaints_of(text)] == []


@pytest.mark.parametrize(
    ("source", "phrase"),
    [
        ('"""Says it."""', "Says"),
        ('raise ValueError(\n    "this is no "\n    f"file"\n)', "is no file"),
        ("# taken\n# away", "taken away"),
        ('x = f"drawn anew"', "anew"),
    ],
)
def test_a_phrase_is_found_wherever_its_words_stand(source, phrase):
    assert phrase in complaints_of(source)[0]


def test_names_in_code_are_not_words():
    assert complaints_of('beside = f"{beside} is damaged"; anew = alike(beside)') == []
