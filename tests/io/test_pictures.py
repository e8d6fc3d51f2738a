from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from made_tiff import sly_tiff
from vesalius import read_slice, read_volume
from vesalius.core.errors import ReadError

GREY = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
DEEP = GREY.astype(np.uint16) * 251


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_eight_bits_are_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    for pixels in (GREY, RGB):
        Image.fromarray(pixels).save(path)
        image = read_slice(path)
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.window == (0.0, 255.0)
        assert image.geometry is None
        assert image.spacing is None
        np.testing.assert_array_equal(image.rgb(), pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2))


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8) * 3
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_slice(tmp_path / "a.jpg").pixels.astype(int) - smooth).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png"):
        Image.fromarray(RGB).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(read_slice(tmp_path / name).pixels, upright)
    tifffile.imwrite(tmp_path / "a.tif", GREY, extratags=[(274, 3, 1, orientation, True)])
    Image.fromarray(GREY).save(tmp_path / "grey.png", exif=exif)
    np.testing.assert_array_equal(read_slice(tmp_path / "a.tif").pixels, read_slice(tmp_path / "grey.png").pixels)


def test_sixteen_bits_keep_their_values_and_get_percentiles(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", DEEP)
    for name in ("a.png", "a.tif"):
        image = read_slice(tmp_path / name)
        assert image.pixels.dtype == np.uint16
        np.testing.assert_array_equal(image.pixels, DEEP)
        assert image.window == pytest.approx(tuple(np.percentile(DEEP[DEEP != 0], (0.5, 99.5))))


def test_sixteen_bit_colour_becomes_eight_bits_by_one_window(tmp_path: Path) -> None:
    deep = RGB.astype(np.uint16) * 16  # 12 bits in use, as of many microscopes
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    for name in ("a.png", "a.tif"):
        pixels = read_slice(tmp_path / name).pixels
        assert pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - RGB).max() <= 3
        low = read_slice(tmp_path / name, window=(1020, 2040)).pixels
        np.testing.assert_allclose(low, np.minimum(deep / 8, 255), atol=0.51)


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    picture = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(picture.convert("RGB"))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_slice(tmp_path / name).pixels, expected)


def test_transparent_pixels_are_drawn_on_black(tmp_path: Path) -> None:
    alpha = np.full_like(GREY, 255)
    alpha[:3], alpha[3:6] = 0, 128
    expected = np.rint(RGB * (alpha[..., None] / 255)).astype(np.uint8)
    rgba = np.dstack([RGB, alpha])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_slice(tmp_path / name).pixels, expected)
    tifffile.imwrite(tmp_path / "over.tif", rgba, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_array_equal(read_slice(tmp_path / "over.tif").pixels, RGB)
    Image.fromarray(np.dstack([GREY, alpha])).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_slice(tmp_path / "la.png").pixels, np.rint(GREY * (alpha / 255)))


def test_one_bit_and_white_is_zero(tmp_path: Path) -> None:
    Image.fromarray(GREY > 90).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_slice(tmp_path / "a.png").pixels, np.where(GREY > 90, 255, 0))
    tifffile.imwrite(tmp_path / "a.tif", 255 - GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_slice(tmp_path / "a.tif").pixels, GREY)


def test_other_kinds_of_pixels(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert read_slice(tmp_path / "a.jpg").pixels.shape == (12, 16, 3)
    tifffile.imwrite(tmp_path / "float.tif", GREY.astype(np.float32) / 7)
    np.testing.assert_allclose(read_slice(tmp_path / "float.tif").pixels, GREY / 7, rtol=1e-6)
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_slice(tmp_path / "planes.tif").pixels, RGB)
    Image.fromarray(RGB).convert("LAB").save(tmp_path / "lab.tif")
    with pytest.raises(ReadError, match="colours of the kind CIELAB"):
        read_slice(tmp_path / "lab.tif")
    tifffile.imwrite(tmp_path / "jpeg.tif", RGB, photometric="ycbcr", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "jpeg.tif") as file:
        np.testing.assert_array_equal(read_slice(tmp_path / "jpeg.tif").pixels, file.asarray())
    Image.fromarray(RGB).convert("YCbCr").save(tmp_path / "raw.tif")
    with pytest.raises(ReadError, match="colours of the kind YCBCR"):
        read_slice(tmp_path / "raw.tif")


def test_pages_of_a_tiff_are_a_volume(tmp_path: Path) -> None:
    stack = np.stack([GREY, GREY + 1, GREY + 2])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.voxels, stack)
    assert volume.geometry is None
    pages = np.stack([RGB, RGB[::-1]])
    tifffile.imwrite(tmp_path / "b.tif", pages, photometric="rgb")
    np.testing.assert_array_equal(read_volume(tmp_path / "b.tif").voxels, pages)


def test_tiff_with_time_or_channels(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    tifffile.imwrite(tmp_path / "t.tif", stack, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ReadError, match="2 time points"):
        read_volume(tmp_path / "t.tif")
    np.testing.assert_array_equal(read_volume(tmp_path / "t.tif", time=1).voxels, stack[1])
    tifffile.imwrite(tmp_path / "c.tif", stack[0], imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(ReadError, match="axes CYX"):
        read_volume(tmp_path / "c.tif")


def test_tiff_pages_of_different_sizes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY)
        file.write(GREY[:6])
    with pytest.raises(ReadError, match="2 images of different sizes"):
        read_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("named", ["../secret.tif", "absolute", "own.tif"])
def test_a_tiff_that_names_other_files_reads_none_of_them(tmp_path: Path, named: str) -> None:
    (tmp_path / "shown").mkdir()
    tifffile.imwrite(tmp_path / "secret.tif", GREY, metadata=None)
    tifffile.imwrite(tmp_path / "shown" / "own.tif", GREY, metadata=None)
    path = tmp_path / "shown" / "sly.tif"
    sly_tiff(path, str(tmp_path / "secret.tif") if named == "absolute" else named)
    with pytest.raises(ReadError, match="one of several files"):
        read_volume(path)


def test_an_ome_tiff_that_is_whole_is_read(tmp_path: Path) -> None:
    stack = np.stack([GREY, GREY + 1])
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_volume(tmp_path / "a.ome.tif").voxels, stack)


def test_kind_is_told_by_content(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_slice(tmp_path / "a.jpg").pixels, RGB)
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    (tmp_path / "a.tif").rename(tmp_path / "a.png")
    np.testing.assert_array_equal(read_slice(tmp_path / "a.png").pixels, RGB)


def _png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(_png_header(30000, 30000))
    with pytest.raises(ReadError, match="decompression bomb") as caught:
        read_volume(bomb)
    assert str(bomb) in str(caught.value)
    assert "damaged" not in str(caught.value)
    # Pillow only warns of this one; the warning must stay inside, and the file is cut short.
    bomb.write_bytes(_png_header(10000, 10000))
    with pytest.raises(ReadError, match="truncated"):
        read_volume(bomb)
    tifffile.imwrite(tmp_path / "bomb.tif", GREY, metadata=None)
    with tifffile.TiffFile(tmp_path / "bomb.tif", mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages.first.tags[tag].overwrite(60000)
    with pytest.raises(ReadError, match="60000 x 60000"):
        read_volume(tmp_path / "bomb.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "lzw.tif", "deflate.tif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated(tmp_path: Path, name: str, share: float, rng: np.random.Generator) -> None:
    path = tmp_path / name
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    noise.save(path, **({"compression": {"l": "tiff_lzw", "d": "tiff_deflate"}[name[0]]} if name[0] in "ld" else {}))
    read_volume(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ReadError, match="damaged or cut short") as caught:
        read_volume(path)
    assert str(caught.value).startswith(str(path))


def test_tiff_without_its_last_pages(tmp_path: Path, rng: np.random.Generator) -> None:
    """A cut in the chain of pages must not shorten the volume in silence."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for _ in range(3):
            file.write(rng.integers(0, 60000, (64, 64), dtype=np.uint16), compression="zlib", metadata=None)
    assert read_volume(path).voxels.shape == (3, 64, 64)
    with tifffile.TiffFile(path) as file:
        starts = [page.offset for page in file.pages]
    for start in starts[1:]:
        whole = path.read_bytes()
        (tmp_path / "cut.tif").write_bytes(whole[: start - 1])
        with pytest.raises(ReadError, match="damaged or cut short"):
            read_volume(tmp_path / "cut.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.dcm", "a.txt"])
def test_text_is_no_image(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Dear colleague, thank you for referring this patient. " * 20)
    with pytest.raises(ReadError, match=r"is not an? ") as caught:
        read_volume(tmp_path / name)
    assert name in str(caught.value)
