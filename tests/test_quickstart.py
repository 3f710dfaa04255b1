import pytest
import tensorflow as tf

from bit_keras import quickstart as module
from bit_keras.finished import open_run
from bit_keras.options import QuickstartOptions
from bit_keras.preprocess import to_model_range


@pytest.mark.long
def test_quickstart_goes_all_the_way(tmp_path, capsys):
    options = QuickstartOptions(output=str(tmp_path / "run"), steps=4)
    evaluation = module.quickstart(options)
    assert evaluation.examples >= 150
    text = capsys.readouterr().out
    for line in (
        "Fine-tuned  ",
        "From scratch",
        "hub.KerasLayer   equals",
        "Serving module   says",
        "TF-Hub module",
        "One image",
    ):
        assert line in text
    again = module.quickstart(options)  # replaces its own earlier run
    assert again.top1 == evaluation.top1

    run = open_run(options.output)
    images = tf.random.stateless_uniform((2, 64, 64, 3), (0, 0))
    assert module._check_module(run, images.numpy()) <= 1e-5
    run.model.layers[-1].bias.assign_add([1.0] * 8)
    expected = run.model(to_model_range(images), training=False)
    assert float(tf.reduce_max(expected)) > 0
    with pytest.raises(ArithmeticError, match="differs"):
        module._check_module(run, images.numpy())
