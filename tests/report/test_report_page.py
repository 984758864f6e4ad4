"""The page: whole, self-contained, escaped everywhere, and readable by machine and by people who cannot see it."""

import base64
import struct
import zlib
from html.parser import HTMLParser

import pytest
from evaluated import EVALUATED, autoencoder, base, estimate, full

from pyro_vae.report import palette
from pyro_vae.report.cells import MINUS
from pyro_vae.report.document import GROUPS, Picture
from pyro_vae.report.documents.evaluation_document import evaluation_document, headlines
from pyro_vae.report.render import html_page

PAYLOAD = '<script>alert("x")</script>\' onerror="y" {{ 7 * 7 }} {% raw %} &lt; --> ]]>'
VOID = {"meta", "img"}


def png(width=3, height=2):
    def chunk(name, content):
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SVG = b'<?xml version="1.0"?>\n<svg width="75pt" height="30pt" xmlns="http://www.w3.org/2000/svg"><script/></svg>'
PANELS = [
    Picture("Curves", "How it went.", png(), "training"),
    Picture("Mine", "Own group.", SVG, "Things of my own"),
    Picture("Samples", "From the prior.", png(9, 2)),
    Picture("Bounds", "", SVG, "likelihood"),
]


def to_html(report, pictures=()):
    return html_page.to_html(evaluation_document(report, pictures))


class Page(HTMLParser):
    """Tags in order, their attributes, text, and the text of each element that has some."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.words, self.style = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            self.style += data
        elif data.strip():
            self.words.append((self.open[-1], data.strip()))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def text(self, tag):
        return [words for name, words in self.words if name == tag]


FREE = {"protocol_card", "versions", "machine", "timings", "active", "kl_per_dimension"}  # whose keys are text, too


def hostile(value, key=""):
    """With the payload after every string, and after keys that are text."""
    if isinstance(value, dict):
        return {inner + PAYLOAD * (key in FREE): hostile(found, inner) for inner, found in value.items()}
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return value + PAYLOAD if isinstance(value, str) else value


def test_every_tag_is_closed_and_every_link_leads_somewhere():
    read = Page(to_html(full(), PANELS))
    assert read.open == []
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in read.all("a")]
    assert len(links) == 7
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert {attrs["aria-labelledby"] for attrs in read.all("section")} <= set(ids)


def test_nothing_in_any_string_is_taken_for_markup():
    plain = Page(to_html(full(), PANELS))
    panels = [Picture(p.title + PAYLOAD, p.caption + PAYLOAD if p.caption else "", p.content, p.group) for p in PANELS]
    panels[1] = panels[1]._replace(group="Things of my own" + PAYLOAD)
    found = hostile(full())
    found["reference"]["rows"][1]["name"] = "AIS"  # which has a note of its own
    markup = to_html(found, panels)
    read = Page(markup)
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in plain.tags]
    assert [attrs.keys() for _, attrs in read.tags] == [attrs.keys() for _, attrs in plain.tags]
    assert read.style == plain.style
    assert "<script" not in markup
    assert "{{" in markup
    assert "49" not in {word for _, words in read.words for word in words.split()}
    said = [words for _, words in read.words if PAYLOAD in words]
    assert any(words.startswith("digits-vamp-0") for words in said)  # the name of the run
    for start in (
        "python scripts/evaluate.py",
        "AIS from q, T = 200",
        "split",
        "2.15.0",
        "Curves",
        "How it went.",
    ):
        assert any(start in words for words in said), start
    assert all(PAYLOAD in attrs["alt"] for attrs in read.all("img"))


def test_the_page_needs_nothing_from_outside():
    markup = to_html(full(), PANELS)
    read = Page(markup)
    for _, attrs in read.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("href", "#").startswith("#")
        assert attrs.get("src", "data:image/").startswith("data:image/")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.tags}
    assert "url(" not in read.style
    assert "@import" not in read.style
    assert "http" not in markup.replace("http-equiv", "")
    (policy,) = [attrs["content"] for attrs in read.all("meta") if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src" not in policy


def test_pictures_are_inside_unchanged_with_their_size_and_a_text():
    images = Page(to_html(base(), PANELS)).all("img")
    by_alt = {attrs["alt"]: attrs for attrs in images}
    assert [attrs["alt"] for attrs in images] == ["Samples", "Bounds", "Curves", "Mine"]  # by group, own ones last
    for panel in PANELS:
        kind, _, content = by_alt[panel.title]["src"].partition(";base64,")
        assert base64.b64decode(content) == panel.content
        assert kind == ("data:image/png" if panel.content.startswith(b"\x89PNG") else "data:image/svg+xml")
    assert (by_alt["Curves"]["width"], by_alt["Curves"]["height"]) == ("3", "2")
    assert (by_alt["Mine"]["width"], by_alt["Mine"]["height"]) == ("100", "40")  # 75 pt are 100 px


def arranged(sizes):
    """The titles of panels in each column, and of those that take both."""
    pictures = [Picture(str(i), "", png(*size)) for i, size in enumerate(sizes)]
    panels = [{"order": i} | html_page._panel(picture) for i, picture in enumerate(pictures)]
    columns, across = html_page._arranged(panels)
    return [[panel["title"] for panel in column] for column in columns], [panel["title"] for panel in across]


def test_columns_of_pictures_are_about_as_high_as_each_other():
    assert arranged([(10, 10), (10, 9), (10, 5), (10, 5)]) == ([["0", "3"], ["1", "2"]], [])
    assert arranged([(10, 20), (10, 5), (10, 5), (10, 5)]) == ([["0"], ["1", "2", "3"]], [])


def test_a_picture_takes_both_columns_where_else_much_would_stay_empty():
    assert arranged([(2, 1)]) == ([], ["0"])
    assert arranged([(2, 1)] * 3) == ([["0"], ["1"]], ["2"])
    assert arranged([(1, 1), (3, 1)]) == ([], ["0", "1"])  # beside the first the second would leave much empty
    read = Page(to_html(base(), PANELS))
    assert [attrs["class"] for attrs in read.all("div") if attrs.get("class") in ("column", "across")] == ["across"] * 4


def test_the_page_and_its_pictures_have_one_palette_and_a_dark_form():
    style = Page(to_html(base())).style
    assert palette.BLUE in style
    assert palette.INK in style
    assert "@media screen and (prefers-color-scheme: dark)" in style  # paper stays white


def test_an_svg_without_a_size_is_shown_as_it_is():
    (image,) = Page(to_html(base(), [Picture("a", "b", b'<svg viewBox="0 0 1 1"><rect width="9pt"/></svg>')])).all(
        "img"
    )
    assert "width" not in image


@pytest.mark.parametrize("picture", [b"", b"GIF89a", b"<html>", b"\x89PNX"])
def test_other_pictures_are_refused(picture):
    with pytest.raises(ValueError, match="takes a PNG or an SVG; this picture begins with"):
        to_html(base(), [Picture("a", "b", picture)])


def test_the_page_is_read_in_order_by_those_who_can_not_see_it():
    markup = to_html(full(), PANELS)
    read = Page(markup)
    assert markup.startswith("<!DOCTYPE html>")
    assert read.all("html") == [{"lang": "en"}]
    assert read.text("title") == ["digits-vamp-0: report"]
    assert read.text("h1") == ["digits-vamp-0"]
    heads = [tag for tag, _ in read.tags if tag in ("h1", "h2", "h3")]
    assert heads[0] == "h1"
    assert heads.count("h1") == 1
    assert all(b <= chr(ord(a[1]) + 1) for a, b in zip(heads, (h[1] for h in heads[1:]), strict=False))
    assert all(attrs.get("alt") for attrs in read.all("img"))
    assert all(attrs["scope"] in ("col", "row", "rowgroup") for attrs in read.all("th"))
    assert "@media print" in read.style
    assert "A4" in read.style
    assert "max-width: 40rem" in read.style


def test_the_title_is_not_the_time_at_which_a_folder_was_made():
    report = full()
    report["run"]["name"] = "20261101-101500-digits-bernoulli"
    assert Page(to_html(report)).text("h1") == ["digits-bernoulli"]
    report["run"]["name"] = "20261101-101500"
    assert Page(to_html(report)).text("h1") == ["20261101-101500"]


def test_what_is_not_drawn_has_its_reason_on_the_page():
    report = base() | {"not_drawn": {"latent plane": "it needs a z of 2 dimensions, and this z has 20"}}
    assert "latent plane: it needs a z of 2 dimensions, and this z has 20." in Page(to_html(report)).text("dd")


def plain(report):
    """The headlines, with a minus that is on every keyboard."""
    return [
        headline._replace(
            value=headline.value.replace(MINUS, "-"), lines=tuple(line.replace(MINUS, "-") for line in headline.lines)
        )
        for headline in headlines(report)
    ]


def test_the_head_has_four_numbers_with_both_errors():
    assert headlines(full())[0].value == f"≥ {MINUS}22.15"
    found = plain(full())
    assert [(headline.label, headline.value) for headline in found] == [
        ("log p(x)", "≥ -22.15"), ("ELBO", "-22.51"),
        ("right class, by Bayes' rule", "93.6 %"), ("k-hat above 0.7", "33 %"),
    ]  # fmt: skip
    assert found[0].lines[:3] == ("± 0.19 over 6 test data", "± 0.002* Monte Carlo", "lower bound in expectation")
    assert "at most 0.499 bits/dim" in found[0].lines
    assert found[1].lines[-1] == "reconstruction -17.51, KL 5.00"
    without = full()
    del without["classification"]
    assert plain(without)[3].value == "2 of 3"


def test_the_head_of_an_autoencoder_promises_no_density():
    labels = {headline.label: headline for headline in headlines(autoencoder())}
    assert labels.keys() == {"reconstruction, log p(x|z)", "RMSE", "numbers in, numbers in the code"}
    assert labels["numbers in, numbers in the code"].value == "64 → 20"
    markup = to_html(autoencoder(), PANELS[:1])
    assert "no ELBO, no log p(x)" in markup
    assert "importance" not in markup.partition("<body>")[2]


@pytest.mark.parametrize(
    ("mean", "error", "value", "line"),
    [
        (-11091.4, 654.2, "-11091", "± 654 over 6 test data"),
        (-22.1476, 0.1908, "-22.15", "± 0.19 over 6 test data"),
        (-22.1476, 0.0021, "-22.148", "± 0.002 over 6 test data"),
        (-22.1476, None, "-22.148", None),
        (None, None, "n/a", None),
    ],
)
def test_a_headline_has_the_digits_that_its_error_leaves(mean, error, value, line):
    (found,) = plain({"test": {"elbo": estimate(mean, error)}})
    assert found.value == value
    assert found.lines[0] == (line or "± 0.004 Monte Carlo")


def test_all_numbers_of_the_tables_are_on_the_page():
    read = Page(to_html(full()))
    cells = [words.replace(MINUS, "-") for words in read.text("td") + read.text("th")]
    for said in (
        "-22.148",
        "0.191",
        "<0.001",
        "no bound",
        "upper",
        "33 %",
        "AIS from q, T = 200",
        "-28.50 ± 0.13",
        "0123abc",
    ):
        assert said in cells, said
    assert read.text("code") == [full()["run"]["trained_by"], full()["run"]["command"]]
    assert "Simulated data only:" in " ".join(read.text("dd"))


@pytest.mark.parametrize("key", EVALUATED)
def test_any_key_of_an_evaluation_may_be_absent(key):
    found = full()
    del found[key]
    assert Page(to_html(found)).open == []


@pytest.mark.parametrize("report", [base(), autoencoder(), {}])
def test_sparse_reports_make_a_page_without_empty_sections(report):
    read = Page(to_html(report))
    assert read.open == []
    assert all(attrs["aria-labelledby"] != "protocol-title" for attrs in read.all("section"))
    assert len(read.all("section")) == len(read.text("h2"))
    assert read.text("h1") == ["digits" if report else "a run"]


def test_groups_of_pictures_come_in_one_order():
    titles = Page(to_html(base(), PANELS)).text("h2")
    wanted = [GROUPS[name][0] for name in ("data", "likelihood", "training")]
    assert titles[:4] == [*wanted, "Things of my own"]
