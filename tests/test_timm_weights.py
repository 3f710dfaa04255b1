"""timm's names and layouts; tests/test_interop_torch.py compares with timm itself."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from bit_keras import ResNetV2, load_timm
from bit_keras.weights import WeightsFormatError

CLASSES = 5
# Names as `timm.create_model("resnetv2_50x1_bit").state_dict()` has them, and ours.
NAMES = {
    "stem.conv.weight": ("root_block.standardized_conv2d", "kernel"),
    "stages.0.blocks.0.norm1.weight": ("block1.unit01.a.group_norm", "gamma"),
    "stages.0.blocks.0.downsample.conv.weight": (
        "block1.unit01.a.proj.standardized_conv2d", "kernel",
    ),
    "stages.2.blocks.1.norm3.bias": ("block3.unit02.c.group_norm", "beta"),
    "stages.3.blocks.0.conv2.weight": ("block4.unit01.b.standardized_conv2d", "kernel"),
    "norm.bias": ("group_norm", "beta"),
    "head.fc.weight": ("head.conv2d", "kernel"),
    "head.fc.bias": ("head.conv2d", "bias"),
}  # fmt: skip


def tiny(num_classes=CLASSES):
    return ResNetV2(26, 0.25, num_classes)


def as_timm(model):
    """The model's weights under timm's names and in its layouts, by the naming's definition."""
    state = {}
    for layer in model.layers:
        for variable in layer.weights:
            value = np.array(variable)
            parts = layer.name.split(".")
            ending = "bias" if variable.name in ("beta", "bias") else "weight"
            if parts[0] == "root_block":
                name = "stem.conv"
            elif parts[0] == "group_norm":
                name = "norm"
            elif parts[0] == "head":
                name = "head.fc"
                value = value[None, None] if value.ndim == 2 else value
            else:
                block, unit = int(parts[0][5:]) - 1, int(parts[1][4:]) - 1
                number = "abc".index(parts[2]) + 1
                kind = "norm" if "norm" in parts[-1] else "conv"
                tail = "downsample.conv" if "proj" in parts else f"{kind}{number}"
                name = f"stages.{block}.blocks.{unit}.{tail}"
            state[f"{name}.{ending}"] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    return state


@pytest.fixture(scope="module")
def model():
    model = tiny()
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.standard_normal(variable.shape))
    return model


def test_names_and_layouts_are_timms(model):
    state = as_timm(model)
    assert set(NAMES) <= set(state)
    again = tiny()
    load_timm(again, state)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    for key, (layer, name) in NAMES.items():
        variable = next(v for v in again.get_layer(layer).weights if v.name == name)
        assert np.array(variable).size == state[key].size


def test_a_safetensors_file_is_read(model, tmp_path):
    save_file(
        {k: np.ascontiguousarray(v) for k, v in as_timm(model).items()}, tmp_path / "m.safetensors"
    )
    again = tiny(num_classes=2)
    load_timm(again, tmp_path / "m.safetensors", skip_head=True)
    np.testing.assert_array_equal(np.array(again.weights[0]), np.array(model.weights[0]))
    assert not np.array(again.get_layer("head.conv2d").kernel).any()


def test_a_linear_head_is_understood(model):
    state = as_timm(model)
    state["head.fc.weight"] = state["head.fc.weight"][:, :, 0, 0]
    again = tiny()
    load_timm(again, state)
    kernel = np.array(again.get_layer("head.conv2d").kernel)
    np.testing.assert_array_equal(kernel, np.array(model.get_layer("head.conv2d").kernel))


def test_all_faults_are_listed_and_nothing_is_loaded(model):
    state = as_timm(model)
    del state["norm.weight"]
    state["stem.conv.weight"] = state["stem.conv.weight"][:, :, :3]
    state["fc.weight"] = np.zeros(3)
    again = tiny()
    before = [np.array(v) for v in again.weights]
    with pytest.raises(WeightsFormatError) as caught:
        load_timm(again, state)
    for words in ("missing: group_norm/gamma", "not in the model: fc.weight", "(3, 7, 3, 16)"):
        assert words in str(caught.value)
    for a, b in zip(before, again.weights, strict=True):
        np.testing.assert_array_equal(a, np.array(b))
