import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bit_keras.inception import (
    AREA,
    ASPECT,
    decode_and_inception_crop,
    inception_crop,
    inception_crop_window,
)
from bit_keras.preprocess import decode_bytes, from_uint8, resize_square

fused = tf.function(decode_and_inception_crop, reduce_retracing=True)
split = tf.function(lambda data, seed, size: inception_crop(decode_bytes(data), seed, size))
window_of = tf.function(inception_crop_window, reduce_retracing=True)


def seeds(count):
    return [tf.constant([7, i], tf.int64) for i in range(count)]


def encoded(fmt, height=133, width=171, **options):
    """Smooth colours with some noise, so that every pixel differs from its neighbours."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 11, 3)).astype(np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(pixels + rng.integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, fmt, **options)
    return tf.constant(file.getvalue())


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_fused_jpeg_equals_decode_then_crop(subsampling, progressive):
    data = encoded("JPEG", subsampling=subsampling, progressive=progressive)
    for seed in seeds(15):
        np.testing.assert_array_equal(fused(data, seed, 32), split(data, seed, 32))


@pytest.mark.parametrize("fmt", ["PNG", "BMP"])
def test_other_formats_are_decoded_then_cropped(fmt):
    data = encoded(fmt)
    for seed in seeds(3):
        np.testing.assert_array_equal(fused(data, seed, 32), split(data, seed, 32))


def test_grey_jpeg_gives_three_channels():
    file = io.BytesIO()
    Image.new("L", (40, 30), 90).save(file, "JPEG")
    image = fused(tf.constant(file.getvalue()), [0, 0], 8)
    np.testing.assert_allclose(image, 90 / 127.5 - 1, atol=1e-6)


def test_values_shape_and_type():
    image = fused(encoded("JPEG"), [0, 0], 24)
    assert image.dtype == tf.float32
    assert image.shape == (24, 24, 3)
    assert -1 <= float(tf.reduce_min(image)) < float(tf.reduce_max(image)) <= 1
    spec = tf.data.Dataset.from_tensors(encoded("PNG")).map(lambda d: fused(d, [0, 0], 24))
    assert spec.element_spec.shape == (24, 24, 3)


def test_the_seed_alone_decides():
    data = encoded("JPEG")
    tf.random.set_seed(1)
    first = [fused(data, seed, 16).numpy() for seed in seeds(4)]
    tf.random.set_seed(2)
    np.testing.assert_array_equal(first, [fused(data, seed, 16) for seed in seeds(4)])
    assert all((a != b).any() for a, b in itertools.pairwise(first))


def test_windows_have_the_areas_and_aspects_of_the_paper():
    height, width = 375, 500
    found = np.array([window_of(tf.constant([height, width]), seed) for seed in seeds(400)])
    top, left, h, w = found.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    area, aspect = h * w / (height * width), w / h
    assert area.min() > AREA[0] - 0.01
    assert area.max() <= AREA[1]
    assert aspect.min() > ASPECT[0] - 0.02
    assert aspect.max() < ASPECT[1] + 0.02
    # Large and small, narrow and wide ones do occur.
    assert area.min() < 0.1
    assert area.max() > 0.85
    assert aspect.min() < 0.8
    assert aspect.max() > 1.25
    assert len(np.unique(top)) > 100


def test_an_image_too_narrow_for_a_window_is_taken_whole():
    np.testing.assert_array_equal(window_of(tf.constant([2, 900]), [0, 0]), [0, 0, 2, 900])


def test_half_of_the_views_are_mirrored():
    image = tf.tile(tf.cast(tf.range(64), tf.uint8)[None, :, None], [64, 1, 3])
    views = [inception_crop(image, seed, 8) for seed in seeds(60)]
    mirrored = np.mean([view[0, 0, 0] > view[0, -1, 0] for view in views])
    assert 0.3 < mirrored < 0.7
    for seed in seeds(10):
        assert (np.diff(inception_crop(image, seed, 8, flip=False)[0, :, 0]) >= 0).all()


def test_the_view_is_the_resized_window():
    image = decode_bytes(encoded("PNG"))
    seed = tf.constant([7, 3], tf.int64)
    window = inception_crop_window(
        tf.shape(image), tf.random.experimental.stateless_split(seed, 2)[0]
    )
    top, left, height, width = window.numpy()
    part = image[top : top + height, left : left + width]
    expected = from_uint8(resize_square(part, 20))
    np.testing.assert_array_equal(inception_crop(image, seed, 20, flip=False), expected)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff but cut"])
def test_what_is_no_image_is_an_error(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        fused(tf.constant(data), [0, 0], 8)


def test_a_jpeg_of_too_many_pixels_is_refused_before_decoding():
    data = bytearray(encoded("JPEG").numpy())
    at = data.index(b"\xff\xc0") + 5  # height and width in the frame header
    data[at : at + 4] = b"\xff\x00\xff\x00"
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        fused(tf.constant(bytes(data)), [0, 0], 8)
