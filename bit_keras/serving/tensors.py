"""Arrays from and to TensorProto, with bounds on what a small message may ask for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras.serving.errors import InvalidArgumentError, TooLargeError

# The field of a TensorProto that TensorFlow Serving fills, which clients read.
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "string": "string_val",
}


def array_of(tensor: Any, max_bytes: int = 2**31) -> np.ndarray:
    """The array of a TensorProto.

    Raises:
        TooLargeError: when it is above the limit; one value may stand for any number of them.
        InvalidArgumentError: when its content does not fit its shape or dtype.
    """
    try:
        dtype = tf.as_dtype(tensor.dtype)
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        if tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0:
            raise ValueError("its shape is not known")
        size = math.prod(shape) * max(dtype.size or 1, 1)
        if size > max_bytes:
            raise TooLargeError(f"A tensor takes {size} bytes; the limit is {max_bytes}.")
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"A TensorProto cannot be read: {error}") from error


def proto_of(array: np.ndarray) -> Any:
    """A TensorProto with its values in the field of their type, as TensorFlow Serving answers."""
    dtype = tf.string if array.dtype.kind in "OSU" else tf.as_dtype(array.dtype)
    field = _FIELDS.get(dtype.name)
    if field is None:
        return tf.make_tensor_proto(array)
    proto = tf.make_tensor_proto([], dtype=dtype, shape=[0])
    del proto.tensor_shape.dim[:]
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    getattr(proto, field).extend(array.ravel().tolist())
    return proto
