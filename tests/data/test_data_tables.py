"""Tables of text and frames in memory: what is x, what is said of it, and what is refused with a cure that works."""

import hashlib
import time

import numpy as np
import pandas as pd
import pytest
from cases import thorough

from pyro_vae.data.own.reading import Reading
from pyro_vae.data.tables import column_cells
from pyro_vae.data.tables.frames import of_frame
from pyro_vae.data.tables.table_file import read_csv
from pyro_vae.errors import DataError, UsageError

NAN = float("nan")


@pytest.fixture
def read(tmp_path):
    def read(text, name="own.csv", **reading):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_csv(tmp_path / name, Reading(**reading))

    return read


def test_a_table_is_numbers_labels_groups_and_names_of_rows(read, tmp_path):
    found = read("town,a,b,class,film\n007,1,2.5,x,f\n8,3,,y,g\n", id="town", group="film")
    np.testing.assert_array_equal(found.x["x"], [[1, 2.5], [3, NAN]])
    assert (found.x["x"].dtype, found.columns) == (np.float64, ("a", "b"))
    assert (found.y["x"].tolist(), found.groups["x"].tolist()) == (["x", "y"], ["f", "g"])
    assert found.ids["x"].tolist() == ["007", "8"]
    assert found.notes == ("The column 'class' was taken as the label.",)
    digest = hashlib.sha256((tmp_path / "own.csv").read_bytes()).hexdigest()
    assert (found.name, found.files) == ("own.csv", {"own.csv": digest})


FRAME = pd.DataFrame({"a b": [1.1, -2e-300, 1 / 3], "c": [1, 2, 2**60 + 1], "d": [NAN, 5.5, 1e17]})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("own.csv", {}),
        *thorough(
            ("own.csv", {"sep": ";"}),
            ("own.csv", {"sep": "|"}),
            ("own.csv", {"sep": ";", "decimal": ","}),
            ("own.tsv", {"sep": "\t"}),
            ("own.tsv", {"sep": "\t", "decimal": ","}),
            ("own.txt", {"sep": " ", "na_rep": "NA"}),
            ("own.csv", {"header": False}),
            ("own.csv", {"lineterminator": "\r\n"}),
            ("own.csv", {"encoding": "utf-8-sig"}),
            ("own.csv", {"quoting": 1}),
        ),
    ],
)
def test_what_pandas_writes_is_read_to_the_last_bit(tmp_path, name, options):
    FRAME.to_csv(tmp_path / name, index=False, **options)
    found = read_csv(tmp_path / name)
    np.testing.assert_array_equal(found.x["x"], FRAME.to_numpy())
    assert found.columns == (("column 0", "column 1", "column 2") if "header" in options else tuple(FRAME.columns))


@pytest.mark.parametrize(
    ("text", "x", "columns"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]], ("column 0", "column 1")),
        ("a;b\n1,5;2\n3,25;4\n", [[1.5, 2], [3.25, 4]], ("a", "b")),
        *thorough(
            ("  1.5   2.5\n\t3 \t4  \n", [[1.5, 2.5], [3, 4]], ("column 0", "column 1")),
            ("# a b\n1.5 2.5\n", [[1.5, 2.5]], ("a", "b")),
            ("# a,b\n1.5,2.5\n", [[1.5, 2.5]], ("a", "b")),
            ("1,5;2,5;3,5\n1,5;2,5;3,5\n", [[1.5, 2.5, 3.5]] * 2, ("column 0", "column 1", "column 2")),
            ('a,b\n"1,5",2\n', [[1.5, 2]], ("a", "b")),
            ('"a\nb",c\n1,2\n', [[1, 2]], ("a\nb", "c")),
            ("a,b\r1,2\r3,4\r", [[1, 2], [3, 4]], ("a", "b")),
            ("value here\n1.5\n2\n", [[1.5], [2]], ("value here",)),
            ("0,1,2\n5,6,7\n", [[5, 6, 7]], ("0", "1", "2")),
            (",0,1,2\n0,5,6,7\n1,8,9,7\n", [[5, 6, 7], [8, 9, 7]], ("0", "1", "2")),
            ("a b\nr1 1 2\nr2 3 4\n", [[1, 2], [3, 4]], ("a", "b")),
            ("town,400,402,404\nu,1,2,3\n", [[1, 2, 3]], ("400", "402", "404")),
            ("a,b\n1,2 \n3 ,NA \n", [[1, 2], [3, NAN]], ("a", "b")),
            ("a,b\nNaN,null\n?,3\n4,N/A\n", [[NAN, NAN], [NAN, 3], [4, NAN]], ("a", "b")),
            ("a,b\nTrue,\nFalse,1\n", [[1, NAN], [0, 1]], ("a", "b")),
            ("a\n" + "9" * 25 + "\n1\n", [[1e25], [1]], ("a",)),
        ),
    ],
)
def test_forms_of_tables(read, text, x, columns):
    found = read(text)
    np.testing.assert_array_equal(found.x["x"], x)
    assert found.columns == columns


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a,b\n1,2\n", np.int64),
        ("a,b\n1,True\n", np.int64),
        ("a,b\nTrue,False\n", np.bool_),
        ("a,b\n1,\n2,3\n", np.float64),
        ("a,b\n1,2.0\n", np.float64),
    ],
)
def test_whole_numbers_stay_whole(read, text, kind):
    assert read(text).x["x"].dtype == kind


@pytest.mark.parametrize(
    ("text", "columns", "note"),
    [
        (",a\n0,5\n1,8\n", ("a",), "Columns that count the rows were left out: 'column 0'."),
        ("a,town,day\n1,Ulm,2020-01-01\n2,Bonn,2020-01-02\n", ("a",), "no numbers were left out: 'town', 'day'."),
        *thorough(
            ("Unnamed: 0,a\n1,5\n2,8\n", ("a",), "count the rows were left out: 'column 0'. `columns` keeps them."),
            ("ID,a\n1,5\n2,8\n", ("a",), "count the rows were left out: 'ID'."),
            ("a,b,\n1,2,\n3,4,\n", ("a", "b"), "without any value were left out: 'column 2'."),
            (
                "a,a,a.1\n1,2,3\n",
                ("a", "a.2", "a.1"),
                "Of several columns with one name, all but the first were renamed: 'a.2'",
            ),
            ("a,b\n1,2\n\n3,4\n\n", ("a", "b"), "Blank lines that were skipped: 1."),
            ("1,2\n", ("column 0", "column 1"), "no line of column names"),
            ("a;b\n1,5;2\n", ("a", "b"), "The comma is the decimal sign in the columns 'a'."),
            ("a,Y,label\n1,2,4\n", ("a", "Y", "label"), "'Y', 'label' could be the label, and none was chosen."),
            ("a,y\n1,2.5\n2,3\n", ("a", "y"), "'y' holds too many values for classes"),
            ('a,name\n1,"x, y"\n2,"u\nv"\n3,"u ""v"""\n', ("a",), "left out: 'name'."),
        ),
    ],
)
def test_what_is_left_out_or_guessed_is_said(read, text, columns, note):
    found = read(text)
    assert found.columns == columns
    assert note in " ".join(found.notes)


def test_columns_are_chosen_and_ordered_by_name(read):
    text = "id,a,b,town\n1,5,6,u\n2,7,8,v\n"
    found = read(text, columns=("b", "id"))
    assert (found.x["x"].tolist(), found.columns, found.notes) == ([[6, 1], [8, 2]], ("b", "id"), ())


@pytest.mark.parametrize("label", ["label", "Labels", "target", "CLASS", "y", "Y"])
def test_common_names_of_labels(read, label):
    found = read(f"a,{label}\n1,3a\n2,4\n3,5\n")
    assert (found.columns, found.y["x"].tolist()) == (("a",), ["3a", "4", "5"])


def test_a_label_called_none_is_a_label(read):
    assert read("a,label\n1,None\n2,NA\n").y["x"].tolist() == ["None", "NA"]
    assert read("a,kind\n1,None\n2,NA\n", label="kind").y["x"].tolist() == ["None", "NA"]


REFUSED = [
    ("", DataError, "own.csv: is empty"),
    ("a,b\n1,2\n3,4,5\n", DataError, "line 3 has 3 of 2 cells"),
    ("a,b\n1,2\n3\n", DataError, "line 3 has 1 of 2 cells"),
    ("a,b\n1,2\n3,\x004\n", DataError, "has a NUL byte in line 3"),
    ("a,é\n1,2\n".encode("latin-1"), DataError, "is not UTF-8, from byte 0xe9 in line 1 on"),
    ("age,b\n1,2\n2,3\nn.a.,4\n", DataError, "column 'age' holds numbers, and 'n.a.' in row 2"),
    ("a;b\n1,500;2\n", DataError, "'1,500' in row 0 could separate thousands or decimals"),
    *thorough(
        ("\n \n", DataError, "begins with 2 blank lines"),
        ("a,b\n", DataError, "no row of data"),
        ('a,name\n1,"x\n2,y\n', DataError, "line 3 cannot be read"),
        ('a,name\n1,"x"y\n', DataError, "line 2 cannot be read"),
        ('"a,b\n1,2\n', DataError, "quotation mark in line 1 is not closed"),
        ("a\n" + "x" * 200_000, DataError, "line 2 cannot be read .field larger than"),
        ("x" * 300 + ",b\n1,2\n", DataError, "has 300 characters. Is line 1 a header"),
        ("town\nUlm\n", DataError, "no column of numbers is left"),
        (",\n0,\n1,\n", DataError, "no column of numbers is left"),
        (
            "5.1,3.5,setosa\n4.9,3.0,setosa\n",
            DataError,
            "names of the columns or data",
        ),
        ("a;b\n1,5;2.5\n", DataError, "'a' has a decimal comma, and column 'b' a point, '2.5' in row 0"),
        ("a;b\n1,5;2\n1.5;2\n", DataError, "a decimal comma, '1,5' in row 0, and a decimal point, '1.5' in row 1"),
        ('a,b\n5,1\n"3,250.5",4\n', DataError, "the sign within '3,250.5' in row 1 separates thousands"),
        ("a,label\n1," + "x" * 201 + "\n", DataError, "has 201 characters in row 0"),
    ),
]


@pytest.mark.parametrize(("text", "error", "message"), REFUSED)
def test_what_is_no_table_is_refused_with_its_place(read, text, error, message):
    with pytest.raises(error, match=message):
        read(text)


@pytest.mark.parametrize(
    ("reading", "error", "message"),
    [
        ({"label": "knid"}, UsageError, "`label='knid'` is not a column; did you mean 'kind'?"),
        ({"columns": ("a", "c")}, UsageError, "`columns='c'` is not a column"),
        ({"columns": ("town",)}, DataError, "`columns` names 'town', which holds text"),
        ({"columns": ("a", "a")}, UsageError, "`columns` names 'a', and `columns` names it too"),
        ({"columns": ("a", "kind"), "label": "kind"}, UsageError, "`columns` names 'kind', and `label` names it too"),
        ({"columns": ("void",)}, DataError, "`columns` names 'void', which holds only empty cells"),
        ({"group": "twice"}, DataError, "has several columns 'twice'"),
    ],
)
def test_columns_that_cannot_be_used_so(read, reading, error, message):
    with pytest.raises(error, match=message):
        read("a,kind,town,void,twice,twice\n1,2,u,,1,1\n2,3,v,,1,1\n", **reading)


@pytest.mark.parametrize("address", ["http://a.org/x.csv", "s3://a/x.csv", "file:///x.csv", "memory:/x.csv"])
def test_no_address_is_opened(address):
    with pytest.raises(DataError, match=r"is an address\. Download the file first"):
        read_csv(address)


def test_sizes_are_bounded_before_anything_is_parsed(read, tmp_path, monkeypatch):
    wide = ",".join(f"c{i}" for i in range(20_001))
    with pytest.raises(DataError, match="has 20,001 columns, more than 20,000"):
        read(f"{wide}\n{wide}\n")
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate((1 << 31) + 1)
    with pytest.raises(DataError, match="more than 2,147,483,648 bytes"):
        read_csv(tmp_path / "large.csv")
    monkeypatch.setattr("pyro_vae.data.tables.table_text._LONGEST_LINE", 100)
    with pytest.raises(DataError, match="line 2 has 100 characters or more"):
        read("a,b\n" + "1" * 200 + ",2\n")


@pytest.mark.thorough
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_the_cure_for_another_encoding_works(tmp_path, encoding):
    (tmp_path / "own.csv").write_bytes("a,é\n1,2\n3,4\n".encode(encoding))
    with pytest.raises(DataError, match=f"encoding='{encoding}'"):
        read_csv(tmp_path / "own.csv")
    again = pd.read_csv(tmp_path / "own.csv", sep=None, engine="python", encoding=encoding)
    again.to_csv(tmp_path / "utf8.csv", index=False)
    assert read_csv(tmp_path / "utf8.csv").columns == ("a", "é")


def cured(tmp_path, message, monkeypatch):
    """Runs the code of a message in the folder of the file, and reads what it wrote."""
    code = message.partition(": frame = ")[2].replace("pandas.", "pd.")
    monkeypatch.chdir(tmp_path)
    exec("frame = " + code, {"pd": pd})  # noqa: S102 - the cure itself
    return read_csv(tmp_path / "plain.csv")


def test_the_cure_for_thousands_changes_one_column_alone(tmp_path, read, monkeypatch):
    with pytest.raises(DataError, match=r"separates thousands\. Change only that column") as caught:
        read("when;mass;sum;part\n01.04.2023;0.125;1.234,5;a\n02.04.2023;10.5;-2.000;b\n03.04.2023;;1.234.567;c\n")
    found = cured(tmp_path, str(caught.value), monkeypatch)
    np.testing.assert_array_equal(found.x["x"], [[0.125, 1234.5], [10.5, -2000], [NAN, 1234567]])
    assert pd.read_csv(tmp_path / "plain.csv")["when"].tolist() == ["01.04.2023", "02.04.2023", "03.04.2023"]


def test_the_cure_of_a_file_without_names(tmp_path, read, monkeypatch):
    with pytest.raises(DataError, match=r"frame\[1\] = frame\[1\].str") as caught:
        read("0.125;5\n10.5;-2.000,5\n3;4\n")
    assert cured(tmp_path, str(caught.value), monkeypatch).x["x"].tolist() == [[0.125, 5], [10.5, -2000.5], [3, 4]]


def test_the_cure_for_two_decimal_signs_changes_the_columns_of_commas_alone(tmp_path, read, monkeypatch):
    with pytest.raises(DataError, match="Use the same sign in all columns") as caught:
        read("when;a;b;note\n01.04.2023;1,5;2.500;Ulm, Bonn\n02.04.2023;2;3.1;x\n")
    code, _, thousands = str(caught.value).partition(". If the point separates thousands, first do: ")
    found = cured(tmp_path, code, monkeypatch)
    assert found.x["x"].tolist() == [[1.5, 2.5], [2, 3.1]]
    assert pd.read_csv(tmp_path / "plain.csv")[["when", "note"]].iloc[0].tolist() == ["01.04.2023", "Ulm, Bonn"]
    assert thousands == "frame['b'] = frame['b'].str.replace('.', '')"


def test_no_cure_is_given_where_signs_contradict():
    with pytest.raises(DataError, match="Write all numbers of that column in the same way"):
        of_frame(pd.DataFrame({"a": ["1.234,5", "1.5"]}), Reading(), "own")
    with pytest.raises(DataError, match=r"only that column: frame\['a'\] = frame\['a'\].str.replace\(' ', ''\)"):
        of_frame(pd.DataFrame({"a": ["1 234", "1.5"]}), Reading(), "own")


@pytest.mark.parametrize("cell", ["9" * 100_000 + "x", "," * 2 + "9" * 100_000, " " * 100_000 + "x"])
def test_long_cells_take_no_time(cell):
    start = time.perf_counter()
    assert not column_cells.IS_NUMBER.fullmatch(cell)
    assert column_cells.numbers(pd.Series(["1", cell, "a"]), "own.csv: column 'a'") is None
    assert not column_cells.has_decimal_comma(pd.Series(["1,5", cell]))
    assert time.perf_counter() - start < 1


def test_a_frame_in_memory():
    frame = pd.DataFrame(
        {
            "a": pd.array([1, None, 3], dtype="Int64"),
            "b": [True, False, True],
            "c": pd.Categorical(["u", "v", "u"]),
            "d": pd.to_datetime(["2020-01-01"] * 3),
            "e": np.array([1, None, 2.5], dtype=object),
        },
        index=["r", "s", "t"],
    )
    found = of_frame(frame, Reading(label="c"), "a frame")
    np.testing.assert_array_equal(found.x["x"], [[1, 1, 1], [NAN, 0, NAN], [3, 1, 2.5]])
    assert (found.columns, found.y["x"].tolist()) == (("a", "b", "e"), ["u", "v", "u"])
    assert found.ids["x"].tolist() == ["r", "s", "t"]
    assert found.notes == ("Columns that hold no numbers were left out: 'd'.",)


@pytest.mark.parametrize(
    ("frame", "ids"),
    [
        (pd.DataFrame({"a": [1, 2]}), None),
        (pd.DataFrame({"a": [1, 2]}, index=[7, 3]), [7, 3]),
        (pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, "u"), (2, "v")])), ["(1, 'u')", "(2, 'v')"]),
        (pd.DataFrame({0: [1, 2], 1: [3, 4]}), None),
    ],
)
def test_the_index_of_a_frame_names_its_rows(frame, ids):
    found = of_frame(frame, Reading(), "a frame")
    assert (found.ids["x"].tolist() if ids else found.ids) == (ids or {})
    np.testing.assert_array_equal(found.x["x"], frame.to_numpy())
    assert found.columns == tuple(map(str, frame.columns))


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame(index=[1, 2])])
def test_an_empty_frame_is_refused(frame):
    with pytest.raises(DataError, match="a frame: holds no"):
        of_frame(frame, Reading(), "a frame")
