"""Picture files: what comes in on an upload day, and what must not pass as a picture."""

from __future__ import annotations

import os
import re
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.errors import ConfigError
from lineside.images import decode, read_image
from lineside.images.hear import overhear
from lineside.images.remarks import Remarks, shown

FOREIGN = Path(__file__).parent / "foreign_media"
BASELINE, PROGRESSIVE, RESTARTS = [], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 5]
OPTIMISED = [cv2.IMWRITE_JPEG_OPTIMIZE, 1]
JPEGS = pytest.mark.parametrize(
    "options", [BASELINE, PROGRESSIVE, RESTARTS, OPTIMISED], ids=["baseline", "progressive", "restarts", "optimised"]
)


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


def textured(height: int = 240, width: int = 320) -> np.ndarray:
    """Blurred noise: a block costs about as many bits as in a photo."""
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def jpeg(image: np.ndarray, options: list[int]) -> bytes:
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def scan_start(packed: bytes) -> int:
    """Behind the header of the first scan."""
    at = packed.index(b"\xff\xda")
    return at + 2 + struct.unpack(">H", packed[at + 2 : at + 4])[0]


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


# --- as others write them


def test_a_phones_photo_with_a_video_behind_it_is_read_whole() -> None:
    square = read_image(FOREIGN / "sq.png").astype(int)
    assert np.abs(read_image(FOREIGN / "motionphoto.jpg") - square).mean() < 2
    assert np.abs(read_image(FOREIGN / "noeoi.jpg") - square).mean() < 2


@JPEGS
@pytest.mark.parametrize("tail", ["video", "another picture", "zeros", "text with an end marker"])
def test_whatever_follows_a_jpeg_changes_nothing(tmp_path: Path, options: list[int], tail: str) -> None:
    packed = jpeg(textured(), options)
    tails = {
        "video": (FOREIGN / "phone.mp4").read_bytes(),
        "another picture": packed,
        "zeros": bytes(70_000),
        "text with an end marker": b"SEFH" + b"\xff\xda\xff\xd9" * 9,
    }
    expected = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(read_image(put(tmp_path / "a.jpg", packed + tails[tail])), expected)


@JPEGS
def test_only_the_end_marker_is_missing(tmp_path: Path, options: list[int]) -> None:
    packed = jpeg(textured(), options)
    expected = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR)
    for missing in (1, 2):
        assert np.array_equal(read_image(put(tmp_path / "a.jpg", packed[:-missing])), expected)


@JPEGS
@pytest.mark.parametrize(
    "ending", [b"", b"\xff\xd9", b"\xff\xd8\xff\xe0"], ids=["nothing", "end marker", "next picture"]
)
def test_a_jpeg_is_refused_wherever_it_is_cut(
    tmp_path: Path, options: list[int], ending: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    packed = jpeg(textured(), options)
    start = scan_start(packed)
    for at in range(start, len(packed) - 40, (len(packed) - start) // 40):
        with pytest.raises(ConfigError, match=r"a\.jpg: (the file was cut short|it is damaged)"):
            read_image(put(tmp_path / "a.jpg", packed[:at] + ending))
    assert capfd.readouterr().err == ""  # the decoder's own words are in the error


def test_a_progressive_jpeg_that_lacks_its_last_scans_is_cut_short(tmp_path: Path) -> None:
    packed = jpeg(textured(), PROGRESSIVE)
    scans = [at for at in range(len(packed)) if packed[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        tables = packed.rfind(b"\xff\xc4", 0, at)  # those of this scan stand before it
        with pytest.raises(ConfigError, match="cut short"):
            read_image(put(tmp_path / "a.jpg", packed[: tables if packed[tables:at].count(b"\xff\xda") == 0 else at]))


@JPEGS
@pytest.mark.parametrize("filler", [0x00, 0x5A, 0xFF, 0x20])
def test_a_lost_sector_in_the_middle_of_a_jpeg_is_damage(tmp_path: Path, options: list[int], filler: int) -> None:
    packed = jpeg(textured(480, 640), options)
    start = scan_start(packed)
    for share in (0.1, 0.35, 0.6, 0.85):
        at = start + int((len(packed) - start) * share)
        hole = packed[:at] + bytes([filler]) * 512 + packed[at + 512 :]
        with pytest.raises(ConfigError, match=r"damaged|cut short"):
            read_image(put(tmp_path / "a.jpg", hole))


@JPEGS
@pytest.mark.parametrize("grey", [0, 127, 128, 255])
def test_a_plain_page_is_no_damage_although_its_bytes_repeat(tmp_path: Path, options: list[int], grey: int) -> None:
    page = np.full((1200, 1600, 3), grey, np.uint8)
    page[20:120, 20:180] = textured(100, 160)
    read = read_image(put(tmp_path / "a.jpg", jpeg(page, options)))
    assert abs(int(read[-1, -1, 0]) - grey) <= 1
    grey_page = read_image(put(tmp_path / "b.jpg", jpeg(page[:, :, 0], options)))
    assert abs(int(grey_page[-1, -1, 0]) - grey) <= 1


@pytest.mark.parametrize("padding", [bytes(300), b"\xff" * 9, b"\x5a"], ids=["zeros", "fill bytes", "one byte"])
def test_padding_before_the_end_marker_is_no_damage(tmp_path: Path, padding: bytes) -> None:
    packed = jpeg(textured(), BASELINE)
    expected = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(read_image(put(tmp_path / "a.jpg", packed[:-2] + padding + packed[-2:])), expected)


def test_a_copy_that_ended_in_zeros_is_cut_short(tmp_path: Path) -> None:
    packed = cv2.imencode(".jpg", textured(), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    half = len(packed) // 2
    with pytest.raises(ConfigError, match=r"damaged|cut short"):
        read_image(put(tmp_path / "a.jpg", packed[:half] + bytes(len(packed) - half)))


def test_lines_of_others_pass_while_a_decoder_is_listened_to(capfd: pytest.CaptureFixture[str]) -> None:
    with overhear() as said:
        os.write(2, b"a line of the daemon's\nCorrupt JPEG data: premature end of data segment\nand another\n")
    assert said == ["Corrupt JPEG data: premature end of data segment"]
    assert capfd.readouterr().err == "a line of the daemon's\nand another\n"


def test_damage_is_heard_and_no_line_is_lost_while_other_threads_write(capfd: pytest.CaptureFixture[str]) -> None:
    whole, stop, written = jpeg(textured(), BASELINE), threading.Event(), 0

    def write_on() -> None:
        nonlocal written
        while not stop.is_set():
            os.write(2, b"%06d\n" % written)
            written += 1

    def look() -> int:
        refused = 0
        for _ in range(25):
            assert decode(whole, "whole.jpg").shape == (240, 320, 3)
            with pytest.raises(ConfigError):
                decode(whole[: len(whole) // 2], "half.jpg")
            refused += 1
        return refused

    writer = threading.Thread(target=write_on)
    writer.start()
    with ThreadPoolExecutor(3) as pool:
        assert [each.result() for each in [pool.submit(look) for _ in range(3)]] == [25] * 3
    stop.set()
    writer.join()
    with overhear():
        pass  # hands on what was written at the very end
    assert sorted(capfd.readouterr().err.split()) == [f"{number:06d}" for number in range(written)]


# --- other formats


def test_a_png_with_a_changed_byte_is_damaged_and_one_with_bytes_behind_it_is_not(tmp_path: Path) -> None:
    packed = cv2.imencode(".png", textured())[1].tobytes()
    assert np.array_equal(read_image(put(tmp_path / "a.png", packed + b"more" * 99)), textured())
    assert np.array_equal(read_image(put(tmp_path / "a.png", packed[:-12])), textured())  # lacks only its end mark
    for share in (0.1, 0.5, 0.9):
        at = int(len(packed) * share)
        changed = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
        with pytest.raises(ConfigError, match=r"IDAT at byte .* has a wrong checksum"):
            read_image(put(tmp_path / "a.png", changed))


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".tiff", ".ppm", ".jp2"])
def test_any_format_that_is_cut_short_is_refused(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    packed = cv2.imencode(suffix, textured())[1].tobytes()
    assert read_image(put(tmp_path / f"a{suffix}", packed)).shape == (240, 320, 3)
    for share in (0.05, 0.3, 0.6, 0.9, 0.99):
        with pytest.raises(ConfigError, match=f"a{suffix}: "):
            read_image(put(tmp_path / f"a{suffix}", packed[: int(len(packed) * share)]))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["photo", "photo.png", "photo.JFIF", "photo.bin"])
def test_the_content_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    assert read_image(put(tmp_path / name, jpeg(textured(), BASELINE))).shape == (240, 320, 3)


@pytest.mark.parametrize(("name", "format_name"), [("x.heic", "HEIC"), ("x.avif", "AVIF")])
def test_a_format_that_this_opencv_lacks_is_named_with_what_to_do(
    tmp_path: Path, name: str, format_name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path / "picture.jpg", (FOREIGN / name).read_bytes())  # whatever it calls itself
    if format_name == "AVIF" and cv2.haveImageWriter(".avif"):
        assert np.abs(read_image(path).astype(int) - read_image(FOREIGN / "sq.png")).mean() < 2
    else:
        with pytest.raises(
            ConfigError, match=rf"picture\.jpg: {format_name}: OpenCV .* does not decode it: save it as"
        ):
            read_image(path)
    assert capfd.readouterr().err == ""


def test_a_raw_file_of_a_camera_is_refused_although_a_thumbnail_is_in_it(tmp_path: Path) -> None:
    packed = cv2.imencode(".tiff", scene())[1].tobytes()
    assert read_image(put(tmp_path / "a.tiff", packed)).shape == (40, 60, 3)
    with pytest.raises(ConfigError, match=r"a\.nef: RAW: OpenCV does not decode it: save it as JPEG or PNG"):
        read_image(put(tmp_path / "a.nef", packed))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_in_a_deep_file_are_remarked_once_with_a_count(tmp_path: Path, bits: int) -> None:
    remarks = Remarks()
    deep = (scene().astype(np.uint16) * 257) >> (16 - bits)
    for name in ("a.png", "b.png"):
        assert read_image(write(tmp_path / name, deep), remarks).max() < 65
    (line,) = remarks.lines()
    assert f"2 images, the first is {tmp_path / 'a.png'}: nearly black: uses {bits} of 16 bits" in line
    assert f"times {1 << 16 - bits}" in line


def test_all_bits_of_a_deep_file_and_eight_of_a_plain_one_are_no_remark(tmp_path: Path) -> None:
    remarks = Remarks()
    read_image(write(tmp_path / "deep.png", scene().astype(np.uint16) * 257), remarks)
    read_image(write(tmp_path / "dark.png", scene() // 50), remarks)
    assert remarks.lines() == []
    read_image(FOREIGN / "g12in16.png", remarks)
    assert "uses 12 of 16 bits" in remarks.lines()[0]


# --- what is no file


def test_a_pipe_a_device_and_a_link_to_itself_are_errors_that_come_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "dir.jpg").mkdir()
    for path, said in (
        (tmp_path / "pipe.jpg", "named pipe"),
        (tmp_path / "loop.jpg", "symbolic links"),
        (tmp_path / "dir.jpg", "directory"),
        (Path("/dev/zero"), "character device"),
    ):
        with pytest.raises(ConfigError, match=f"cannot be read: .*{said}"):
            read_image(path)


def test_a_name_of_any_bytes_is_told_in_one_line_of_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9\n.png"))
    path.write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        read_image(path)
    assert "/caf\\udce9\\n.png: the file is empty" in str(caught.value)
    str(caught.value).encode()
    assert shown("数 части é.png") == "数 части é.png"


def test_a_gif_is_read_or_named_and_is_refused_when_its_first_picture_is_cut_short(tmp_path: Path) -> None:
    packed, remarks = (FOREIGN / "two.gif").read_bytes(), Remarks()
    if re.search(r"^\s+GIF:\s+YES", cv2.getBuildInformation(), re.MULTILINE):
        read = read_image(put(tmp_path / "a.bin", packed), remarks)
        assert np.abs(read.astype(int) - cv2.resize(read_image(FOREIGN / "sq.png"), (160, 160))).mean() < 8
        assert "a.bin: holds several pictures: only the first is looked at" in remarks.lines()[0]
    else:
        with pytest.raises(ConfigError, match=r"a\.bin: GIF: OpenCV .* does not decode it: save it as JPEG or PNG"):
            read_image(put(tmp_path / "a.bin", packed), remarks)
    for at in (15, 100, len(packed) // 3):
        with pytest.raises(ConfigError, match=r"a\.gif: the file was cut short"):
            read_image(put(tmp_path / "a.gif", packed[:at]))


def test_the_first_of_several_pages_is_read_with_a_remark(tmp_path: Path) -> None:
    remarks = Remarks()
    assert cv2.imwritemulti(str(tmp_path / "pages.tiff"), [scene(), scene() // 2])
    assert np.array_equal(read_image(tmp_path / "pages.tiff", remarks), scene())
    assert "holds several pictures: only the first is looked at" in remarks.lines()[0]
    assert read_image(write(tmp_path / "page.tiff", scene()), quiet := Remarks()).shape == (40, 60, 3)
    assert quiet.lines() == []


@pytest.mark.parametrize(
    "head",
    [
        b"P6\n20000 20000\n255\n",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, 20_000, 20_000, 1, 24, 1, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HHBBB", 20_000, 20_000, 0, 0, 0) + b",\0\0\0\0\0\0\0\0\0\x08\x01\0\0;",
        b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x16ihdr" + struct.pack(">II", 20_000, 20_000) + bytes(6),
    ],
    ids=["ppm", "bmp", "gif", "jp2"],
)
def test_a_small_file_that_would_take_a_gigabyte_is_refused(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(ConfigError, match="20000 x 20000 pixels: at most 268 million"):
        read_image(put(tmp_path / "bomb", head + bytes(100)))
