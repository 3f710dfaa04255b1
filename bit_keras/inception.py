"""The Inception crop of pre-training, fused with JPEG decoding: pixels outside are not decoded.

Every function is made of TensorFlow operations only and is a function of its arguments alone.
"""

from __future__ import annotations

import tensorflow as tf

from bit_keras.decoding import decode_bytes
from bit_keras.images import MAX_PIXELS
from bit_keras.preprocess import from_uint8, resize_square

# Of the crop; big_vision's `pp_inception_crop`, which pre-trained later BiT models, has them too.
AREA = (0.05, 1.0)  # share of the image
ASPECT = (3 / 4, 4 / 3)  # width / height
_ATTEMPTS = 100  # TensorFlow's default; the whole image if none fits

# Colour is stored at half the width and interpolated; at the border of what is decoded libjpeg has
# no neighbour for it. Pixels decoded beyond the crop's left and right side, and thrown away.
_MARGIN = 2


def inception_crop_window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A random rectangle of 5 % to 100 % of the image, of aspect 3/4 to 4/3.

    Args:
        shape: integer [2] or [3]: height and width of the image in pixels, and its channels.
        seed: integer [2]; the result is a function of the shape and the seed alone.

    Returns:
        int32 [4]: top, left, height, width, in pixels. The whole image when it is so narrow that
        no such rectangle fits.

    Source: paper section 3.3; Szegedy et al. 2015, arXiv 1409.4842, section 6.

    Example:
        >>> top, left, height, width = inception_crop_window([375, 500], [0, 1]).numpy()
        >>> bool(0 <= top <= 375 - height and 0 <= left <= 500 - width)
        True
    """
    shape = tf.cast(shape, tf.int32)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([shape[:2], [3]], axis=0),
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=ASPECT,
        area_range=AREA,
        max_attempts=_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def inception_crop(image: tf.Tensor, seed: tf.Tensor, size: int, flip: bool = True) -> tf.Tensor:
    """A pre-training view of a decoded image: Inception crop, resize, mirrored half of the time.

    Args:
        image: uint8 [height, width, 3].
        seed: integer [2]; the result is a function of the image and the seed alone.
        size: side of the result in pixels.
        flip: False where left and right matter.

    Returns:
        float32 [size, size, 3] in [-1, 1].

    Example:
        >>> inception_crop(tf.zeros([5, 9, 3], tf.uint8), [0, 1], 4).shape
        TensorShape([4, 4, 3])
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)
    window = inception_crop_window(tf.shape(image), seeds[0])
    return _view(_cut(image, window), seeds[1], size, flip)


def decode_and_inception_crop(
    encoded: tf.Tensor, seed: tf.Tensor, size: int, flip: bool = True
) -> tf.Tensor:
    """A pre-training view of an encoded image; of a JPEG only the crop is decoded.

    The same pixels as `inception_crop(decode_bytes(encoded), seed, size, flip)`, in less time.

    Args:
        encoded: scalar string, a JPEG, PNG, GIF or BMP; see `decode_bytes`.
        seed: integer [2]; the result is a function of the image and the seed alone.
        size: side of the result in pixels.
        flip: False where left and right matter.

    Returns:
        float32 [size, size, 3] in [-1, 1].

    Raises:
        tf.errors.InvalidArgumentError: when run on anything else, or on an image of more than
            89.5 megapixels.

    Example:
        >>> encoded = tf.io.encode_jpeg(tf.zeros([5, 9, 3], tf.uint8))
        >>> float(tf.reduce_max(decode_and_inception_crop(encoded, [0, 1], 4)))
        -1.0
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)

    def part_of_jpeg() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(encoded)
        area = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
        allowed = tf.debugging.Assert(
            area <= MAX_PIXELS, [f"The image has too many pixels; the limit is {MAX_PIXELS}.", area]
        )
        with tf.control_dependencies([allowed]):
            return _decode_part(encoded, shape[1], inception_crop_window(shape, seeds[0]))

    def part_of_other() -> tf.Tensor:
        image = decode_bytes(encoded)
        return _cut(image, inception_crop_window(tf.shape(image), seeds[0]))

    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    return _view(tf.cond(is_jpeg, part_of_jpeg, part_of_other), seeds[1], size, flip)


def _cut(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    return tf.image.crop_to_bounding_box(image, window[0], window[1], window[2], window[3])


def _decode_part(encoded: tf.Tensor, full_width: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The window of a JPEG, equal to the same part of the whole image."""
    top, left, height, width = tf.unstack(window)
    start = tf.maximum(left - _MARGIN, 0)
    end = tf.minimum(left + width + _MARGIN, full_width)
    image = tf.io.decode_and_crop_jpeg(
        encoded,
        tf.stack([top, start, height, end - start]),
        channels=3,
        dct_method="INTEGER_ACCURATE",  # as `decode_bytes`: training and evaluation see one picture
    )
    return image[:, left - start : left - start + width]


def _view(image: tf.Tensor, seed: tf.Tensor, size: int, flip: bool) -> tf.Tensor:
    image = resize_square(tf.ensure_shape(image, [None, None, 3]), size)
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, seed)
    return from_uint8(image)
