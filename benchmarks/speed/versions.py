"""Versions of what our own contestants run with."""

from __future__ import annotations

import keras
import tensorflow as tf

import bit_keras

VERSIONS = {
    "bit_keras": bit_keras.__version__,
    "keras": keras.__version__,
    "tensorflow": tf.__version__,
}
