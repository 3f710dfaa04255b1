"""From pixels to what the model sees: the one definition for training, evaluation and serving.

Every function is made of TensorFlow operations only, so that the exported module can carry it.
Models take [-1, 1]; published modules take [0, 1] and rescale inside.
"""

from __future__ import annotations

import tensorflow as tf

from bit_keras.decoding import decode_bytes as decode_bytes


def to_model_range(images: tf.Tensor) -> tf.Tensor:
    """[0, 1] → [-1, 1].

    Args:
        images: float of any shape, 0 to 1, as published modules take them.

    Returns:
        The same shape and dtype, -1 to 1.

    Example:
        >>> float(to_model_range(tf.constant(0.5)))
        0.0
    """
    return images * 2.0 - 1.0


def from_uint8(images: tf.Tensor) -> tf.Tensor:
    """[0, 255] → [-1, 1].

    Args:
        images: uint8 of any shape, or floats from 0 to 255, which is what resizing makes of it.

    Returns:
        float32 of the same shape, -1 to 1: images / 127.5 - 1 (reference code
        `input_pipeline_tf2_or_jax.py`).

    Example:
        >>> from_uint8(tf.constant([0, 255], tf.uint8)).numpy()
        array([-1.,  1.], dtype=float32)
    """
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def resize_square(images: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes to a square, whatever the aspect ratio: bilinear, without antialiasing.

    The released models were trained and tested so (`tf.image.resize` in the reference code). A
    resize with antialiasing, Pillow's for instance, gives other pixels and lower accuracy.

    Args:
        images: [height, width, channels] or [batch, height, width, channels], uint8 or float.
        size: side of the result in pixels.

    Returns:
        float32 of the same rank and value range.

    Example:
        >>> resize_square(tf.zeros([5, 9, 3], tf.uint8), 4).shape
        TensorShape([4, 4, 3])
    """
    images = tf.image.resize(images, (size, size), method="bilinear", antialias=False)
    return tf.cast(images, tf.float32)


def eval_view(image: tf.Tensor, size: int) -> tf.Tensor:
    """A test image: resized to a square, no crop (paper section 3.3).

    Args:
        image: uint8 [height, width, 3] or [batch, height, width, 3].
        size: side in pixels; the HyperRule's crop size.

    Returns:
        float32 [..., size, size, 3] in [-1, 1].

    Example:
        >>> eval_view(tf.zeros([5, 9, 3], tf.uint8), 4).shape
        TensorShape([4, 4, 3])
    """
    return from_uint8(resize_square(image, size))


def train_view(
    image: tf.Tensor, seed: tf.Tensor, resize: int, crop: int, flip: bool = True
) -> tf.Tensor:
    """A training image: resized to a square, cropped at random, mirrored half of the time.

    Paper section 3.3. (The reference code mirrors every image: a slip it is better not to copy.)

    Args:
        image: uint8 [height, width, 3].
        seed: integer [2]; the result is a function of the image and the seed alone.
        resize: side of the square in pixels.
        crop: side of the crop, at most `resize`.
        flip: False where left and right matter, for tasks about orientation.

    Returns:
        float32 [crop, crop, 3] in [-1, 1].

    Raises:
        ValueError: when the crop is larger than the resized image.

    Example:
        >>> train_view(tf.zeros([5, 9, 3], tf.uint8), [0, 1], resize=8, crop=6).shape
        TensorShape([6, 6, 3])
    """
    if not 1 <= crop <= resize:
        raise ValueError(
            f"`crop` must be between 1 and `resize`. Received: crop={crop}, resize={resize}"
        )
    seeds = tf.random.experimental.stateless_split(seed, 2)
    image = resize_square(image, resize)
    image = tf.image.stateless_random_crop(image, (crop, crop, 3), seeds[0])
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, seeds[1])
    return from_uint8(image)


def mixup(
    images: tf.Tensor, one_hot: tf.Tensor, alpha: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """MixUp: every example is blended with its neighbour in the batch.

    One λ ~ Beta(α, α) for the whole batch; the result is λ·x + (1-λ)·roll(x, 1). Rolling by one
    pairs no two examples twice, which the reference code's reversal does.

    Args:
        images: float [batch, height, width, 3].
        one_hot: float [batch, classes].
        alpha: above 0; the HyperRule has 0.1, where λ is mostly close to 0 or 1.
        seed: integer [2].

    Returns:
        Images and labels of the same shapes and dtypes.

    Raises:
        ValueError: when alpha is not above 0.

    Source: Zhang et al. 2018, arXiv 1710.09412; paper section 3.3.

    Example:
        >>> x, y = mixup(tf.ones([2, 4, 4, 3]), tf.eye(2), alpha=0.1, seed=[0, 0])
        >>> tf.reduce_sum(y, axis=1).numpy()
        array([1., 1.], dtype=float32)
    """
    if not alpha > 0:
        raise ValueError(f"`alpha` must be above 0; leave MixUp out for 0. Received: {alpha!r}")
    # Beta from two gammas. For a small α a gamma is often far below float32's smallest number.
    gammas = tf.random.stateless_gamma((2,), seed, alpha=alpha, dtype=tf.float64)
    total = tf.reduce_sum(gammas)
    ratio = tf.where(total > 0, tf.math.divide_no_nan(gammas[0], total), tf.ones([], tf.float64))

    def blend(x: tf.Tensor) -> tf.Tensor:
        weight = tf.cast(ratio, x.dtype)
        return weight * x + (1 - weight) * tf.roll(x, 1, axis=0)

    return blend(images), blend(one_hot)
