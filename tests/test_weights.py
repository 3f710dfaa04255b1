import errno
import os
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
from golden_recipe import load, variables

import bit_keras
from bit_keras import load_npz, save_npz
from bit_keras.weights import WeightsFormatError, head_classes

KERNEL = "resnet/block2/unit01/b/standardized_conv2d/kernel"
GAMMA = "resnet/group_norm/gamma"
HEAD, BIAS = "resnet/head/conv2d/kernel", "resnet/head/conv2d/bias"
CLASSES = 5


def tiny(num_classes=CLASSES, dtype=None):
    return bit_keras.ResNetV2(26, 0.25, num_classes, dtype=dtype)


def scramble(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(rng.standard_normal(variable.shape))
    return model


def values(model):
    return {key: np.array(variable) for key, variable in variables(model).items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert first[key].dtype == second[key].dtype
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


@pytest.fixture(scope="module")
def source():
    """A model whose weights no test changes."""
    return scramble(tiny())


@pytest.fixture(scope="module")
def saved(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "source.npz"
    save_npz(source, path)
    return path


@pytest.fixture(scope="module")
def shared():
    return tiny()


@pytest.fixture
def model(shared):
    """A model with other weights than the source's."""
    return scramble(shared, seed=1)


@pytest.fixture
def rewritten(saved, tmp_path):
    """A function that writes the saved arrays once more, after a change."""

    def rewrite(change, writer=np.savez):
        with np.load(saved) as archive:
            arrays = dict(archive)
        arrays = change(arrays) or arrays
        writer(tmp_path / "changed.npz", **arrays)
        return tmp_path / "changed.npz"

    return rewrite


def assert_refused(model, path, *texts, error=WeightsFormatError, **options):
    """Loading raises an error with these texts, and changes nothing."""
    before = values(model)
    with pytest.raises(error) as caught:
        load_npz(model, path, **options)
    for text in (*texts, path.name):
        assert text in str(caught.value)
    assert_same(values(model), before)
    return str(caught.value)


# What a file holds


def test_round_trip_is_bit_exact(source, saved, model):
    load_npz(model, saved)
    assert_same(values(model), values(source))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_round_trip_of_other_dtypes_is_bit_exact(dtype, tmp_path):
    first, second = scramble(tiny(dtype=dtype)), tiny(dtype=dtype)
    save_npz(first, tmp_path / "a.npz")
    load_npz(second, tmp_path / "a.npz")
    assert_same(values(first), values(second))


def test_features_model_has_no_head_in_its_file(tmp_path):
    features = scramble(tiny(num_classes=None))
    save_npz(features, tmp_path / "features.npz")
    assert head_classes(tmp_path / "features.npz") is None
    with np.load(tmp_path / "features.npz") as archive:
        assert not {HEAD, BIAS} & set(archive.files)


def test_names_are_those_of_the_reference(saved):
    golden = {key.removeprefix("grad_l2/") for key in load("train.npz") if "grad_l2/" in key}
    with np.load(saved) as archive:
        assert set(archive.files) == golden


def test_shapes_are_those_of_the_reference(saved):
    with np.load(saved) as archive:
        assert archive["resnet/root_block/standardized_conv2d/kernel"].shape == (7, 7, 3, 16)
        assert archive[KERNEL].shape == (3, 3, 32, 32)
        assert archive[GAMMA].shape == (512,)
        assert archive[HEAD].shape == (1, 1, 512, CLASSES)
        assert archive[BIAS].shape == (CLASSES,)


def test_kernels_are_saved_raw(source, saved):
    with np.load(saved) as archive:
        kernel = source.get_layer("block2.unit01.b.standardized_conv2d").kernel
        np.testing.assert_array_equal(archive[KERNEL], kernel)
        np.testing.assert_array_equal(archive[HEAD][0, 0], source.get_layer("head.conv2d").kernel)


def test_same_weights_give_the_same_bytes(source, saved, tmp_path):
    save_npz(source, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_head_classes_are_read_from_the_file(saved):
    assert head_classes(saved) == CLASSES


# What can be loaded


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {k.replace("standardized_conv2d", "standardized_conv2d_17"): a[k] for k in a},
        lambda a: {k.replace("group_norm", "group_norm_3"): a[k] for k in a},
        lambda a: {k.replace("head/conv2d", "head/conv2d_1"): a[k] for k in a},
    ],
    ids=["standardized_conv2d_17", "group_norm_3", "conv2d_1"],
)
def test_numbered_scopes_are_understood(source, model, rewritten, change):
    path = rewritten(change)
    assert head_classes(path) == CLASSES
    load_npz(model, path)
    assert_same(values(model), values(source))


def test_compressed_files_load(source, model, rewritten):
    load_npz(model, rewritten(lambda arrays: None, np.savez_compressed))
    assert_same(values(model), values(source))


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
def test_other_float_types_load(source, model, rewritten, dtype):
    load_npz(model, rewritten(lambda arrays: {k: v.astype(dtype) for k, v in arrays.items()}))
    expected = {k: v.astype(dtype).astype("f4") for k, v in values(source).items()}
    assert_same(values(model), expected)


def test_arrays_in_fortran_order_load(source, model, rewritten):
    load_npz(model, rewritten(lambda a: {k: np.asfortranarray(v) for k, v in a.items()}))
    assert_same(values(model), values(source))


def test_skip_head_keeps_the_models_head(source, model, saved):
    before = values(model)
    load_npz(model, saved, skip_head=True)
    after, expected = values(model), values(source)
    for key in after:
        np.testing.assert_array_equal(after[key], (before if "head" in key else expected)[key])


@pytest.mark.parametrize("num_classes", [None, 3])
def test_skip_head_accepts_any_head(saved, num_classes):
    model = tiny(num_classes)
    load_npz(model, saved, skip_head=True)
    if num_classes:
        assert not np.any(model.get_layer("head.conv2d").kernel)


def test_skip_head_accepts_a_file_without_head(model, rewritten):
    path = rewritten(lambda arrays: {k: v for k, v in arrays.items() if "head" not in k})
    load_npz(model, path, skip_head=True)


def test_loading_keeps_optimizer_and_trainability(saved, model):
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.get_layer("group_norm").trainable = False
    load_npz(model, saved)
    assert not model.get_layer("group_norm").trainable_weights
    model.get_layer("group_norm").trainable = True


# What does not fit


def test_all_differences_are_in_one_error(model, rewritten):
    def change(arrays):
        del arrays[KERNEL], arrays[BIAS]
        arrays["resnet/block9/kernel"] = arrays["surplus"] = np.zeros(2, "f4")
        arrays[GAMMA] = np.zeros(7, "f4")
        arrays[HEAD] = arrays[HEAD][0, 0]

    message = assert_refused(
        model,
        rewritten(change),
        f"missing from the file (2):\n  {KERNEL}\n  {BIAS}",
        "in the file but not in the model (2):\n  resnet/block9/kernel\n  surplus",
        "of another shape (2):",
        f"{GAMMA}: model (512,), file (7,)",
        f"{HEAD}: model (1, 1, 512, 5), file (512, 5)",
    )
    assert "skip_head" not in message


def test_another_architecture_is_refused(saved):
    assert_refused(bit_keras.ResNetV2(26, 0.5, CLASSES), saved, "of another shape")


@pytest.mark.parametrize("num_classes", [None, 3])
def test_another_head_alone_gets_a_hint(saved, num_classes):
    assert_refused(tiny(num_classes), saved, HEAD, BIAS, "pass skip_head=True")


def test_numbered_scopes_that_name_one_weight_twice_are_refused(model, rewritten):
    twin = KERNEL.replace("conv2d", "conv2d_2")
    path = rewritten(lambda arrays: {**arrays, twin: arrays[KERNEL]})
    assert_refused(model, path, "the same weight twice", KERNEL, twin)


@pytest.mark.parametrize("dtype", [object, "i4", "S3", "c8", "?"])
def test_arrays_that_are_not_floats_are_refused(model, rewritten, dtype):
    path = rewritten(lambda arrays: {**arrays, GAMMA: np.zeros(512, dtype)})
    assert_refused(model, path, "not floats", GAMMA)


def test_pickled_arrays_are_never_unpickled(model, rewritten, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = rewritten(lambda arrays: {**arrays, GAMMA: np.array([Trap()] * 512, object)})
    assert_refused(model, path, "object")
    assert not (tmp_path / "sprung").exists()


# Broken files


def test_missing_file_is_an_error(model, tmp_path):
    assert_refused(model, tmp_path / "none.npz", "no npz file", error=FileNotFoundError)
    with pytest.raises(FileNotFoundError, match="no npz file"):
        head_classes(tmp_path / "none.npz")


def test_folder_is_an_error(model, tmp_path):
    assert_refused(model, tmp_path, "no npz file", error=FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 9, b"\x93NUMPY", b"PK\3\4" * 30])
def test_file_that_is_no_npz_is_an_error(model, tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    assert_refused(model, path, "not a whole npz file", f"{len(content)} bytes", "download it")
    with pytest.raises(WeightsFormatError, match="not a whole npz file"):
        head_classes(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_truncated_file_is_an_error(model, saved, tmp_path, part):
    path = tmp_path / "truncated.npz"
    content = saved.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_refused(model, path, "not a whole npz file")


def test_members_that_are_no_arrays_are_an_error(model, saved, tmp_path):
    path = tmp_path / "with_text.npz"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "not an array")
    assert_refused(model, path, "README.txt")


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("offset", [64, 1_000])
def test_corrupt_member_is_an_error_that_names_it(model, rewritten, writer, offset):
    path = rewritten(lambda arrays: None, writer)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{KERNEL}.npy")
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename) + 20 + offset
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    assert_refused(model, path, "not a whole npz file", KERNEL)


# Writing


def test_full_disk_leaves_the_old_file(model, saved, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_bytes(saved.read_bytes())
    written = []
    write_array = np.lib.format.write_array

    def write(*args, **kwargs):
        written.append(args)
        if len(written) == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_array(*args, **kwargs)

    monkeypatch.setattr(np.lib.format, "write_array", write)
    with pytest.raises(OSError, match=r"No space left to write .*model\.npz"):
        save_npz(model, path)
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["model.npz"]


def test_path_is_taken_as_it_is(source, tmp_path):
    save_npz(source, str(tmp_path / "new folder" / "no-suffix"))
    assert os.listdir(tmp_path / "new folder") == ["no-suffix"]


# Memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_one_array_at_a_time(tmp_path):
    # R50x1's features are 94 MB, the largest array 9 MB.
    code = """
        import sys
        import bit_keras

        def megabytes(field):
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) for line in file if field in line) / 1e3

        model = bit_keras.ResNetV2(50, 1)
        bit_keras.save_npz(model, sys.argv[1])
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts anew
        before = megabytes("VmRSS")
        bit_keras.load_npz(model, sys.argv[1])
        print(megabytes("VmHWM") - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "r50x1.npz")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 50
