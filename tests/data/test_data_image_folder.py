"""Folders of images: the numbers are those of the files, what is said of them, and what is refused with its cure."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from cases import thorough
from PIL import Image

from pyro_vae.data.images import image_folder
from pyro_vae.data.images.image_cache import default_cache
from pyro_vae.data.images.image_folder import read_folder
from pyro_vae.data.own.reading import Reading
from pyro_vae.errors import DataError, StorageError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 8, 5, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 1 << 16, (6, 8, 5), dtype=np.uint16)


def write(folder, name, pixels, **options):
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def test_a_folder_of_classes_is_images_labels_and_paths(tmp_path):
    names = ["10/b.png", "2/a.png", "2/c.png", "old/d.png"]
    for name, pixels in zip(names, COLOUR, strict=False):
        write(tmp_path / "own", name, pixels)
    found = read_folder(tmp_path / "own")
    np.testing.assert_array_equal(found.x["x"], COLOUR[:4].transpose(0, 3, 1, 2))
    assert (found.x["x"].dtype, found.ids["x"].tolist(), found.name) == (np.uint8, names, "own")
    assert (found.classes, found.y["x"].tolist()) == (("2", "10", "old"), [1, 0, 0, 2])
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{hashlib.sha256((tmp_path / 'own' / name).read_bytes()).hexdigest()}\n".encode())
    assert (found.files, found.notes) == ({"4 files": digest.hexdigest()}, ())


def test_images_in_no_folder_have_no_labels(tmp_path):
    for i in range(6):
        write(tmp_path, f"{i}.png", GREY[i])
    found = read_folder(tmp_path)
    np.testing.assert_array_equal(found.x["x"], GREY[:, None])
    assert (found.y, found.classes) == ({}, ())


@pytest.mark.parametrize("valid", ["valid", *thorough("val", "validation")])
def test_given_splits(tmp_path, valid):
    for i, name in enumerate(["train/b/0.png", "train/a/1.png", f"{valid}/b/2.png", "test/a/3.png", "test/c/4.png"]):
        write(tmp_path, name, GREY[i])
    found = read_folder(tmp_path)
    assert found.classes == ("a", "b", "c")
    assert {key: y.tolist() for key, y in found.y.items()} == {"x_train": [0, 1], "x_valid": [1], "x_test": [0, 2]}
    np.testing.assert_array_equal(found.x["x_train"], GREY[[1, 0], None])
    np.testing.assert_array_equal(found.x["x_test"], GREY[[3, 4], None])
    assert list(found.x) == ["x_train", "x_valid", "x_test"]


def test_given_splits_without_classes(tmp_path):
    for name in ("train/0.png", "train/1.png", "test/2.png"):
        write(tmp_path, name, GREY[0])
    found = read_folder(tmp_path)
    assert (list(found.x), found.y) == (["x_train", "x_test"], {})


FORMS = [
    ("png", Image.fromarray(GREY[0]), GREY[0][None]),
    ("png", Image.fromarray(DEEP[0]), DEEP[0][None].astype(np.int32)),
    ("png", Image.fromarray(GREY[0] > 99), (GREY[0] > 99)[None].astype(np.uint8)),
    *thorough(
        ("bmp", Image.fromarray(COLOUR[0]), COLOUR[0].transpose(2, 0, 1)),
        ("tif", Image.fromarray(COLOUR[0]), COLOUR[0].transpose(2, 0, 1)),
        ("tiff", Image.fromarray(DEEP[0]), DEEP[0][None].astype(np.int32)),
        ("tif", Image.fromarray((GREY[0] / 7).astype(np.float32)), (GREY[0] / 7).astype(np.float32)[None]),
        ("ppm", Image.fromarray(COLOUR[0]), COLOUR[0].transpose(2, 0, 1)),
        ("pgm", Image.fromarray(GREY[0]), GREY[0][None]),
        ("pbm", Image.fromarray(GREY[0] > 99), (GREY[0] > 99)[None].astype(np.uint8)),
        ("pgm", Image.fromarray(DEEP[0]), DEEP[0][None].astype(np.int32)),
        ("gif", Image.fromarray(GREY[0]), GREY[0][None]),
        ("PNG", Image.fromarray(GREY[0] % 9).convert("P"), (GREY[0] % 9)[None]),
    ),
]


@pytest.mark.parametrize(("ending", "image", "expected"), FORMS)
def test_the_numbers_are_those_of_the_file(tmp_path, ending, image, expected):
    write(tmp_path, f"x.{ending}", image)
    x = read_folder(tmp_path).x["x"]
    np.testing.assert_array_equal(x[0], expected)
    assert x.dtype == expected.dtype


def test_a_palette_becomes_its_colours(tmp_path):
    image = Image.fromarray(GREY[0] % 3, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    write(tmp_path, "x.png", image)
    np.testing.assert_array_equal(
        read_folder(tmp_path).x["x"][0], np.eye(3, dtype=np.uint8)[GREY[0] % 3].transpose(2, 0, 1) * 255
    )


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_lossy_formats_are_close(tmp_path, ending):
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    write(tmp_path, f"x.{ending}", np.stack([smooth] * 3, -1), quality=95)
    assert np.abs(read_folder(tmp_path).x["x"].astype(int) - smooth).max() < 8


@pytest.mark.parametrize("ending", ["jpg", *thorough("png", "tif", "webp")])
@pytest.mark.parametrize("orientation", [6, *thorough(1, 2, 3, 4, 5, 7, 8)])
def test_images_are_turned_as_exif_says(tmp_path, ending, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(tmp_path, f"x.{ending}", np.ascontiguousarray(stored), exif=exif)
    x = read_folder(tmp_path).x["x"]
    assert x.shape == (1, 3, 32, 48)
    assert np.abs(x[0].astype(int) - upright.transpose(2, 0, 1)).max() < 40


@pytest.mark.thorough
def test_resizing_is_torchvisions(tmp_path):
    from torchvision.transforms import CenterCrop, Compose, Resize

    images = [Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((31, 20), (16, 45), (8, 8))]
    for i, image in enumerate(images):
        write(tmp_path, f"{i}.png", image)
    found = read_folder(tmp_path, Reading(image_size=8))
    same = Compose([Resize(8), CenterCrop(8)])
    np.testing.assert_array_equal(found.x["x"], [np.asarray(same(image)).transpose(2, 0, 1) for image in images])
    assert found.notes[0].startswith("Images of 3 sizes were resized, bilinear and antialiased")


@pytest.mark.thorough
def test_16_bits_are_kept_when_resized(tmp_path):
    write(tmp_path, "x.png", np.full((9, 12), 40_000, np.uint16))
    np.testing.assert_array_equal(read_folder(tmp_path, Reading(image_size=4)).x["x"], np.full((1, 1, 4, 4), 40_000))


def test_colour_is_made_alike(tmp_path):
    write(tmp_path, "a.png", GREY[0])
    write(tmp_path, "b.png", COLOUR[1])
    with pytest.raises(DataError, match=r"a.png is grey, and b.png is in colour. `colour='grey'` or `colour='rgb'`"):
        read_folder(tmp_path)
    rgb = read_folder(tmp_path, Reading(colour="rgb")).x["x"]
    np.testing.assert_array_equal(rgb, [np.stack([GREY[0]] * 3), COLOUR[1].transpose(2, 0, 1)])
    grey = read_folder(tmp_path, Reading(colour="grey"))
    np.testing.assert_array_equal(grey.x["x"][0, 0], GREY[0])
    np.testing.assert_allclose(grey.x["x"][1, 0], COLOUR[1] @ [0.299, 0.587, 0.114], atol=0.51)
    assert grey.notes == ("Colours were converted to grey: 0.299 red + 0.587 green + 0.114 blue.",)


def test_transparency_is_dropped_where_it_hides_nothing_and_else_refused(tmp_path):
    opaque = np.dstack([COLOUR[0], np.full((8, 5), 255, np.uint8)])
    write(tmp_path, "a.png", opaque)
    found = read_folder(tmp_path)
    np.testing.assert_array_equal(found.x["x"][0], COLOUR[0].transpose(2, 0, 1))
    assert found.notes == ("The transparency of 1 images hid nothing and was dropped.",)
    opaque[2, 3, 3] = 0
    write(tmp_path, "a.png", opaque)
    with pytest.raises(DataError, match=r"a.png: has transparent pixels. `colour='rgb'` or `colour='grey'`"):
        read_folder(tmp_path)
    x = read_folder(tmp_path, Reading(colour="rgb")).x["x"]
    assert x[0, :, 2, 3].tolist() == [255, 255, 255]
    assert x[0, :, 0, 0].tolist() == COLOUR[0, 0, 0].tolist()


@pytest.mark.thorough
def test_cmyk_is_converted_and_said(tmp_path):
    write(tmp_path, "a.tif", Image.new("CMYK", (5, 8), (255, 0, 0, 0)))
    found = read_folder(tmp_path)
    assert found.x["x"][0, :, 0, 0].tolist() == [0, 255, 255]
    assert "1 images of other colours" in found.notes[0]


def test_what_is_skipped_is_counted(tmp_path):
    write(tmp_path, "a.png", GREY[0])
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path, ".hidden/b.png", GREY[1])
    found = read_folder(tmp_path)
    assert len(found.x["x"]) == 1
    assert found.notes == ("Skipped: hidden files and folders: 2, files that are not images: 2.",)


def test_unequal_sizes_are_refused_with_a_cure_that_works(tmp_path):
    write(tmp_path, "a.png", GREY[0])
    write(tmp_path, "b.png", GREY[0].T.copy())
    with pytest.raises(DataError, match=r"a.png has 8 x 5 pixels and b.png 5 x 8; all must .* `image_size=5`"):
        read_folder(tmp_path)
    found = read_folder(tmp_path, Reading(image_size=5))
    np.testing.assert_array_equal(found.x["x"], [[GREY[0][2:7]], [GREY[0].T[:, 2:7]]])  # the middle, not resized
    assert found.notes[0].startswith("Images of 2 sizes were resized, bilinear and antialiased")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, kind=0, bits=8, rows=b""):
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def jpeg(cut=None):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (99, 99), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[:cut]


def stack(ending):
    buffer = io.BytesIO()
    frames = [Image.fromarray(pixels) for pixels in GREY]
    frames[0].save(buffer, ending, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


BROKEN = {
    "bomb by header": (png(1 << 13, (1 << 13) + 1), "8193 x 8192 pixels, more than 67,108,864"),
    "bomb by header, larger": (png(1 << 16, 1 << 16), "has too many pixels, more than 67,108,864"),
    "truncated": (jpeg(-500), "cannot be read as an image .OSError: image file is truncated"),
    "no image": (b"hello", "cannot be read as an image"),
    "empty": (b"", "cannot be read as an image"),
    "head alone": (jpeg(30), "cannot be read as an image"),
    "a torn png": (png(8, 5, rows=bytes(10)), "cannot be read as an image"),
    "16 bits a colour": (png(2, 1, kind=2, bits=16, rows=bytes(13)), "16 bits per colour, of which Pillow reads 8"),
    "16 bits a colour, ppm": (b"P6 2 1 65535\n" + bytes(12), "16 bits per colour, of which Pillow reads 8"),
    "pages": (stack("TIFF"), "holds 6 images. Write each to a file"),
    "frames": (stack("GIF"), "holds 6 images. Write each to a file"),
    "another format": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_whole_image_is_refused_by_name(tmp_path, content, message):
    write(tmp_path, "a.png", GREY[0])
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(DataError, match=f"b.png: .*{message}") as caught:
        read_folder(tmp_path, Reading(image_size=4))
    assert len(str(caught.value)) < 500


def test_small_files_of_many_pixels_are_refused_in_sum(tmp_path, monkeypatch):
    monkeypatch.setattr(image_folder, "_SMALL", 1 << 20)
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(1024, 1024, rows=bytes(1025 * 1024)))
    with pytest.raises(DataError, match=r"would become 4,194,304 bytes of pixels"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, Reading(image_size=2)).x["x"].shape == (4, 1, 2, 2)


def test_a_long_image_is_not_blown_up(tmp_path):
    write(tmp_path, "a.png", np.zeros((1, 60_000), np.uint8))
    with pytest.raises(DataError, match=r"would be resized to 64 x 3840000 pixels"):
        read_folder(tmp_path, Reading(image_size=64))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no image with one of the endings"),
        (["a.png", "b/c.png"], "holds images next to folders of images, such as 'a.png'"),
        (["train/a.png", "test/b.png", "extra/c.png"], "Next to a folder train, only test and valid"),
        (["train/a.png", "val/b.png", "valid/c.png"], "Next to a folder train, only test and valid"),
        (["train/a/b.png", "test/c.png"], "the images of 'test' are not in folders of classes, but others are"),
        (["images/a/b.png", "images/c/d.png"], "all images lie in folders inside 'images'. Use .*images"),
        (["/".join("a" * 40) + ".png"], "lies more than 32 folders deep"),
        (["a\nb.png"], "a name with characters that cannot be printed"),
    ],
)
def test_folders_that_say_no_classes(tmp_path, names, message):
    for name in names:
        write(tmp_path, name, GREY[0])
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path)


def test_a_folder_called_test_may_be_a_class(tmp_path):
    for name in ("test/a.png", "control/b.png"):
        write(tmp_path, name, GREY[0])
    assert read_folder(tmp_path).classes == ("control", "test")


@pytest.mark.parametrize("target", ["..", ".", "../other.png", "a.png", "/dev/zero"])
def test_no_link_is_followed(tmp_path, target):
    write(tmp_path, "other.png", GREY[0])
    write(tmp_path, "own/a.png", GREY[0])
    (tmp_path / "own" / "link.png").symlink_to(target)
    with pytest.raises(DataError, match=r"link.png: is a link, and links are not followed"):
        read_folder(tmp_path / "own")


@pytest.mark.thorough
def test_what_is_no_file_is_not_waited_for(tmp_path):
    write(tmp_path, "a.png", GREY[0])
    os.mkfifo(tmp_path / "b.png")
    assert len(read_folder(tmp_path).x["x"]) == 1
    with pytest.raises(DataError, match="there is no such folder"):
        read_folder(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("first", "second", "reading", "message"),
    [
        (GREY[0], DEEP[0], {}, "a.png is grey, and b.png is grey of more than 8 bits. Write all images in the same"),
        (DEEP[0], DEEP[0], {"colour": "rgb"}, "`colour='rgb'` converts only 8-bit images to RGB"),
        (GREY[0] > 9, GREY[0], {}, "a.png is black and white, and b.png is grey"),
    ],
)
def test_forms_that_cannot_be_mixed(tmp_path, first, second, reading, message):
    write(tmp_path, "a.png", first)
    write(tmp_path, "b.png", second)
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path, Reading(**reading))


def test_black_and_white_stays_0_and_1_until_it_is_resized_or_made_grey(tmp_path):
    write(tmp_path, "a.png", GREY[0] > 99)
    assert set(np.unique(read_folder(tmp_path).x["x"])) == {0, 1}
    assert set(np.unique(read_folder(tmp_path, Reading(colour="grey")).x["x"])) == {0, 255}
    assert read_folder(tmp_path, Reading(image_size=4)).x["x"].max() > 1


def test_many_images_are_converted_once_and_mapped(tmp_path, monkeypatch):
    for i in range(6):
        write(tmp_path / "own", f"{i % 2}/{i}.png", COLOUR[i])
    memory = read_folder(tmp_path / "own")
    found = read_folder(tmp_path / "own", map_above=100, cache=tmp_path / "cache")
    assert isinstance(found.x["x"], np.memmap)
    assert not found.x["x"].flags.writeable
    np.testing.assert_array_equal(found.x["x"], memory.x["x"])
    assert (found.files, found.notes) == (memory.files, memory.notes)
    (cached,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(image_folder, "_fill", lambda *given: 1 / 0)  # it is not called again
    np.testing.assert_array_equal(
        read_folder(tmp_path / "own", map_above=100, cache=tmp_path / "cache").x["x"], found.x["x"]
    )
    monkeypatch.undo()
    cached.write_bytes(cached.read_bytes()[:50])
    np.testing.assert_array_equal(
        read_folder(tmp_path / "own", map_above=100, cache=tmp_path / "cache").x["x"], memory.x["x"]
    )
    write(tmp_path / "own", "0/0.png", COLOUR[1])
    changed = read_folder(tmp_path / "own", map_above=100, cache=tmp_path / "cache").x["x"]
    np.testing.assert_array_equal(changed[0], COLOUR[1].transpose(2, 0, 1))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    write(tmp_path / "own", "a.jpg", GREY[0])
    (tmp_path / "own" / "b.jpg").write_bytes(jpeg(-500))
    with pytest.raises(DataError, match=r"b.jpg: cannot be read"):
        read_folder(tmp_path / "own", Reading(image_size=4), map_above=1, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    (tmp_path / "own" / "b.jpg").unlink()
    with pytest.raises(StorageError, match="Set XDG_CACHE_HOME to a folder with enough room"):
        read_folder(tmp_path / "own", map_above=1, cache=tmp_path / "file")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3}))
    with pytest.raises(StorageError, match=r"40 bytes are needed, 3 are free"):
        read_folder(tmp_path / "own", map_above=1, cache=tmp_path / "cache")


def test_the_cache_lies_where_the_system_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/pyro_vae")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("LOCALAPPDATA", "elsewhere")
    assert default_cache() == Path.home() / ".cache" / "pyro_vae"
    monkeypatch.setattr("sys.platform", "win32")
    assert default_cache() == Path("elsewhere/pyro_vae")
