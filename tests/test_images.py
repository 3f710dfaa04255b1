import io
import struct
import threading
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bit_keras.images import ImageError, SkippedFiles, decode_image


def photo(height=33, width=41):
    """Smooth blocks with some noise: compressible, with odd sides."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 236, (9, 9, 3)), np.ones((5, 5, 1)))[:height, :width]
    return (blocks + rng.integers(0, 20, blocks.shape)).astype(np.uint8)


def encode(image, fmt, **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def png(pixels, depth, colour_type, width=None, height=None):
    """A PNG by hand, for what Pillow does not write: pixels is [H, W, C] or the size is given."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    if pixels is None:
        rows = b""
    else:
        height, width = pixels.shape[:2]
        rows = b"".join(
            b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in pixels
        )
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 95])
def test_jpeg_equals_tensorflow_bit_for_bit(subsampling, progressive, quality):
    data = encode(
        Image.fromarray(photo()),
        "JPEG",
        quality=quality,
        subsampling=subsampling,
        progressive=progressive,
    )
    expected = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(decode_image(data), expected)


def test_png_is_lossless_and_equals_tensorflow():
    data = encode(Image.fromarray(photo()), "PNG")
    np.testing.assert_array_equal(decode_image(data), photo())
    np.testing.assert_array_equal(decode_image(data), tf.io.decode_png(data, channels=3))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_one_bit_and_palette_become_rgb(mode):
    image = Image.fromarray(photo()).convert(mode)
    decoded = decode_image(encode(image, "PNG"))
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_goes_onto_white(mode):
    image = Image.fromarray(photo()).convert(mode)
    image.putalpha(Image.fromarray(np.tile(np.arange(41, dtype=np.uint8) * 6, (33, 1))))
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    expected = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha))
    decoded = decode_image(encode(image, "PNG"))
    np.testing.assert_array_equal(decoded, expected)
    assert (decoded[:, 0] == 255).all()  # fully transparent


def test_transparent_palette_entry_becomes_white():
    image = Image.fromarray(photo()).quantize(20)
    index = image.getpixel((5, 5))
    decoded = decode_image(encode(image, "PNG", transparency=index))
    assert (decoded[np.asarray(image) == index] == 255).all()
    opaque = np.asarray(image) != index
    np.testing.assert_array_equal(decoded[opaque], np.asarray(image.convert("RGB"))[opaque])


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 33 * 41).reshape(33, 41).astype(np.uint16)
    decoded = decode_image(encode(Image.fromarray(values), "PNG"))
    assert np.abs(decoded - values[..., None] / 257).max() <= 1
    assert decoded.min() == 0
    assert decoded.max() == 255
    for fmt in ("TIFF", "PPM"):
        np.testing.assert_array_equal(decode_image(encode(Image.fromarray(values), fmt)), decoded)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_keeps_the_high_byte(colour_type, channels):
    values = np.random.default_rng(1).integers(0, 65536, (9, 11, channels))
    if channels in (2, 4):
        values[..., -1] = 65535
    colours = values[..., : 3 if channels > 2 else 1] >> 8
    decoded = decode_image(png(values, 16, colour_type))
    np.testing.assert_array_equal(decoded, np.broadcast_to(colours, (9, 11, 3)))


def test_cmyk_jpeg_becomes_rgb():
    image = Image.fromarray(photo()).convert("CMYK")
    decoded = decode_image(encode(image, "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - photo()).mean() < 8


@pytest.mark.parametrize("fmt", ["GIF", "WEBP"])
def test_animation_gives_its_first_frame(fmt):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    options = {"save_all": True, "append_images": frames[1:]}
    if fmt == "WEBP":
        options["lossless"] = True
    decoded = decode_image(encode(frames[0], fmt, **options))
    assert decoded.shape == (6, 8, 3)
    assert (decoded == [255, 0, 0]).all()


def test_exif_orientation_is_ignored_as_tensorflow_does():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90°
    data = encode(Image.fromarray(photo()), "JPEG", exif=exif)
    assert decode_image(data).shape == (33, 41, 3)
    assert tf.io.decode_jpeg(data).shape == (33, 41, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"no image at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (encode(Image.fromarray(photo()), "JPEG")[:700], "truncated"),
        (encode(Image.fromarray(photo()), "PNG")[:700], "truncated"),
        (png(None, 8, 2, width=17_000, height=13_600), "231 megapixels, limit 89.5"),
    ],
)
def test_unusable_files_are_refused_with_a_short_reason(data, reason):
    with pytest.raises(ImageError, match=f"^{reason}$"):
        decode_image(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_size_is_checked_before_decoding():
    # The header promises 100 megapixels and there are no pixels: decoding would say "truncated".
    with pytest.raises(ImageError, match="100 megapixels"):
        decode_image(png(None, 8, 0, width=10_000, height=10_000))
    with pytest.raises(ImageError, match=r"0.00135 megapixels, limit 0.001"):
        decode_image(encode(Image.fromarray(photo()), "PNG"), max_pixels=1000)


def test_pixels_without_a_range_are_refused():
    for mode in ("F", "I"):
        with pytest.raises(ImageError, match="no agreed range"):
            decode_image(encode(Image.new(mode, (4, 4)), "TIFF"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, about broken TIFF tags
def test_mutilated_files_raise_nothing_but_image_error():
    rng = np.random.default_rng(0)
    image = Image.fromarray(photo())
    for fmt in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        whole = encode(image, fmt)
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(0, 256)
            try:
                pixels = decode_image(
                    bytes(data[: rng.integers(1, len(data) + 1)]), max_pixels=10**6
                )
            except ImageError:
                continue
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3


def test_skipped_files_names_each_file_once_and_counts_across_threads():
    skipped = SkippedFiles()
    assert skipped.summary() == "no files skipped"

    def add():
        for i in range(200):
            skipped.add(f"{i:03d}.png", "truncated")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(skipped) == 200
    assert skipped.names[:2] == ["000.png", "001.png"]
    summary = skipped.summary(limit=2)
    assert summary == "200 files skipped: 000.png (truncated), 001.png (truncated), and 198 more"
