"""The two lines that convert a file of another format: run, on a file made here, and what they make is read."""

import bz2
import gzip
import lzma
import pickle
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pyro_vae.data import formats
from pyro_vae.data.images.image_folder import read_folder
from pyro_vae.data.own import conversions
from pyro_vae.data.own.conversions import other_format
from pyro_vae.data.tables.table_file import read_csv

X = np.random.default_rng(0).integers(0, 256, (6, 4), dtype=np.uint8)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
FRAME = pd.DataFrame(X, columns=list("abcd"))
CSV = FRAME.to_csv(index=False).encode()


def hdf5(path):
    import h5py

    with h5py.File(path, "w") as file:
        file["x"] = X
        file.create_group("more")["y"] = X[:, 0]


def mat(path):
    from scipy.io import savemat

    savemat(path, {"x": X})


def mtx(path):
    from scipy.io import mmwrite
    from scipy.sparse import coo_array

    mmwrite(path, coo_array(X))


def netcdf(path):
    import xarray

    xarray.Dataset({"x": (("row", "column"), X)}).to_netcdf(path, engine="h5netcdf")


def tensor(path):
    import torch

    torch.save(torch.from_numpy(X), path)


def safetensors(path):
    from safetensors.numpy import save_file

    save_file({"x": X}, path)


def anndata(path):
    from anndata import AnnData

    AnnData(X.astype(np.float32)).write_h5ad(path)


def zarr(path):
    import zarr

    zarr.save(str(path), X)


def stack(path):
    frames = [Image.fromarray(image) for image in IMAGES]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("own.csv", CSV)


def tarred(path):
    path.with_name("inner.csv").write_bytes(CSV)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        archive.add(path.with_name("inner.csv"), "own.csv")


MADE = {
    "own.h5": hdf5,
    "own.mat": mat,
    "own.mtx": mtx,
    "own.nc": netcdf,
    "own.pt": tensor,
    "own.safetensors": safetensors,
    "own.h5ad": anndata,
    "own.zarr": zarr,
    "own.tif": stack,
    "own.pkl": lambda path: path.write_bytes(pickle.dumps(X)),
    "own.json": lambda path: FRAME.to_json(path),
    "own.jsonl": lambda path: FRAME.to_json(path, lines=True, orient="records"),
    "own.dta": lambda path: FRAME.to_stata(path, write_index=False),
    "own.parquet": lambda path: FRAME.to_parquet(path),
    "own.feather": lambda path: FRAME.to_feather(path),
    "own.xlsx": lambda path: FRAME.to_excel(path, index=False),
    "own.csv.gz": lambda path: path.write_bytes(gzip.compress(CSV)),
    "own.csv.bz2": lambda path: path.write_bytes(bz2.compress(CSV)),
    "own.csv.xz": lambda path: path.write_bytes(lzma.compress(CSV)),
    "own.zip": zipped,
    "own.tar": tarred,
    "own.tar.gz": tarred,
}
NEEDS = {"own.h5ad": "anndata", "own.zarr": "zarr", "own.parquet": "pyarrow", "own.feather": "pyarrow"} | {
    "own.xlsx": "openpyxl"
}


@pytest.mark.parametrize("name", MADE)
def test_the_two_lines_make_a_file_that_is_read(tmp_path, monkeypatch, name):
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}")
    monkeypatch.chdir(tmp_path)
    MADE[name](tmp_path / name)
    said, *lines = other_format(tmp_path / name).splitlines()
    out = said.split("'")[1]
    assert len(lines) == 2
    exec("\n".join(line.strip() for line in lines), {})  # noqa: S102 - what the message says
    made = Path(out)
    made = made / "own.csv" if made.is_dir() else made
    x = read_csv(made).x["x"] if made.suffix == ".csv" else formats.read_numpy(made)["x"]
    np.testing.assert_array_equal(x, IMAGES if name == "own.tif" else X)


@pytest.mark.parametrize("ending", conversions._BY_ENDING)
def test_each_ending_has_two_lines_of_python(ending):
    _, *lines = other_format(f"FOLDER/OWN{ending.upper()}").splitlines()
    assert len(lines) == 2
    compile("\n".join(line.strip() for line in lines), "lines", "exec")


def test_a_name_cannot_leave_its_quotation_marks():
    name = "');print('own').mat"
    assert repr(name) in other_format(name)


@pytest.mark.parametrize("name", ["own.npy", "own.npz", "own.csv", "own", "digits", ".mat", "mnist"])
def test_what_is_read_or_unknown_has_no_conversion(name):
    assert other_format(name) == ""


def test_an_image_wants_a_folder(tmp_path):
    assert "Put it into a folder with the others" in other_format(tmp_path / "a.PNG")
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    assert read_folder(tmp_path).x["x"].shape == (1, 1, 4, 3)


def test_an_address_is_to_be_downloaded():
    assert other_format("https://a.org/own.csv").endswith("Download it first, and give the path of the file.")
