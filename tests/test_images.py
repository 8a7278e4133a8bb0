"""Picture files: what comes in on an upload day, and what must not pass as a picture."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.errors import ConfigError
from lineside.images import read_image


def scene(height: int = 40, width: int = 60) -> np.ndarray:
    """Blue grows to the right, green downwards, red is 128."""
    image = np.full((height, width, 3), 128, np.uint8)
    image[:, :, 0] = np.linspace(0, 255, width).astype(np.uint8)[None, :]
    image[:, :, 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return image


def write(path: Path, image: np.ndarray, *options: int) -> Path:
    assert cv2.imwrite(str(path), image, list(options))
    return path


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF segment that holds just an orientation (tag 0x0112)."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_colour_png_comes_back_as_it_was(tmp_path: Path) -> None:
    assert np.array_equal(read_image(write(tmp_path / "a.png", scene())), scene())


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = scene()[:, :, 0]
    read = read_image(write(tmp_path / "grey.png", grey))
    assert read.shape == (40, 60, 3)
    assert all(np.array_equal(read[:, :, channel], grey) for channel in range(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_is_scaled_to_eight(tmp_path: Path, channels: int) -> None:
    deep = (scene().astype(np.uint16) * 257)[:, :, :channels]
    read = read_image(write(tmp_path / "deep.png", deep))
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - (scene() if channels == 3 else scene()[:, :, :1])).max() <= 1


def test_alpha_is_dropped(tmp_path: Path) -> None:
    clear = np.dstack([scene(), np.zeros((40, 60), np.uint8)])
    assert np.array_equal(read_image(write(tmp_path / "clear.png", clear)), scene())


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    assert read_image(write(tmp_path / "dot.png", np.full((1, 1, 3), 7, np.uint8))).tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, None), (3, cv2.ROTATE_180), (6, cv2.ROTATE_90_CLOCKWISE), (8, cv2.ROTATE_90_COUNTERCLOCKWISE)],
)
def test_a_photo_is_turned_upright_as_its_exif_tag_says(tmp_path: Path, orientation: int, turn: int | None) -> None:
    plain = write(tmp_path / "plain.jpg", scene(), cv2.IMWRITE_JPEG_QUALITY, 100)
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(with_exif(plain.read_bytes(), orientation))
    expected = read_image(plain) if turn is None else cv2.rotate(read_image(plain), turn)
    assert np.array_equal(read_image(turned), expected)


def test_a_cmyk_jpeg_has_the_colours_it_prints_in() -> None:
    # 32 x 16, made with Pillow: the left half magenta and yellow, the right half black ink
    read = read_image(Path(__file__).parent / "pictures" / "cmyk.jpg")
    assert read.shape == (16, 32, 3)
    left, right = read[8, 6].astype(int), read[8, 26].astype(int)
    assert left[2] > 200
    assert max(left[0], left[1]) < 80
    assert right.max() < 60


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_short_is_no_picture(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    whole = write(tmp_path / f"whole{suffix}", noise).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ConfigError, match=rf"{cut}: .*(cut short|damaged)"):
        read_image(cut)


def test_a_jpeg_with_a_thumbnail_that_was_cut_short_is_no_picture(tmp_path: Path) -> None:
    thumbnail = write(tmp_path / "small.jpg", scene(8, 8)).read_bytes()  # it ends in an end marker of its own
    whole = write(tmp_path / "whole.jpg", scene(300, 300)).read_bytes()
    segment = b"Exif\0\0" + thumbnail
    packed = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]
    (tmp_path / "good.jpg").write_bytes(packed)
    assert read_image(tmp_path / "good.jpg").shape == (300, 300, 3)
    (tmp_path / "cut.jpg").write_bytes(packed[:-200])
    with pytest.raises(ConfigError, match="cut short"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("content", [b"hello", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n", bytes(5000)])
def test_another_kind_of_file_is_no_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.png"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"other\.png"):
        read_image(path)


def test_an_empty_an_absent_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for name, said in (("empty.png", "empty"), ("absent.png", "No such file"), ("", "directory")):
        with pytest.raises(ConfigError, match=said):
            read_image(tmp_path / name)


def test_a_long_picture_of_twenty_thousand_pixels_is_read(tmp_path: Path) -> None:
    assert read_image(write(tmp_path / "long.png", np.zeros((20, 20_000, 3), np.uint8))).shape == (20, 20_000, 3)


def test_a_picture_too_large_for_the_box_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    huge.write_bytes(png_header(20_000, 20_000))
    with pytest.raises(ConfigError, match="20000 x 20000 pixels: at most 268 million"):
        read_image(huge)
    photo = write(tmp_path / "photo.jpg", scene()).read_bytes()
    at = photo.index(b"\xff\xc0")  # the frame header states height and width
    (tmp_path / "huge.jpg").write_bytes(photo[: at + 5] + struct.pack(">HH", 20_000, 20_000) + photo[at + 9 :])
    with pytest.raises(ConfigError, match="20000 x 20000 pixels"):
        read_image(tmp_path / "huge.jpg")


def test_a_float_picture_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path / "float.tiff", np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ConfigError, match="float32, allowed are 8 and 16 bit"):
        read_image(path)
