"""Two logical CPU devices, TensorFlow quiet, and no way out to the network."""

import os

import pytest

from bit_keras.backend import load_tensorflow

load_tensorflow()
import tensorflow as tf  # noqa: E402

# Before anything asks TensorFlow for its devices: replicas are tested on two logical CPUs, and
# golden values are CPU values (a GPU would compute convolutions in TF32).
tf.config.set_visible_devices([], "GPU")
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# They need PyTorch, which our environment never has.
collect_ignore = ["golden/make_exact.py", "interop_torch_peer.py"]

_DEAD_PROXY = "http://127.0.0.1:9"


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory):
    """No test reaches out: a dead proxy stands before all but local servers, the cache is empty."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        for scheme in ("http", "https"):
            patch.setenv(f"{scheme}_proxy", _DEAD_PROXY)
        patch.setenv("no_proxy", "localhost,127.0.0.1")
        patch.setenv("BIT_KERAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("BIT_KERAS_WEIGHTS", raising=False)
        yield
