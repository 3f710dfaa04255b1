import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bit_keras.images import decode_image
from bit_keras.preprocess import (
    decode_bytes,
    eval_view,
    from_uint8,
    mixup,
    resize_square,
    to_model_range,
    train_view,
)


def photo(height=33, width=41):
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 236, (9, 9, 3)), np.ones((5, 5, 1)))[:height, :width]
    return (blocks + rng.integers(0, 20, blocks.shape)).astype(np.uint8)


def encode(image, fmt, **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def png16(values, colour_type, transparent=b""):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    if transparent:
        chunks.insert(1, chunk(b"tRNS", transparent))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_alpha(image):
    image = image.copy()
    image.putalpha(Image.fromarray(np.tile(np.arange(41, dtype=np.uint8) * 6, (33, 1))))
    return image


def partial_gif():
    """The canvas is larger than the only frame."""
    data = bytearray(encode(Image.fromarray(photo()).quantize(20), "GIF"))
    data[6] += 9
    return bytes(data)


def files():
    """Name → encoded image, every format that both decoders read."""
    rgb = Image.fromarray(photo())
    grey = rgb.convert("L")
    few = rgb.quantize(20)
    deep = np.random.default_rng(1).integers(0, 65536, (9, 11, 4))
    cmyk = encode(rgb.convert("CMYK"), "JPEG")
    adobe = cmyk.index(b"Adobe")
    ycck = cmyk[: adobe + 11] + b"\x02" + cmyk[adobe + 12 :]  # the transform flag
    samples = {
        "jpeg": encode(rgb, "JPEG"),
        "jpeg 4:4:4 progressive": encode(rgb, "JPEG", subsampling=0, progressive=True),
        "jpeg grey": encode(grey, "JPEG"),
        "jpeg cmyk": cmyk,
        "jpeg ycck": ycck,
        "png": encode(rgb, "PNG"),
        "png grey": encode(grey, "PNG"),
        "png grey, one level transparent": encode(grey, "PNG", transparency=grey.getpixel((0, 0))),
        "png rgb, one colour transparent": encode(rgb, "PNG", transparency=rgb.getpixel((0, 0))),
        "png grey alpha": encode(with_alpha(grey), "PNG"),
        "png rgba": encode(with_alpha(rgb), "PNG"),
        "png 1 bit": encode(rgb.convert("1"), "PNG"),
        "png 1 bit transparent": encode(rgb.convert("1"), "PNG", transparency=1),
        "png 16 bit grey": png16(deep[..., :1], 0),
        "png 16 bit grey transparent": png16(
            deep[..., :1], 0, deep[0, 0, :1].astype(">u2").tobytes()
        ),
        "png 16 bit rgb": png16(deep[..., :3], 2),
        "png 16 bit grey alpha": png16(deep[..., :2], 4),
        "png 16 bit rgba": png16(deep, 6),
        "gif": encode(few, "GIF"),
        "gif animated": encode(few, "GIF", save_all=True, append_images=[Image.new("P", few.size)]),
        "gif with comment and loop": encode(
            few,
            "GIF",
            comment=b"c" * 600,
            loop=0,
            duration=[5, 5],
            save_all=True,
            append_images=[Image.new("P", few.size)],
        ),
        "bmp": encode(rgb, "BMP"),
        "bmp 32 bit": encode(with_alpha(rgb), "BMP"),
    }
    for colours, bits in ((2, 1), (4, 2), (16, 4), (200, 8)):
        palette = rgb.quantize(colours)
        samples[f"png palette {bits} bit"] = encode(palette, "PNG", bits=bits)
        samples[f"png palette {bits} bit transparent"] = encode(
            palette, "PNG", bits=bits, transparency=bytes([0, 128])
        )
    return samples


@pytest.fixture(scope="module")
def graph_decode():
    return tf.function(decode_bytes, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize(("name", "data"), files().items(), ids=list(files()))
def test_graph_decoding_equals_decode_image(graph_decode, name, data):
    np.testing.assert_array_equal(graph_decode(data), decode_image(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JPEG, PNG, GIF or BMP"),
        (b"hello", "not a JPEG, PNG, GIF or BMP"),
        (encode(Image.fromarray(photo()), "WEBP"), "not a JPEG, PNG, GIF or BMP"),
        (
            b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + struct.pack(">II", 20_000, 20_000) + b"\x08\x02",
            "pixels",
        ),
        (
            b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + struct.pack(">II", 2**31, 2**31) + b"\x08\x02",
            "pixels",
        ),
        (b"GIF89a" + struct.pack("<HH", 65535, 65535), "pixels"),
        (
            encode(Image.fromarray(photo()).quantize(20), "GIF", transparency=3),
            "transparent or partial",
        ),
        (partial_gif(), "transparent or partial"),
        (encode(Image.fromarray(photo()).quantize(20), "GIF")[:50], "slice index"),
        (encode(Image.fromarray(photo()).quantize(20), "BMP"), "24-bit BMP"),
        (encode(Image.fromarray(photo()), "JPEG")[:700], "JPEG"),
        (encode(Image.fromarray(photo()), "PNG")[:700], "PNG"),
    ],
)
def test_graph_decoding_refuses_the_rest_with_invalid_argument(graph_decode, data, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        graph_decode(data)


def test_graph_decoding_checks_the_size_of_a_jpeg_before_decoding():
    data = bytearray(encode(Image.fromarray(photo()), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        decode_bytes(bytes(data))


def test_graph_decoding_survives_export_and_map_fn(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(image_bytes):
        spec = tf.TensorSpec([8, 8, 3], tf.float32)
        return tf.map_fn(
            lambda data: eval_view(decode_bytes(data), 8), image_bytes, fn_output_signature=spec
        )

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(tmp_path))
    data = list(files().values())[:3]
    result = tf.saved_model.load(str(tmp_path)).serve(tf.constant(data))
    expected = [eval_view(decode_image(d), 8) for d in data]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_uint8_and_unit_range_agree():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(from_uint8(values), to_model_range(values / 255.0), atol=1e-6)
    np.testing.assert_array_equal(from_uint8(np.uint8([0, 255])), [-1, 1])


@pytest.mark.parametrize("shape", [(7, 13, 3), (2, 7, 13, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_resize_square_is_bilinear_without_antialias(shape, dtype):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    resized = resize_square(images, 5)
    assert resized.dtype == tf.float32
    assert resized.shape == (*shape[:-3], 5, 5, 3)
    np.testing.assert_allclose(resized, tf.image.resize(images, (5, 5)), atol=1e-4)


def test_eval_view_shows_the_whole_image_in_model_range():
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 10:] = 255
    view = eval_view(image, 4).numpy()
    assert view.shape == (4, 4, 3)
    assert (view[:, :2] == -1).all()
    assert (view[:, 2:] == 1).all()


def test_train_view_is_a_function_of_its_seed():
    image = photo()
    first, again, other = (train_view(image, [1, s], 40, 32).numpy() for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (32, 32, 3)
    assert np.abs(first).max() <= 1


def test_train_view_mirrors_half_of_the_images_unless_told_not_to():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 255
    view = tf.function(lambda seed, flip: train_view(image, seed, 8, 8, flip=flip))
    seeds = tf.stack([tf.zeros(400, tf.int64), tf.range(400, dtype=tf.int64)], axis=1)
    mirrored = sum(int(view(seed, True)[0, 0, 0] < 0) for seed in seeds)
    assert 150 < mirrored < 250  # five standard deviations
    assert all(view(seed, False)[0, 0, 0] > 0 for seed in seeds[:20])


def test_train_view_reaches_every_crop():
    image = np.zeros((5, 5, 3), np.uint8)
    image[..., 0] = np.arange(5)[:, None] * 10 + np.arange(5)
    view = tf.function(lambda seed: train_view(image, seed, 5, 3, flip=False))
    corners = {round((float(view(tf.constant([3, i]))[0, 0, 0]) + 1) * 127.5) for i in range(200)}
    assert corners == {0, 1, 2, 10, 11, 12, 20, 21, 22}


def test_train_view_refuses_a_crop_above_the_resize():
    with pytest.raises(ValueError, match="crop=9, resize=8"):
        train_view(photo(), [0, 0], 8, 9)


def test_mixup_blends_each_example_with_its_neighbour():
    images = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    labels = np.eye(5, dtype=np.float32)
    mixed, soft = mixup(images, labels, 1.0, [3, 4])
    weight = soft.numpy()[0, 0]
    assert 0 < weight < 1
    np.testing.assert_allclose(
        soft, weight * labels + (1 - weight) * np.roll(labels, 1, 0), atol=1e-6
    )
    np.testing.assert_allclose(
        mixed, weight * images + (1 - weight) * np.roll(images, 1, 0), atol=1e-6
    )


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0])
def test_mixup_weight_is_beta_distributed(alpha):
    draw = tf.function(lambda seed: mixup(tf.zeros([2, 1]), tf.eye(2), alpha, seed)[1][0, 0])
    weights = np.array([draw(tf.constant([0, i])) for i in range(2000)])
    assert np.isfinite(weights).all()
    assert abs(weights.mean() - 0.5) < 0.05
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(weights.var() - variance) < 0.1 * variance


def test_mixup_stays_finite_for_a_tiny_alpha():
    for i in range(50):
        _, soft = mixup(tf.zeros([2, 1]), tf.eye(2), 1e-3, [0, i])
        np.testing.assert_allclose(tf.reduce_sum(soft, 1), [1, 1])


def test_mixup_refuses_alpha_zero():
    with pytest.raises(ValueError, match=r"Received: 0"):
        mixup(tf.zeros([2, 1]), tf.eye(2), 0, [0, 0])
