import golden_recipe as golden
import keras
import numpy as np
import pytest
import tensorflow as tf

import bit_keras
from bit_keras import ResNetV2, presets, save_npz
from bit_keras.presets import Architecture, Preset

PYRAMID = ["P2", "P3", "P4", "P5"]


def images(batch=2, height=32, width=32, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (batch, height, width, 3)).astype("f4")


def all_outputs(model):
    """A model of logits, features and the four blocks' outputs."""
    features = model.get_layer("features").output
    return keras.Model(model.input, [model.output, features, *model.pyramid_outputs.values()])


@pytest.fixture(scope="module")
def small():
    """R26x0.25 with random weights, the head included."""
    return golden.fill(ResNetV2(26, 0.25, num_classes=5))


# Golden values


class Forward:
    """Outputs of one golden case."""

    def __init__(self, name, model):
        depth, width, classes, height, wide = golden.CASES[name]
        self.name, self.depth = name, depth
        self.count, self.arrays = model.count_params(), len(model.weights)
        self.expected_count = Architecture(depth, width).parameters(classes)
        logits, features, *blocks = all_outputs(model)(golden.forward_images(height, wide))
        self.outputs = {"logits": np.array(logits), "features": np.array(features)}
        self.stage_mean_std = [(np.mean(block), np.std(block, ddof=1)) for block in blocks]

    def difference(self, kind, file):
        return np.abs(self.outputs[kind] - golden.load(file)[f"{self.name}/{kind}"]).max()


def golden_model(name, dtype):
    depth, width, classes, *_ = golden.CASES[name]
    return golden.fill(ResNetV2(depth, width, classes, dtype=dtype))


@pytest.fixture(scope="module", params=golden.CASES)
def forward(request):
    return Forward(request.param, golden_model(request.param, "float32"))


def test_parameter_count_of_golden_models(forward):
    assert forward.count == forward.expected_count


def test_number_of_arrays_is_that_of_the_released_files(forward):
    assert forward.arrays == {26: 81, 50: 153, 101: 306, 152: 459}[forward.depth]


def test_float32_logits_are_the_reference_s(forward):
    assert forward.difference("logits", "forward.npz") <= 1e-4
    assert forward.difference("logits", "exact.npz") <= 1e-4


def test_float32_features_are_the_reference_s(forward):
    noisy = forward.name.startswith(("R101x1", "R152x2"))  # see golden/README.md
    assert forward.difference("features", "forward.npz") <= (2.5e-4 if noisy else 1e-4)
    assert forward.difference("features", "exact.npz") <= 2.5e-4


def test_float32_blocks_have_the_reference_s_mean_and_deviation(forward):
    expected = golden.load("forward.npz")[f"{forward.name}/stage_mean_std"]
    np.testing.assert_allclose(forward.stage_mean_std, expected, rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def r50x1_float64():
    return golden_model("R50x1_65x97", "float64")


@pytest.mark.parametrize("name", ["R26x1_64x64", "R50x1_65x97", "R50x1_224x224"])
def test_float64_model_is_exact(name, r50x1_float64):
    model = r50x1_float64 if "R50x1" in name else golden_model(name, "float64")
    case = Forward(name, model)
    assert case.difference("logits", "exact.npz") <= 1e-9
    assert case.difference("features", "exact.npz") <= 1e-9


class Training:
    """Gradients of the first step, and the losses of six, of R26x1."""

    def __init__(self, dtype):
        model = golden_model("R26x1_64x64", dtype)
        variables = golden.variables(model)
        weights = [variable.value for variable in variables.values()]
        momenta = [tf.Variable(tf.zeros_like(weight)) for weight in weights]
        x = tf.constant(golden.train_images(), dtype)
        labels = tf.constant(golden.LABELS)

        def step():  # eagerly: tracing would take longer than six steps
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(x))
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, weights)
            # By hand: Keras' SGD keeps its learning rate in float32.
            for weight, momentum, gradient in zip(weights, momenta, gradients, strict=True):
                momentum.assign(golden.MOMENTUM * momentum + gradient)
                weight.assign_sub(golden.LEARNING_RATE * momentum)
            return loss, gradients

        self.losses, self.gradients = [], {}
        for _ in range(6):
            loss, gradients = step()
            self.losses.append(float(loss))
            if not self.gradients:
                self.gradients = dict(zip(variables, map(np.array, gradients), strict=True))

    def gradient_differences(self, file):
        """Largest relative differences of the gradients' norms and, where the file has any, sums.

        The sum of a convolution kernel's gradient is 0, so sums are taken relative to norms.
        """
        expected, worst = golden.load(file), {"grad_l2": 0.0, "grad_sum": 0.0}
        for key, gradient in self.gradients.items():
            norm = expected[f"grad_l2/{key}"]
            found = {"grad_l2": np.linalg.norm(gradient), "grad_sum": np.sum(gradient)}
            for kind, value in found.items():
                if f"{kind}/{key}" in expected:
                    difference = abs(value - expected[f"{kind}/{key}"]) / norm
                    worst[kind] = max(worst[kind], difference)
        return worst

    def loss_differences(self, file):
        return np.abs(np.array(self.losses) / golden.load(file)["losses"].astype("f8") - 1)


@pytest.fixture(scope="module")
def training64():
    return Training("float64")


@pytest.fixture(scope="module")
def training32():
    return Training("float32")


def test_float64_gradients_are_the_reference_s(training64):
    assert max(training64.gradient_differences("train.npz").values()) <= 1e-6
    assert training64.gradient_differences("exact.npz")["grad_l2"] <= 1e-9


def test_float64_losses_are_the_reference_s(training64):
    differences = training64.loss_differences("train.npz")
    assert differences[:4].max() <= 1e-6
    assert differences[4:].max() <= 1e-5
    assert training64.loss_differences("exact.npz").max() <= 1e-9


def test_float32_gradients_and_losses_are_near_the_reference_s(training32):
    assert max(training32.gradient_differences("train.npz").values()) <= 2e-2
    differences = training32.loss_differences("train.npz")
    assert differences[0] <= 1e-5
    assert differences.max() <= 2e-2


# Names, shapes, outputs


def test_layer_names_follow_the_npz_names(small):
    keys = [k.removeprefix("grad_l2/") for k in golden.load("train.npz") if "grad_l2" in k]
    assert len(keys) == len(small.weights)
    for key in keys:
        *scopes, variable = key.removeprefix("resnet/").split("/")
        layer = small.get_layer(".".join(scopes))
        assert variable in [v.name for v in layer.weights]


def test_pyramid_outputs_have_strides_4_to_32(small):
    assert list(small.pyramid_outputs) == PYRAMID
    pyramid = keras.Model(small.input, small.pyramid_outputs)
    outputs = pyramid(images(height=64, width=96))
    for level, (name, channels) in enumerate(zip(PYRAMID, (64, 128, 256, 512), strict=True), 2):
        assert tuple(outputs[name].shape) == (2, 64 // 2**level, 96 // 2**level, channels)


def test_intermediate_outputs_by_name(small):
    unit = keras.Model(small.input, small.get_layer("block3.unit02").output)
    last = keras.Model(small.input, small.pyramid_outputs["P4"])
    np.testing.assert_array_equal(unit(images()), last(images()))


def test_logits_are_the_head_of_the_features(small):
    features = ResNetV2(26, 0.25)
    for key, variable in golden.variables(features).items():
        variable.assign(golden.variables(small)[key])
    assert features.output_shape == (None, 512)
    head = small.get_layer("head.conv2d")
    expected = np.matmul(features(images()), head.kernel) + head.bias
    np.testing.assert_allclose(small(images()), expected, atol=1e-5)


def test_new_head_gives_zero_logits():
    model = ResNetV2(26, 0.25, num_classes=3)
    assert not np.any(model(images()))


@pytest.mark.parametrize("width", [0.25, 0.75, 1.5])
def test_fractional_widths(width):
    model = ResNetV2(26, width)
    assert model(images()).shape == (2, int(2048 * width))
    assert model.architecture == Architecture(26, width)


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (224, 32)])
def test_any_size_of_image(small, size):
    logits = small(images(1, *size))
    assert logits.shape == (1, 5)
    assert np.isfinite(logits).all()


def test_dynamic_shapes_in_a_graph(small):
    graph = tf.function(small, input_signature=[tf.TensorSpec([None, None, None, 3])])
    for batch, height, width in ((1, 32, 32), (3, 40, 56)):
        x = images(batch, height, width)
        np.testing.assert_allclose(graph(x), small(x), atol=1e-4)
    assert graph.experimental_get_tracing_count() == 1


def test_images_do_not_influence_each_other(small):
    np.testing.assert_allclose(small(images(4))[1:2], small(images(4)[1:2]), atol=1e-5)


# Round trips


@pytest.mark.parametrize(
    ("dtype", "num_classes"), [(None, None), ("float64", 4), ("mixed_float16", 4)]
)
def test_config_round_trip(dtype, num_classes):
    model = ResNetV2(26, 0.25, num_classes, dtype=dtype, name="mine")
    assert model.dtype_policy.name == dtype or dtype is None
    config = model.get_config()
    again = ResNetV2.from_config(config)
    assert again.get_config() == config
    assert (again.name, again.num_classes, again.output_shape) == (
        "mine",
        num_classes,
        model.output_shape,
    )
    assert again.dtype_policy == model.dtype_policy
    assert [v.dtype for v in again.weights] == [v.dtype for v in model.weights]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_keras_file_round_trip(dtype, tmp_path):
    model = golden.fill(ResNetV2(26, 0.25, num_classes=5, dtype=dtype))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is ResNetV2
    assert again.dtype_policy == model.dtype_policy
    assert list(again.pyramid_outputs) == PYRAMID
    np.testing.assert_array_equal(again(images()), model(images()))


def test_keras_file_keeps_the_compiled_state(tmp_path):
    model = ResNetV2(26, 0.25, num_classes=5)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", run_eagerly=True)
    model.fit(images(), np.ones((2, 5)), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations) == 1
    for mine, other in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_model_around_the_model_round_trips(small, tmp_path):
    x = keras.Input((None, None, 3))
    outer = keras.Model(x, keras.layers.Softmax()(small(x)))
    outer.save(tmp_path / "outer.keras")
    again = keras.models.load_model(tmp_path / "outer.keras")
    np.testing.assert_array_equal(again(images()), outer(images()))


def test_clone_has_the_same_shape(small):
    clone = keras.models.clone_model(small)
    assert [v.shape for v in clone.weights] == [v.shape for v in small.weights]


def test_frozen_model_has_nothing_to_train_and_comes_back_frozen():
    model = ResNetV2(26, 0.25, num_classes=2)
    model.trainable = False
    assert not model.trainable_weights
    assert not ResNetV2.from_config(model.get_config()).trainable_weights


# Precision


@pytest.fixture(scope="module", params=["mixed_bfloat16", "mixed_float16"])
def half(request):
    return golden.fill(ResNetV2(26, 0.25, num_classes=5, dtype=request.param))


def test_half_precision_computes_in_half_and_stores_in_float32(half):
    assert half.dtype_policy.name == f"mixed_{half.compute_dtype}"
    assert half.get_layer("block1.unit01").compute_dtype == half.compute_dtype
    assert {v.dtype for v in half.weights} == {"float32"}
    assert half(images()).dtype == "float32"


def test_half_precision_is_near_float32(small, half):
    np.testing.assert_allclose(half(images()), small(images()), atol=0.1)


def test_half_precision_survives_large_activations(half):
    stem = half.get_layer("root_block.standardized_conv2d").output
    stem, logits = keras.Model(half.input, [stem, half.output])(1000 * images())
    assert np.abs(np.asarray(stem, "float32")).max() > 1e4
    assert np.isfinite(logits).all()


def test_float16_scales_the_loss(half):
    half.compile(keras.optimizers.SGD(), "mse")
    scaled = isinstance(half.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (half.compute_dtype == "float16")


def test_global_policy_is_the_default():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert ResNetV2(26, 0.25).dtype_policy.name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


# Training


def test_fit_lowers_the_loss():
    keras.utils.set_random_seed(0)
    model = ResNetV2(26, 0.25, num_classes=2)
    rule = bit_keras.hyperrule(8, 32, 32)
    model.compile(
        keras.optimizers.SGD(rule.learning_rate, rule.momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y = images(8), np.arange(8) % 2
    x[y == 1] *= 0.2  # the second class has less contrast
    history = model.fit(x, y, epochs=5, verbose=0).history
    assert history["loss"][0] == pytest.approx(np.log(2))  # a zero head
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert history["accuracy"][-1] >= 0.75


# Errors


@pytest.mark.parametrize("num_classes", [0, -1])
def test_head_without_outputs_is_an_error(num_classes):
    with pytest.raises(ValueError, match=f"None .features. or at least 1. .*{num_classes}"):
        ResNetV2(26, 0.25, num_classes)


def test_unknown_depth_is_an_error():
    with pytest.raises(ValueError, match="26, 50, 101, 152"):
        ResNetV2(34)


# from_preset


@pytest.fixture
def preset(monkeypatch):
    """A small row in the zoo, whose file has 5 classes."""
    row = Preset("BiT-Test-R26x0.25", Architecture(26, 0.25), "data", 5, "BiT-Test-R26x0.25.npz")
    monkeypatch.setitem(presets.PRESETS, row.name, row)
    return row


@pytest.fixture
def file(small, preset, tmp_path):
    path = tmp_path / preset.filename
    save_npz(small, path)
    return path


def test_weights_none_is_random_and_silent(preset, capfd):
    model = ResNetV2.from_preset(preset.name, num_classes=3, weights=None)
    assert model.output_shape == (None, 3)
    assert model.architecture == preset.architecture
    assert capfd.readouterr() == ("", "")


def test_head_of_the_file_is_loaded_when_it_fits(small, preset, file, capfd):
    model = ResNetV2.from_preset(preset.name, num_classes=5, weights=file)
    np.testing.assert_array_equal(model(images()), small(images()))
    assert capfd.readouterr() == ("", "")


def test_other_heads_start_from_zero_and_say_so(small, preset, file, capfd):
    model = ResNetV2.from_preset(preset.name, num_classes=7, weights=str(file))
    assert not np.any(model(images()))
    for mine, other in zip(model.weights[:-2], small.weights[:-2], strict=True):
        np.testing.assert_array_equal(mine, other)
    said = capfd.readouterr()
    assert said.out == ""
    assert f"{file.name} has 5 classes: the head with 7 classes is new" in said.err


def test_file_without_head_gets_a_new_one(preset, tmp_path, capfd):
    save_npz(ResNetV2(26, 0.25), tmp_path / "features.npz")
    model = ResNetV2.from_preset(preset.name, 5, weights=tmp_path / "features.npz")
    assert not np.any(model(images()))
    assert "features.npz has no head" in capfd.readouterr().err


def test_features_leave_the_head_of_the_file(small, preset, file, capfd):
    model = ResNetV2.from_preset(preset.name, weights=file)
    assert model.output_shape == (None, 512)
    np.testing.assert_array_equal(
        model(images()), keras.Model(small.input, small.get_layer("features").output)(images())
    )
    assert capfd.readouterr() == ("", "")


def test_pretrained_looks_in_the_given_folder(small, preset, file, monkeypatch):
    monkeypatch.setenv("BIT_KERAS_WEIGHTS", str(file.parent))
    model = ResNetV2.from_preset(preset.name, num_classes=5)
    np.testing.assert_array_equal(model(images()), small(images()))


def test_pretrained_looks_in_the_cache(small, preset, file, monkeypatch):
    monkeypatch.setenv("BIT_KERAS_CACHE", str(file.parent))
    model = ResNetV2.from_preset(preset.name, num_classes=5)
    np.testing.assert_array_equal(model(images()), small(images()))


def test_dtype_of_a_preset(preset, file):
    model = ResNetV2.from_preset(preset.name, 5, weights=file, dtype="float64")
    assert {v.dtype for v in model.weights} == {"float64"}


@pytest.mark.parametrize("name", ["BiT-L-R50x1", "BiT-L-R152x4"])
def test_jft_weights_were_never_released(name):
    with pytest.raises(ValueError, match="JFT-300M were never released") as caught:
        ResNetV2.from_preset(name)
    assert name in str(caught.value)
    assert "weights=None" in str(caught.value)


def test_jft_presets_take_a_file_of_ones_own(file, monkeypatch):
    row = Preset("BiT-L-R26x0.25", Architecture(26, 0.25), "JFT-300M", 9, None, "never released")
    monkeypatch.setitem(presets.PRESETS, row.name, row)
    assert ResNetV2.from_preset(row.name, 5, weights=file).num_classes == 5


def test_unknown_preset_suggests_names():
    with pytest.raises(ValueError, match="BiT-M-R50x1"):
        ResNetV2.from_preset("BiT-M-R50x2")


def test_file_that_is_not_there_is_an_error(preset, tmp_path):
    with pytest.raises(FileNotFoundError, match="no npz file .*none.npz"):
        ResNetV2.from_preset(preset.name, weights=tmp_path / "none.npz")


def test_file_of_another_architecture_is_an_error(file):
    with pytest.raises(ValueError, match="does not fit the model"):
        ResNetV2.from_preset("BiT-XS-R26x0.5", 5, weights=file)
