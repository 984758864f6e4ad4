"""The protocol of splits: what a reader must know to repeat or compare a number measured on them."""

import hashlib
from typing import Any

import numpy as np

from pyro_vae.data.cutting import Pieces
from pyro_vae.data.own import labels
from pyro_vae.data.own.layout import in_words
from pyro_vae.data.sources import Raw
from pyro_vae.data.splits import NAMES, Split

_FEW = 30  # with fewer data, an interval that is called 95 % can cover less

_STORED = {"standardized": "x is the number as stored", "counts": "x is the count as stored"}
_SEEN = {
    "standardized": "the program sees each in units of its spread among the data that it was first trained on",
    "counts": "the program sees log(1 + x)",
}
_SENTENCES = {
    "none": "Not binarised: x is the intensity, level / (number of levels - 1), or the float as stored.",
    "already binary": "The data are already binary and stay as they are.",
    "dynamic": "Each pixel is drawn from Bernoulli(intensity), 1 where a uniform random number is below the intensity. "
    "Training draws again in every epoch; evaluation sees one draw, fixed by the data seed.",
    "static": "Each pixel was drawn once from Bernoulli(intensity), 1 where a uniform random number is below the "
    "intensity, by the data seed; training and evaluation see that draw.",
    "threshold": "A pixel is 1 where its intensity is at least 1/2, else 0.",
    **{scaling: f"{stored}; {_SEEN[scaling]}." for scaling, stored in _STORED.items()},
    "levels": "x is the level 0 ... L-1, or the count, as stored.",
    "dequantize": "x = (level + u) / (number of levels), u uniform on (0, 1), drawn again in every training epoch; "
    "evaluation sees one draw, fixed by the data seed. Adding the log-Jacobian to log p(x) gives the "
    "log-density on the scale of the levels, whose mean over u bounds the log-probability of the discrete image "
    "from below (Theis et al. 2016).",
}


def protocol(
    raw: Raw, splits: dict[str, Split], recipe: str, split: str, seed: int, pieces: Pieces, more: dict[str, Any]
) -> dict[str, Any]:
    """Builds the record: JSON, without absolute paths, the same on every machine.

    Args:
        raw: the data set.
        splits: what was made of it.
        recipe: a key of `RECIPES`.
        split: "random" or "contiguous".
        seed: the data seed.
        pieces: which data went into which split.
        more: entries that only some data have, such as the names of columns.
    """
    cut = any(len(part.cut) > 1 for part in raw.parts)
    kind = split if cut else "given"
    return {
        "name": raw.name,
        "source": raw.source,
        "files": raw.files,
        "sha256": _digest(splits),
        "shape": list(splits["train"].levels.shape[1:]),
        "num_levels": raw.num_levels,
        "num_classes": raw.num_classes,
        **more,
        "split": {
            "kind": kind,
            "seed": seed if kind == "random" else None,
            "given": [name for part in raw.parts if len(part.cut) == 1 for name in part.cut],
            "sizes": {name: len(splits[name]) for name in NAMES},
            "index_sha256": {name: _index_hash(pieces[name][1]) for name in NAMES},
        },
        "binarization": _binarization(raw, recipe, seed, more.get("scaling", "")),
        "dequantized": _dequantization(splits["train"], recipe, seed),
        "notes": [
            *raw.notes,
            *_notes(raw, recipe, kind),
            *_missing(more),
            *untrained(splits, raw.classes),
            *_few(splits),
            *_sampled(splits["valid"]),
        ],
    }


def without_scaling(protocol: dict[str, Any]) -> dict[str, Any]:
    """Makes the record for a program that sees x as it is stored, not scaled.

    Example:
        >>> card = {"scaling": "counts", "binarization": {"sentence": "..."}}
        >>> without_scaling(card)["binarization"]["sentence"]
        'x is the count as stored.'
    """
    stored = _STORED.get(protocol.get("scaling", ""))
    return {**protocol, "binarization": {**protocol["binarization"], "sentence": f"{stored}."}} if stored else protocol


def description(raw: Raw, splits: dict[str, Split]) -> str:
    """Describes the data in a sentence, the first line of a run.

    Args:
        raw: the data set.
        splits: what was made of it.
    """
    x_shape = tuple(splits["train"].levels.shape[1:])
    values = splits["train"].values
    what = in_words(x_shape, sum(map(len, splits.values())))
    return f"{what}, {values}, {labels.in_words(raw.classes, raw.num_classes)}"


def _digest(splits: dict[str, Split]) -> str:
    levels = hashlib.sha256()
    for name in NAMES:
        for block in splits[name].slices():
            levels.update(splits[name].levels_at(block).numpy().data)
    return levels.hexdigest()


def _index_hash(index: np.ndarray) -> str:
    return hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()


def _binarization(raw: Raw, recipe: str, seed: int, scaling: str) -> dict[str, Any]:
    kind = "none" if recipe == "dequantize" else "already binary" if raw.num_levels == 2 else recipe
    drawn = kind in ("dynamic", "static")
    return {"kind": kind, "seed": seed if drawn else None, "sentence": _SENTENCES.get(scaling, _SENTENCES[kind])}


def _dequantization(split: Split, recipe: str, seed: int) -> dict[str, Any] | None:
    if recipe != "dequantize":
        return None
    return {
        "num_levels": split.num_levels,
        "seed": seed,
        "log_jacobian": split.log_jacobian,
        "sentence": _SENTENCES[recipe],
    }


def _notes(raw: Raw, recipe: str, kind: str) -> list[str]:
    notes = []
    if raw.name == "frey_faces" and kind == "random":
        notes.append(
            "Neighbouring frames of the film are nearly equal, so a random split leaks training data into the test "
            "data; a contiguous split avoids that."
        )
    if raw.name == "frey_faces" and kind == "contiguous":
        notes.append(
            "Neighbouring frames of the film are nearly equal, so the standard error over the data, which assumes "
            "independence, is too small."
        )
    if recipe in ("dynamic", "static"):
        other = "static" if recipe == "dynamic" else "dynamic"
        notes.append(f"Numbers on {recipe} binarisation are not comparable with numbers on {other} binarisation.")
    return notes


def _missing(more: dict[str, Any]) -> list[str]:
    """Explains what log p of data with gaps is, and what it assumes."""
    if not any(more.get("missing", {}).values()):
        return []
    shares = ", ".join(f"{share:.1%} of the {name} numbers" for name, share in more["missing"].items())
    return [
        f"Missing: {shares}. log p(x) is the log-probability of the observed numbers. It assumes that gaps depend "
        "only on observed values; if they depend on the missing ones, the fit and the imputations are biased."
    ]


def untrained(splits: dict[str, Split], names: tuple[str, ...]) -> list[str]:
    """Warns of classes that occur in validation or test data but in no training datum.

    Args:
        splits: the three splits.
        names: of the classes; empty if classes are called by their numbers.
    """
    if splits["train"].labels is None:
        return []
    trained = set(splits["train"].labels.tolist())
    seen = {name: [] if (y := splits[name].labels) is None else y.tolist() for name in ("test", "valid")}
    missing = sorted({label for labels in seen.values() for label in labels} - trained)
    if not missing:
        return []
    called = ", ".join(names[i] if names else str(i) for i in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    share, word = next(
        (f"{sum(label in missing for label in labels)} of the {len(labels)}", word)
        for (name, labels), word in zip(seen.items(), ("test", "validation"), strict=True)
        if set(labels) & set(missing)
    )
    return [
        f"No training datum has the label {called}{more}, which {share} {word} data have. If the file is sorted by "
        "label, a random split cures this."
    ]


def _sampled(valid: Split) -> tuple[str, ...]:
    if valid.sample_size == len(valid):
        return ()
    return (f"During training, validation looks at a random {valid.sample_size} of the {len(valid)} validation data.",)


def _few(splits: dict[str, Split]) -> list[str]:
    """Warns of splits with so few data that hardly any conclusion is possible."""
    about = {
        "train": "hardly anything can be learned from so few",
        "valid": "the choice of the best epoch is mostly chance",
        "test": "intervals over so few data are rough, and only a large difference can be seen",
    }
    words = {"train": "training", "valid": "validation", "test": "test"}
    sizes = {name: len(splits[name]) for name in NAMES if len(splits[name]) < _FEW}
    return [
        f"There {'is' if size == 1 else 'are'} {size} {words[name]} {'datum' if size == 1 else 'data'}: {about[name]}."
        for name, size in sizes.items()
    ]
