"""Decoding of encoded images inside a TensorFlow graph, for served modules and TFDS.

The pixels equal those of `bit_keras.images.decode_image`, which reads the files of a folder.
"""

from __future__ import annotations

import tensorflow as tf

from bit_keras.images import MAX_PIXELS

_HEADER_BYTES = 34  # as far as a BMP's compression field


def decode_bytes(image_bytes: tf.Tensor, *, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decodes one JPEG, PNG, GIF (first frame) or BMP inside the graph.

    The size is read from the header and checked before anything is decoded. Grey and palette
    images are converted, transparent PNG composited onto white, 16-bit PNG reduced to the high
    byte. Not decoded, because TensorFlow would give other pixels than evaluation sees: GIF whose
    first frame is transparent or does not fill the canvas, BMP with a palette or compression. WebP
    needs a newer TensorFlow.

    Args:
        image_bytes: scalar string.
        max_pixels: larger images are refused.

    Returns:
        uint8 [height, width, 3], 0 to 255.

    Raises:
        tf.errors.InvalidArgumentError: when run on anything else; the message says why.

    Example:
        >>> decode_bytes(tf.io.encode_png(tf.zeros([2, 4, 1], tf.uint8))).shape
        TensorShape([2, 4, 3])
    """
    head = tf.strings.substr(image_bytes, 0, _HEADER_BYTES)
    head = tf.strings.substr(head + b"\0" * _HEADER_BYTES, 0, _HEADER_BYTES)
    header = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int64)

    def starts_with(magic: bytes) -> tf.Tensor:
        return tf.strings.substr(head, 0, len(magic)) == magic

    image = tf.case(
        [
            (starts_with(b"\xff\xd8\xff"), lambda: _decode_jpeg(image_bytes, max_pixels)),
            (
                starts_with(b"\x89PNG\r\n\x1a\n"),
                lambda: _decode_png(image_bytes, header, max_pixels),
            ),
            (starts_with(b"GIF8"), lambda: _decode_gif(image_bytes, header, max_pixels)),
            (starts_with(b"BM"), lambda: _decode_bmp(image_bytes, header, max_pixels)),
        ],
        default=_refuse_format,
    )
    image.set_shape([None, None, 3])
    return image


def _refuse_format() -> tf.Tensor:
    message = "The bytes are not a JPEG, PNG, GIF or BMP image. Convert it to PNG or JPEG."
    with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
        return tf.zeros([0, 0, 3], tf.uint8)


def _check_size(height: tf.Tensor, width: tf.Tensor, max_pixels: int) -> tf.Operation:
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    return tf.debugging.Assert(
        (height * width > 0) & (height * width <= max_pixels),
        [f"The image has too many pixels, or none; the limit is {max_pixels}.", height, width],
    )


def _number(header: tf.Tensor, start: int, size: int, *, big_endian: bool = False) -> tf.Tensor:
    """The unsigned number in `size` bytes of the header."""
    powers = [256**i for i in range(size)]
    weights = powers[::-1] if big_endian else powers
    return tf.reduce_sum(header[start : start + size] * tf.constant(weights, tf.int64))


def _decode_jpeg(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(data)
    with tf.control_dependencies([_check_size(shape[0], shape[1], max_pixels)]):
        # Pillow's inverse cosine transform; TensorFlow's default is a faster, coarser one.
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(data: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    width = _number(header, 16, 4, big_endian=True)
    height = _number(header, 20, 4, big_endian=True)
    has_alpha = header[25] >= 4  # colour type: grey with alpha is 4, RGBA is 6
    # A tRNS chunk, which comes before the pixels, makes one colour or palette entries transparent.
    # Without either, four channels must not be asked for: TensorFlow's opaque is wrong below 8 bit.
    before_pixels = tf.strings.split(data, b"IDAT", maxsplit=1)[0]
    has_alpha |= tf.size(tf.strings.split(before_pixels, b"tRNS", maxsplit=1)) > 1
    with tf.control_dependencies([_check_size(height, width, max_pixels)]):
        return tf.cond(
            has_alpha,
            lambda: _onto_white(tf.io.decode_png(data, channels=4)),
            lambda: tf.io.decode_png(data, channels=3),
        )


def _onto_white(rgba: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, 4] → uint8 [H, W, 3], rounded to nearest as Pillow does."""
    rgba = tf.cast(rgba, tf.int32)
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _decode_gif(data: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    size = _check_size(_number(header, 8, 2), _number(header, 6, 2), max_pixels)
    frame, transparent = _first_gif_frame(data, header)
    # TensorFlow would paint transparency black and cut the canvas to the first frame.
    whole = tf.reduce_all(frame == tf.concat([tf.zeros([4], tf.int64), header[6:10]], axis=0))
    plain = tf.debugging.Assert(
        whole & ~transparent,
        ["The first frame of the GIF is transparent or partial. Convert it to PNG."],
    )
    with tf.control_dependencies([plain, size]):
        return tf.io.decode_image(data, channels=3, expand_animations=False)


def _first_gif_frame(data: tf.Tensor, header: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Place and size of the first frame (left, top, width, height, 2 bytes each); transparent?"""
    content = tf.io.decode_raw(data, tf.uint8)

    def byte(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(content[position], tf.int64)

    def skip_extension(position: tf.Tensor, transparent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        graphic_control = byte(position + 1) == 0xF9
        transparent |= graphic_control & (byte(position + 3) % 2 == 1)
        (position,) = tf.while_loop(  # sub-blocks, up to an empty one
            lambda p: byte(p) > 0, lambda p: (p + byte(p) + 1,), (position + 2,)
        )
        return position + 1, transparent

    # A header of 13 bytes, a palette where bit 7 of byte 10 says so, extensions, the frame.
    palette = tf.where(header[10] >= 128, 3 * 2 ** (header[10] % 8 + 1), 0)
    position, transparent = tf.while_loop(
        lambda p, _: byte(p) == 0x21, skip_extension, (13 + palette, tf.constant(False))
    )
    return tf.cast(content[position + 1 : position + 9], tf.int64), transparent


def _decode_bmp(data: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    bits, compression = _number(header, 28, 2), _number(header, 30, 4)
    plain = tf.debugging.Assert(
        ((bits == 24) | (bits == 32)) & (compression == 0),
        ["Only uncompressed 24-bit BMP can be decoded here. Convert it to PNG.", bits, compression],
    )
    height = _number(header, 22, 4)
    height = tf.minimum(height, 2**32 - height)  # negative when the rows go from top to bottom
    size = _check_size(height, _number(header, 18, 4), max_pixels)
    with tf.control_dependencies([plain, size]):
        return tf.io.decode_bmp(data)[..., :3]  # the fourth byte of 32-bit pixels is padding
