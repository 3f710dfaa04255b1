import pytest
import tensorflow as tf

from bit_keras.distribute import make_strategy, split_cpu


def test_strategies_have_the_replicas_of_the_devices():
    assert make_strategy("one_device").num_replicas_in_sync == 1
    assert make_strategy("mirrored").num_replicas_in_sync == 2  # logical CPUs, see conftest.py


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="auto depends on GPUs")
def test_auto_is_one_device_without_gpus():
    assert make_strategy("auto").num_replicas_in_sync == 1


def test_unknown_strategy_lists_the_known_ones():
    with pytest.raises(ValueError, match="auto, one_device, mirrored, multi_worker, tpu"):
        make_strategy("horovod")


def test_splitting_the_cpu_too_late_is_an_error():
    tf.config.list_logical_devices()
    with pytest.raises(RuntimeError):
        split_cpu(3)
