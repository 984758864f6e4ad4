"""Files of other formats: the two lines of Python that convert such a file."""

import os
import re


def _named(pairs: str) -> str:
    return f"numpy.savez({{out}}, **{{{{{pairs}}}}})"


def _unpacked(module: str) -> tuple[str, str, str]:
    line = f"pathlib.Path({{out}}).write_bytes({module}.open({{path}}).read())"
    return "a packed file", "", f"import {module}, pathlib\n{line}"


# Endings -> what such a file is, the ending of the converted file, and the two lines that make it.
_FRAMES = {
    ".parquet": ("a Parquet table", "read_parquet({path})"),
    ".feather .arrow": ("a Feather table", "read_feather({path})"),
    ".xlsx .xls .xlsm .ods": ("a spreadsheet", "read_excel({path})"),
    ".json": ("a JSON file", "read_json({path})"),
    ".jsonl .ndjson": ("a JSON file", "read_json({path}, lines=True)"),
    ".dta": ("a Stata table", "read_stata({path})"),
    ".sav": ("an SPSS table", "read_spss({path})"),
    ".sas7bdat .xpt": ("a SAS table", "read_sas({path}, encoding='utf-8')"),
}
_TABLES = {
    endings: (what, ".csv", f"import pandas\npandas.{call}.to_csv({{out}}, index=False)")
    for endings, (what, call) in _FRAMES.items()
}
_ARRAYS = {
    ".h5ad": (
        "an AnnData file",
        ".npz",
        "import anndata, numpy\nnumpy.savez({out}, x=anndata.read_h5ad({path}).to_df().to_numpy())",
    ),
    ".h5 .hdf5 .he5": (
        "an HDF5 file",
        ".npz",
        "import h5py, numpy\n" + _named("k: v[()] for k, v in h5py.File({path}).items() if hasattr(v, 'dtype')"),
    ),
    ".mat": (
        "a MATLAB file",
        ".npz",
        "import numpy, scipy.io\n"
        + _named("k: v for k, v in scipy.io.loadmat({path}).items() if not k.startswith('__')"),
    ),
    ".nc .nc4 .cdf": (
        "a NetCDF file",
        ".npz",
        "import numpy, xarray\n" + _named("k: v.to_numpy() for k, v in xarray.open_dataset({path}).items()"),
    ),
    ".zarr": ("a Zarr array", ".npy", "import numpy, zarr\nnumpy.save({out}, zarr.open({path}, mode='r')[:])"),
    ".mtx": (
        "a Matrix Market file (write .T after toarray() if its columns are the data)",
        ".npy",
        "import numpy, scipy.io, scipy.sparse\n"
        "numpy.save({out}, scipy.sparse.coo_array(scipy.io.mmread({path}, spmatrix=False)).toarray())",
    ),
    ".safetensors": (
        "a safetensors file",
        ".npz",
        "import numpy, safetensors.numpy\nnumpy.savez({out}, **safetensors.numpy.load_file({path}))",
    ),
    ".pt .pth": (
        "a PyTorch file (here with one tensor)",
        ".npy",
        "import numpy, torch\nnumpy.save({out}, torch.load({path}, weights_only=True).numpy())",
    ),
    ".pkl .pickle .joblib": (
        "a pickle (which can run code: only open one that you trust)",
        ".npy",
        "import numpy, pandas\nnumpy.save({out}, numpy.asarray(pandas.read_pickle({path})))",
    ),
    ".tif .tiff .gif": (
        "one image, or a stack of them",
        ".npy",
        "import numpy, PIL.Image, PIL.ImageSequence as pages\n"
        "with PIL.Image.open({path}) as file: numpy.save({out}, [numpy.array(page) for page in pages.Iterator(file)])",
    ),
}
_PACKED = {
    ".gz": _unpacked("gzip"),
    ".bz2": _unpacked("bz2"),
    ".xz": _unpacked("lzma"),
    ".zip": ("an archive", "folder", "import shutil\nshutil.unpack_archive({path}, {out})"),
    ".tar .tar.gz .tgz .tar.bz2 .tar.xz": (
        "an archive",
        "folder",
        # Python 3.11.3 has no filter, and leaves the attribute alone.
        "import tarfile\nwith tarfile.open({path}) as file: "
        "file.extraction_filter = getattr(tarfile, 'data_filter', None); file.extractall({out})",
    ),
}
_BY_ENDING = {ending: form for endings, form in (_TABLES | _ARRAYS | _PACKED).items() for ending in endings.split()}
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".pbm", ".pgm", ".ppm", ".pnm", ".webp")


def other_format(path: str | os.PathLike[str]) -> str:
    """Explains how to convert a file of a format that is not read; "" for an ending that is not known.

    Example:
        >>> print(other_format("cells/own.mat"))
        own.mat is a MATLAB file; such files are not read. These two lines convert it to 'own.npz', which is read:
            import numpy, scipy.io
            numpy.savez('own.npz', **{k: v for k, v in scipy.io.loadmat('own.mat').items() if not k.startswith('__')})
        >>> print(other_format("own.png"))
        own.png is one image. Put it into a folder with the others, and give the path of the folder.
        >>> other_format("own.unheard")
        ''
    """
    text = os.fspath(path)
    name = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    if re.match(r"\w[\w+.-]+:/", text):
        return f"{text} is an address. Download it first, and give the path of the file."
    if name.lower().endswith(_IMAGES):
        return f"{name} is one image. Put it into a folder with the others, and give the path of the folder."
    found = [ending for ending in _BY_ENDING if name.lower().endswith(ending) and len(name) > len(ending)]
    if not found:
        return ""
    ending = max(found, key=len)
    what, made, lines = _BY_ENDING[ending]
    out = name[: -len(ending)] + ("" if made == "folder" else made)
    code = "\n".join(f"    {line}" for line in lines.format(path=repr(name), out=repr(out)).splitlines())
    return f"{name} is {what}; such files are not read. These two lines convert it to {out!r}, which is read:\n{code}"
