"""One file of an image -> its header, checked before a pixel is decoded, and its numbers (C, H, W).

bit     two levels, 0 and 1        uint8 (1, H, W)
grey    8 bits                     uint8 (1, H, W)
rgb     3 x 8 bits                 uint8 (3, H, W)
deep    grey of more than 8 bits   int32 (1, H, W), as stored, never clipped
float   32-bit floats              float32 (1, H, W)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pyro_vae.data import formats
from pyro_vae.errors import DataError, PyroVAEError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".webp")
MOST_PIXELS = 1 << 26
TYPES = {"bit": np.uint8, "grey": np.uint8, "rgb": np.uint8, "deep": np.int32, "float": np.float32}
_KINDS = {"1": "bit", "L": "grey", "LA": "grey", "I": "deep", "F": "float"} | {
    **dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), "deep"),
    **dict.fromkeys(("RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), "rgb"),
}
_TURNED = (5, 6, 7, 8)  # orientations that swap height and width
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """What is known about an image without decoding it.

    Args:
        name: the path within the folder, with slashes.
        size: height and width, as turned by EXIF.
        kind: a key of `TYPES`.
        mode: Pillow's.
        has_alpha: whether a pixel can be transparent.
        num_bytes: of the file.
        sha256: of the file's bytes.
    """

    name: str
    size: tuple[int, int]
    kind: str
    mode: str
    has_alpha: bool
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Target:
    """What every image of a folder becomes.

    Args:
        kind: a key of `TYPES`.
        size: height and width.
        image_size: side of the square to which an image is resized and cropped; 0 for none.
        on_white: transparent pixels are laid on white instead of causing an error.
    """

    kind: str
    size: tuple[int, int]
    image_size: int
    on_white: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a datum: (C, H, W)."""
        return (3 if self.kind == "rgb" else 1, *self.size)


@contextmanager
def _image(path: Path) -> Iterator[Image.Image]:
    """Opens an image of one of the accepted formats; any error inside names the file."""
    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except PyroVAEError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: has too many pixels, more than {MOST_PIXELS:,}. Scale it down first.") from error
    except Exception as error:  # Pillow raises almost anything on a damaged file
        said = (
            f"{type(error).__name__}: {error}".splitlines()[0].replace(repr(file), "it") if str(error) else "no reason"
        )
        raise DataError(
            f"{path}: cannot be read as an image ({said[:160]}). Remove it or copy it again; PNG, JPEG, TIFF, BMP, "
            "GIF, PPM, PGM and WebP are read."
        ) from error


def read_header(root: Path, name: str) -> Header:
    """Reads what is known about an image before it is decoded.

    Raises:
        DataError: the file is not an image of an accepted format, or has too many pixels, several frames, or 16-bit
            colours.
    """
    path = root / name
    with _image(path) as image:
        _check_header(path, image)
        turned = _orientation(image) in _TURNED
        return Header(
            name=name,
            size=image.size if turned else image.size[::-1],
            kind=_kind(path, image),
            mode=image.mode,
            has_alpha=image.has_transparency_data,
            num_bytes=path.stat().st_size,
            sha256=formats.digest(path),
        )


def _check_header(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(f"{path}: has {height} x {width} pixels, more than {MOST_PIXELS:,}. Scale it down first.")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph and its thumbnails
    if frames > 1:
        raise DataError(
            f"{path}: holds {frames} images. Write each to a file: for i, frame in "
            "enumerate(PIL.ImageSequence.Iterator(PIL.Image.open(path))): frame.save(f'{i:04d}.png')"
        )
    if len(image.getbands()) > 1 and any(map(_is_deep, getattr(image, "tile", []))):
        raise DataError(
            f"{path}: has 16 bits per colour, of which Pillow reads 8. Read such images with another library, such as "
            "imageio, and save them as an array: np.save('images.npy', images)."
        )


def _is_deep(tile: tuple) -> bool:
    """Returns whether an image has more than 8 bits per number, by its raw mode or PPM's largest value."""
    args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return ";16" in str(args[0]) or (tile[0].startswith("ppm") and args[1] > 255)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow has already turned the size
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # it can come after the pixels, which are not decoded here
    return image.getexif().get(_ORIENTATION, 1)


def _kind(path: Path, image: Image.Image) -> str:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return "grey" if (palette == palette[:, :1]).all() else "rgb"
    if image.mode not in _KINDS:
        raise DataError(f"{path}: has Pillow's mode {image.mode!r}. Write it as a grey or RGB PNG file.")
    if _KINDS[image.mode] == "deep" and image.has_transparency_data:
        raise DataError(f"{path}: has 16 bits and transparency. Write it as a grey PNG file without transparency.")
    return _KINDS[image.mode]


def decode(root: Path, header: Header, target: Target) -> np.ndarray:
    """Decodes an image and converts it to the target of its folder: (C, H, W).

    Raises:
        DataError: the image is damaged, has transparent pixels that are not allowed, or not the size in its header.
    """
    path = root / header.name
    with _image(path) as image:
        _check_header(path, image)
        image.load()
        turned = ImageOps.exif_transpose(image)
        opaque = _opaque(path, turned, target) if header.has_alpha else turned
        pixels = np.asarray(_sized(_coloured(opaque, target), target))
    if pixels.shape[:2] != target.size:
        raise unequal(header.name, pixels.shape[:2], "the others", target.size)
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).astype(TYPES[target.kind], copy=False)


def unequal(name: str, size: tuple[int, ...], other: str, other_size: tuple[int, ...]) -> DataError:
    """Makes the error for two images of different height or width, with a size that would work.

    >>> print(unequal("a.png", (16, 17), "b.png", (16, 16)))
    a.png has 16 x 17 pixels and b.png 16 x 16; all must have the same size: use `image_size=16`.
    """
    cure = min(64, *size, *other_size)
    sizes = f"{name} has {size[0]} x {size[1]} pixels and {other} {other_size[0]} x {other_size[1]}"
    return DataError(f"{sizes}; all must have the same size: use `image_size={cure}`.")


def _opaque(path: Path, image: Image.Image, target: Target) -> Image.Image:
    rgba = image.convert("RGBA")
    if target.on_white:
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if rgba.getchannel("A").getextrema() != (255, 255):
        raise DataError(
            f"{path}: has transparent pixels. `colour='rgb'` or `colour='grey'` lays them on white. Otherwise lay "
            "them on the colour that they should have."
        )
    return rgba.convert("RGB")


def _coloured(image: Image.Image, target: Target) -> Image.Image:
    modes = {"bit": "1", "grey": "L", "rgb": "RGB", "deep": "I", "float": "F"}
    return image if image.mode == modes[target.kind] else image.convert(modes[target.kind])


def resized(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Computes height and width after resizing the shorter side to `image_size`, like torchvision's Resize.

    Example:
        >>> resized((20, 30), 8)
        (8, 12)
    """
    short = min(size)
    return image_size * size[0] // short, image_size * size[1] // short


def _sized(image: Image.Image, target: Target) -> Image.Image:
    s = target.image_size
    if not s or image.size == (s, s):
        return image
    height, width = resized(image.size[::-1], s)
    top, left = round((height - s) / 2), round((width - s) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + s, top + s))
