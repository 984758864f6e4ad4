"""What a user says about their own file, and what a reader finds in it.

Reading     how to read the file: which column is the label, where the channels are, how many levels there are
Found       the arrays that a reader found, before anything is checked; `arrays.raw` makes a `Raw` of them
"""

from dataclasses import dataclass, field, fields

import numpy as np

from pyro_vae.option_words import Channels, Colour, Missing, check_word


@dataclass(frozen=True)
class Reading:
    """How to read a user's own file. By default everything is inferred from the file.

    Args:
        label: the column of a table, or the array of an archive, that holds the classes; "" looks for common names.
        id: the column of a table that names its rows.
        group: the column of a table (or array of an archive) that names groups; a group stays in one split.
        columns: the columns of a table that are x; if empty, all columns of numbers are.
        image_size: height and width to which the images of a folder are resized; 0 leaves them as they are.
        colour: "grey" or "rgb" converts the images of a folder; "as_stored" leaves them as they are.
        channels: "first" means images (N, C, H, W); "last" means (N, H, W, C); "auto" means first, but refuses what
            looks like last.
        num_levels: L of whole numbers 0..L-1; 0 finds it.
        counts: whole numbers are counts without an upper limit, not levels.
        reals: whole numbers of a table are measurements, not levels.
        missing: NaN is a missing number, not an error; True, False, or the words "nan" and "no".
        needs_labels: labels that cannot be classes are an error; if False, they are left out, with a note.
        version: 2; 1 reads a `.npy` or `.npz` file as the first version of this package did, for runs from then.
    """

    label: str = ""
    id: str = ""
    group: str = ""
    columns: tuple[str, ...] = ()
    image_size: int = 0
    colour: Colour = "as_stored"
    channels: Channels = "auto"
    num_levels: int = 0
    counts: bool = False
    reals: bool = False
    missing: bool = False
    needs_labels: bool = False
    version: int = 2

    def __post_init__(self) -> None:
        missing: object = self.missing
        if isinstance(missing, str):
            check_word("missing", missing, Missing)
            object.__setattr__(self, "missing", missing == "nan")


_OF_KIND = {
    "an array": ("channels", "num_levels"),
    "an archive": ("label", "group", "channels", "num_levels"),
    "a table": ("label", "id", "group", "columns", "num_levels"),
    "a folder of images": ("image_size", "colour", "num_levels"),
    "a data set that has a name": (),
}


def without_effect(reading: Reading, kind: str) -> list[str]:
    """Lists, as sentences, the options that mean nothing for this kind of file.

    Example:
        >>> without_effect(Reading(image_size=32), "a table")
        ['`image_size=32` has no effect on a table.']
    """
    known = {option for options in _OF_KIND.values() for option in options} - set(_OF_KIND[kind])
    said = {field.name: getattr(reading, field.name) for field in fields(Reading) if field.name in known}
    default = Reading()
    changed = {name: value for name, value in said.items() if value != getattr(default, name)}
    return [f"`{name}={value!r}` has no effect on {kind}." for name, value in changed.items()]


@dataclass(frozen=True, eq=False)
class Found:
    """The arrays of one file or of one user's memory, not yet checked.

    Args:
        name: a file name, or another name of the data; never a path.
        source: one sentence that says where the data come from.
        x: only "x", or "x_train", "x_test" and perhaps "x_valid" -> (N, ...).
        y: the key of x -> its labels (N,), of any plain type; empty without labels.
        mask: the key of x -> boolean, True where a number was observed, of the shape of x; empty if all were.
        groups: the key of x -> (N,); data with equal values stay in one split.
        ids: the key of x -> (N,) names of the rows.
        columns: the names of the D numbers of a row, if x is a table.
        classes: the names of the classes 0, 1, ... if y holds their numbers; empty to find them.
        files: file name -> SHA-256 of the bytes on disk.
        notes: sentences that a reader of a number measured on these data must know.
        warnings: the notes that a user must not miss.
    """

    name: str
    source: str
    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray] = field(default_factory=dict)
    mask: dict[str, np.ndarray] = field(default_factory=dict)
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
