"""Classification by the serving modules, for the site: a few at a time, loaded when first asked."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from bit_keras.images import decode_image
from hub_export.pages import Module

MAX_PIXELS = 40_000_000  # 120 MB of RGB
TOP = 5


class Predictor:
    """Answers with the best classes of an image; threads may share one.

    Example:
        >>> Predictor().classes(module, png)  # doctest: +SKIP
        [{'label': 'openclipart/animals', 'probability': 0.93}, ...]
    """

    def __init__(self) -> None:
        self._loaded: dict[Path, tuple[int, Any, list[str]]] = {}
        self._lock = threading.Lock()

    def classes(self, module: Module, data: bytes) -> list[dict[str, Any]]:
        """The five best classes with their probabilities, best first.

        Raises:
            ImageError: data that is no image, is damaged or has more than 40 megapixels.
            ValueError: for a module without a serving module.
        """
        if module.serving is None:
            raise ValueError(f"{module.handle} gives features, not classes.")
        # The size is checked before anything is decoded, and before TensorFlow is imported.
        pixels = decode_image(data, max_pixels=MAX_PIXELS)
        loaded, labels = self._module(module.serving.folder)
        import tensorflow as tf

        from bit_keras.preprocess import resize_square

        view = resize_square(pixels, module.facts["image_size"]) / 255.0
        answer = loaded.signatures["serving_default"](images=view[None])
        probabilities = answer["probabilities"][0]
        best = tf.math.top_k(probabilities, min(TOP, int(probabilities.shape[0])))
        return [
            {
                "label": labels[index] if index < len(labels) else f"class {index}",
                "probability": float(value),
            }
            for index, value in zip(best.indices.numpy(), best.values.numpy(), strict=True)
        ]

    def _module(self, folder: Path) -> tuple[Any, list[str]]:
        """The module and its class names; loaded anew when it was built anew."""
        stamp = (folder / "saved_model.pb").stat().st_mtime_ns
        with self._lock:
            if folder not in self._loaded or self._loaded[folder][0] != stamp:
                from bit_keras.backend import load_tensorflow

                load_tensorflow()
                import tensorflow as tf

                names = folder / "assets/labels.txt"
                labels = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
                self._loaded[folder] = (stamp, tf.saved_model.load(str(folder)), labels)
            return self._loaded[folder][1:]
