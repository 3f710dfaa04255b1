"""Warm-up requests: what a server computes before the first client asks.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
PredictionLog messages, when it loads a version; without it the first requests are slow.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000  # as in TensorFlow Serving


def write_warmup(folder: Path, name: str, image_size: int) -> int:
    """Writes one request for each signature, small enough not to matter in the module.

    Args:
        folder: of the module.
        name: of the model.
        image_size: side of the images, pixels.

    Returns:
        The number of requests; 0, and no file, without tensorflow-serving-api.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return 0
    square = (image_size, image_size, 3)
    grey = tf.fill(square, tf.constant(128, tf.uint8))
    files = [tf.io.encode_jpeg(grey).numpy(), tf.io.encode_png(grey).numpy()]
    inputs = {
        # One value stands for all of them in a TensorProto.
        "serving_default": ("images", tf.make_tensor_proto(0.5, tf.float32, (1, *square))),
        "serving_bytes": ("image_bytes", tf.make_tensor_proto(files)),
    }
    (folder / FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for signature, (key, tensor) in inputs.items():
            request = predict_pb2.PredictRequest(inputs={key: tensor})
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(
                prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString(
                    deterministic=True
                )
            )
    return len(inputs)


def read_warmup(folder: Path) -> Iterator[Any]:
    """The Predict requests of a module's warm-up file, at most 1,000; none without a file."""
    from tensorflow_serving.apis import prediction_log_pb2

    if not (folder / FILE).is_file():
        return
    for record in tf.data.TFRecordDataset(str(folder / FILE)).take(MAX_RECORDS):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        if log.WhichOneof("log_type") == "predict_log":
            yield log.predict_log.request
