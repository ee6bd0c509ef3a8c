"""Kinds of pictures: metrics, export and import read each in the same way, or all three refuse it by name."""

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import png
from images.pictures import read_all
from PIL import Image
from steps.importing import rows, step_of

from dgflow.images import pictures
from dgflow.images.pictures import FORMATS, check_picture, decode_picture
from dgflow.images.sources import open_images
from dgflow.images.write import export_images
from dgflow.steps.sources.image_set import ImageSet

RANDOM = np.random.default_rng(5)
GREY = RANDOM.integers(0, 256, (4, 4), np.uint8)
COLOUR = RANDOM.integers(0, 256, (4, 4, 3), np.uint8)
DEEP = RANDOM.integers(0, 4096, (4, 4, 4), np.uint16)
"""Twelve bits in sixteen: the upper byte alone is almost black."""


def saved(image: Image.Image, format: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def deep_png(pixels: np.ndarray) -> bytes:
    """Returns a PNG of 16 bits per channel, which PIL does not write."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def deep_tiff(pixels: np.ndarray) -> bytes:
    """Returns a TIFF of one strip with 16 bits per channel, which PIL does not write in colour."""
    height, width, channels = pixels.shape
    data = pixels.astype("<u2").tobytes()
    bits = struct.pack(f"<{channels}H", *[16] * channels)
    tags = {256: width, 257: height, 259: 1, 262: 2, 273: 8, 277: channels, 278: height, 279: len(data)}
    entries = [(tag, struct.pack("<HII", 4, 1, value)) for tag, value in tags.items()]
    entries.append((258, struct.pack("<HII", 3, channels, 8 + len(data))))
    body = b"".join(struct.pack("<H", tag) + entry for tag, entry in sorted(entries))
    table = struct.pack("<H", len(entries)) + body + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(bits)) + data + bits + table


def ppm(magic: bytes, largest: int, pixels: np.ndarray) -> bytes:
    kind = ">u2" if largest > 255 else "u1"
    return magic + f"\n# a note\n4 4\n{largest}\n".encode() + pixels.astype(kind).tobytes()


DEEP_PICTURES = {
    "png rgb": deep_png(DEEP[..., :3]),
    "png rgba": deep_png(np.where(np.arange(4) == 3, 65535, DEEP)),
    "png grey": deep_png(DEEP[..., :1]),
    "png grey and alpha": deep_png(np.where(np.arange(2) == 1, 65535, DEEP[..., :2])),
    "tiff rgb": deep_tiff(DEEP[..., :3]),
    "tiff grey": saved(Image.fromarray(DEEP[..., 0]), "TIFF"),
    "tiff float": saved(Image.fromarray(DEEP[..., 0].astype(np.float32)), "TIFF"),
    "ppm rgb": ppm(b"P6", 65535, DEEP[..., :3]),
    "ppm of 12 bits": ppm(b"P6", 4095, DEEP[..., :3]),
    "pgm": ppm(b"P5", 65535, DEEP[..., 0]),
}
PALETTE = Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
SHALLOW_PICTURES = {
    "png of 1 bit": saved(Image.fromarray(GREY > 127)),
    "png palette of 2 bits": saved(PALETTE, bits=2),
    "png grey": saved(Image.fromarray(GREY)),
    "png rgb": saved(Image.fromarray(COLOUR)),
    "png opaque alpha": saved(Image.fromarray(np.dstack([COLOUR, np.full((4, 4), 255, np.uint8)]))),
    "jpeg": saved(Image.fromarray(COLOUR), "JPEG"),
    "jpeg cmyk": saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "webp": saved(Image.fromarray(COLOUR), "WEBP", lossless=True),
    "bmp": saved(Image.fromarray(COLOUR), "BMP"),
    "gif": saved(PALETTE, "GIF"),
    "tiff": saved(Image.fromarray(COLOUR), "TIFF"),
    "ppm": saved(Image.fromarray(COLOUR), "PPM"),
    "pgm": saved(Image.fromarray(GREY), "PPM"),
}


def folder_of(folder: Path, *pictures: bytes) -> Path:
    """Returns pictures named .png, whatever they are: their format is recognised from the content."""
    folder.mkdir()
    for number, data in enumerate(pictures):
        (folder / f"p{number}.png").write_bytes(data)
    return folder


def by_metrics(source: Path, folder: Path, drop_alpha: bool = False) -> np.ndarray:
    images = ImageSet.at(str(source), drop_alpha=drop_alpha).open()
    return np.stack([np.broadcast_to(image, (4, 4, 3)) for image in images.read(0, images.rows)])


def by_export(source: Path, folder: Path, drop_alpha: bool = False) -> np.ndarray:
    export_images(open_images(str(source), drop_alpha=drop_alpha), str(folder / "out.npz"), "npz")
    return np.broadcast_to(read_all(folder / "out.npz"), (open_images(str(source)).rows, 4, 4, 3))


def by_import(source: Path, folder: Path, drop_alpha: bool = False) -> np.ndarray:
    count = open_images(str(source)).rows
    step = step_of(source, num_classes=0, drop_alpha=drop_alpha, num_images=count)
    images = rows(step, 0, count)["image"]
    order = np.argsort(np.random.Philox(0).random_raw(count), kind="stable")  # the documented order
    return images[np.argsort(order)]


WAYS = pytest.mark.parametrize("read", [by_metrics, by_export, by_import])


@WAYS
@pytest.mark.parametrize("kind", DEEP_PICTURES)
def test_more_than_eight_bits_a_channel_are_refused_by_name(tmp_path, read, kind):
    source = folder_of(tmp_path / "in", png(COLOUR), DEEP_PICTURES[kind])
    with pytest.raises(ValueError, match=r"p1\.png.*more than 8 bits per channel; convert it to 8 bits"):
        read(source, tmp_path)


@WAYS
@pytest.mark.parametrize("kind", SHALLOW_PICTURES)
def test_eight_bits_and_fewer_are_what_pil_sees(tmp_path, read, kind):
    source = folder_of(tmp_path / "in", SHALLOW_PICTURES[kind])
    expected = np.array(Image.open(io.BytesIO(SHALLOW_PICTURES[kind])).convert("RGB"))
    assert np.array_equal(read(source, tmp_path), [expected])


@WAYS
def test_alpha_is_dropped_as_pil_drops_it_where_that_is_asked_for(tmp_path, read):
    pixels = RANDOM.integers(0, 255, (4, 4, 4), np.uint8)
    palette = PALETTE.copy()
    palette.info["transparency"] = 0
    kinds = [
        saved(Image.fromarray(pixels)),
        saved(Image.fromarray(pixels[..., 2:], "LA")),
        saved(palette),
        saved(Image.fromarray(GREY), transparency=int(GREY[0, 0])),
        saved(Image.fromarray(COLOUR), transparency=tuple(map(int, COLOUR[0, 0]))),
        saved(Image.fromarray(pixels), "WEBP", lossless=True, exact=True),
    ]
    source = folder_of(tmp_path / "in", *kinds)
    expected = [np.array(Image.open(io.BytesIO(data)).convert("RGB")) for data in kinds]
    assert np.array_equal(read(source, tmp_path, drop_alpha=True), expected)


@WAYS
def test_one_transparent_pixel_is_refused_with_the_option_that_drops_alpha(tmp_path, read):
    pixels = np.dstack([COLOUR, np.full((4, 4), 255, np.uint8)])
    pixels[2, 1, 3] = 254
    source = folder_of(tmp_path / "in", png(COLOUR), saved(Image.fromarray(pixels)))
    with pytest.raises(ValueError, match=r"p1\.png.*transparent pixels; .*--drop-alpha \(drop_alpha=True\)"):
        read(source, tmp_path)


@WAYS
def test_grey_pictures_among_colour_ones_are_repeated_to_three_channels(tmp_path, read):
    source = folder_of(tmp_path / "in", png(GREY[..., None]), png(COLOUR), png(GREY[..., None]))
    grey = GREY[..., None].repeat(3, 2)
    assert np.array_equal(read(source, tmp_path), [grey, COLOUR, grey])


@pytest.mark.parametrize("read", [by_metrics, by_export])
def test_grey_pictures_among_colour_ones_are_told_once_with_their_number(tmp_path, read, caplog):
    read(folder_of(tmp_path / "in", png(GREY[..., None]), png(COLOUR), png(GREY[..., None])), tmp_path)
    (told,) = [line for line in caplog.messages if "grey" in line]
    assert "2 of 3 pictures are grey: their channel is repeated to three" in told


@WAYS
@pytest.mark.parametrize("at", ["before the pixels", "after the pixels"])
def test_a_png_with_megabytes_of_text_is_read(tmp_path, read, at):
    data = png(COLOUR)
    text = b"note\0\0" + zlib.compress(b" " * 3 * 2**20)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    where = 33 if at == "before the pixels" else len(data) - 12
    source = folder_of(tmp_path / "in", data[:where] + chunk + data[where:])
    assert np.array_equal(read(source, tmp_path), [COLOUR])


@WAYS
@pytest.mark.parametrize("format", ["EPS", "PCX", "TGA", "ICO", "JPEG2000", "SGI"])
def test_pictures_of_other_formats_are_never_opened(tmp_path, read, format, monkeypatch):
    data = saved(Image.fromarray(COLOUR), format)
    source = folder_of(tmp_path / "in", data)
    monkeypatch.setattr("subprocess.check_call", lambda *args, **kwargs: pytest.fail("it starts a program"))
    with pytest.raises(ValueError, match=rf"p0\.png.*a file of another kind than {', '.join(FORMATS)}"):
        read(source, tmp_path)


def test_no_picture_is_opened_without_the_list_of_formats():
    package = Path(pictures.__file__).parents[1]
    calls = [
        line
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if "Image.open(" in line
    ]
    assert calls and all("formats=" in line for line in calls)


def test_more_pixels_than_pil_allows_are_an_error_that_names_the_picture(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    for read in (decode_picture, check_picture):
        with pytest.raises(
            ValueError, match=r"huge\.png.*exceeds limit of 8 pixels.*Make the picture smaller"
        ):
            read(png(COLOUR), "huge.png")


@pytest.mark.parametrize("kind", [*SHALLOW_PICTURES, "tiff grey", "tiff float"])
def test_a_damaged_picture_is_a_value_error_whatever_its_decoder_raises(kind):
    data, random = (SHALLOW_PICTURES | DEEP_PICTURES)[kind], np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 200), 3):
            damaged[place] = random.integers(0, 256)
        for read in (decode_picture, check_picture):
            with contextlib.suppress(ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(bytes(damaged), "a.png")


# Types of Parquet


def cells(kind: str, pictures: list[bytes]) -> pa.Array:
    plain = pa.array(pictures, pa.binary())
    longest = max(map(len, pictures))
    match kind:
        case "large_binary" | "binary_view":
            return pa.array(pictures, getattr(pa, kind)())
        case "fixed_size_binary":
            return pa.array([data.ljust(longest, b"\0") for data in pictures], pa.binary(longest))
        case "dictionary":
            return plain.dictionary_encode()
        case "struct of path and bytes":
            return pa.StructArray.from_arrays([pa.array(["x"] * len(pictures)), plain], ["path", "bytes"])
        case "struct of large_binary":
            return pa.StructArray.from_arrays([pa.array(pictures, pa.large_binary())], ["bytes"])
        case "struct of binary_view":
            return pa.StructArray.from_arrays([pa.array(pictures, pa.binary_view())], ["bytes"])
        case "struct of a dictionary":
            return pa.StructArray.from_arrays([plain.dictionary_encode()], ["bytes"])
    return plain


@WAYS
@pytest.mark.parametrize(
    "kind",
    [
        "large_binary",
        "binary_view",
        "fixed_size_binary",
        "dictionary",
        "struct of path and bytes",
        "struct of large_binary",
        "struct of binary_view",
        "struct of a dictionary",
    ],
)
def test_pictures_in_every_type_of_bytes_in_parquet_are_read(tmp_path, read, kind):
    pixels = RANDOM.integers(0, 256, (6, 4, 4, 3), np.uint8)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": cells(kind, [png(each) for each in pixels])}), path)
    found = read(path, tmp_path)
    key = {image.tobytes() for image in pixels}
    assert len(found) == 6 and {np.ascontiguousarray(image).tobytes() for image in found} == key


@WAYS
def test_an_empty_row_of_tensors_is_named(tmp_path, read):
    pixels = RANDOM.integers(0, 256, (6, 4, 4, 3), np.uint8)
    kind = pa.fixed_shape_tensor(pa.uint8(), (4, 4, 3))
    storage = pa.array([None if row == 4 else pixels[row].ravel() for row in range(6)], kind.storage_type)
    path = tmp_path / "a.parquet"
    images = pa.ExtensionArray.from_storage(kind, storage)
    pq.write_table(pa.table({"image": images}), path, row_group_size=3)
    with pytest.raises(ValueError, match=r"an image in every row of .*a\.parquet, found none in row 4"):
        read(path, tmp_path)
