"""Files of other forms, which are not opened: the lines that turn them into one that is."""

from pathlib import Path

from pyro_vae.data import PATHS
from pyro_vae.errors import DataError

_HDF5 = "import h5py; np.save('{stem}.npy', h5py.File('{name}')['KEY'][:]), with the KEY of its array"
_IMAGE = "is one image: put all of them into a folder, and name the folder"
_LINES = {
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".h5ad": "import anndata; a = anndata.read_h5ad('{name}'); a.to_df().to_csv('{stem}.csv', index=False), and "
    "a.layers[...] where the counts are there",
    ".parquet": "import pandas; pandas.read_parquet('{name}').to_csv('{stem}.csv', index=False)",
    ".feather": "import pandas; pandas.read_feather('{name}').to_csv('{stem}.csv', index=False)",
    ".xlsx": "import pandas; pandas.read_excel('{name}').to_csv('{stem}.csv', index=False)",
    ".xls": "import pandas; pandas.read_excel('{name}').to_csv('{stem}.csv', index=False)",
    ".mat": "import scipy.io; np.save('{stem}.npy', scipy.io.loadmat('{name}')['KEY']), with the KEY of its array",
    ".pt": "import torch; np.save('{stem}.npy', torch.load('{name}', weights_only=True).numpy())",
    ".safetensors": "import safetensors.numpy; np.savez('{stem}.npz', **safetensors.numpy.load_file('{name}'))",
    ".tif": "import tifffile; np.save('{stem}.npy', tifffile.imread('{name}')) where it is a stack of images; single "
    "images go into a folder",
    ".gz": "import gzip, pathlib; pathlib.Path('{stem}').write_bytes(gzip.open('{name}').read())",
}
_SAME = {".tiff": ".tif", ".pth": ".pt", ".h5py": ".h5"}
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def other_form(path: Path) -> DataError:
    """Returns the error of a file that is not read, with the line that turns it into one that is.

    Args:
        path: of the file, which is not opened.

    Example:
        >>> print(other_form(Path("cells.parquet")))  # doctest: +ELLIPSIS
        cells.parquet: files of the type .parquet are not read. Turn it into one that is, in Python: import pandas; ...
    """
    ending = path.suffix.lower()
    if ending in _IMAGES:
        return DataError(f"{path}: {_IMAGE}")
    if line := _LINES.get(_SAME.get(ending, ending)):
        turned = line.format(name=path.name, stem=path.stem)
        return DataError(
            f"{path}: files of the type {ending} are not read. Turn it into one that is, in Python: {turned}"
        )
    return DataError(f"{path}: files of the type {ending} are not read; it must be {PATHS}.")
