"""The serving module through TensorFlow's C++ loader, which is that of TensorFlow Serving."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving")

import tensorflow as tf
from serving_toy import assert_close, direct, encoded, images, module
from tensorflow.core.protobuf import saved_model_pb2

SOURCE = Path(__file__).parent / "native" / "load_module.c"
TENSORFLOW = Path(tf.__file__).parent
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The client, compiled against what the tensorflow package has."""
    if not COMPILER:
        pytest.skip("no C compiler; CC names one")
    if not (TENSORFLOW / "libtensorflow_cc.so.2").exists():
        pytest.skip("this tensorflow package has no libtensorflow_cc.so.2")
    path = tmp_path_factory.mktemp("native") / "load_module"
    run = subprocess.run(
        [COMPILER, "-Wall", "-Werror", SOURCE, f"-I{TENSORFLOW / 'include'}", f"-L{TENSORFLOW}",
         "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2",
         f"-Wl,-rpath,{TENSORFLOW}", "-o", path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return path


def compute(program, signature, *arguments):
    """The outputs of a signature by name, from the program's lines."""
    saved = saved_model_pb2.SavedModel.FromString((module() / "saved_model.pb").read_bytes())
    definition = saved.meta_graphs[0].signature_def[signature]
    ((_, given),) = definition.inputs.items()
    names = {int(o.name.split(":")[1]): name for name, o in definition.outputs.items()}
    (operation,) = {output.name.split(":")[0] for output in definition.outputs.values()}
    run = subprocess.run(
        [program, module(), given.name.split(":")[0], operation, str(len(names)), *arguments],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert f"TensorFlow {tf.__version__} loaded" in run.stderr
    outputs = {}
    for line in run.stdout.splitlines():
        number, shape, *values = line.split()
        array = np.array(values, np.float32).reshape([int(n) for n in shape.split("x")])
        outputs[names[int(number)]] = array
    return outputs


def test_images_through_the_native_loader_equal_python(program, tmp_path):
    x = images(0, 2, 24, 40)
    (tmp_path / "images.f32").write_bytes(x.tobytes())
    found = compute(program, "serving_default", "images", "2", "24", "40", tmp_path / "images.f32")
    assert_close(found, direct(module())("serving_default", x))


def test_encoded_images_through_the_native_loader_equal_python(program, tmp_path):
    files = [encoded(1), encoded(2, (50, 9), "JPEG"), encoded(3, (16, 16))]
    paths = [tmp_path / str(i) for i in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    found = compute(program, "serving_bytes", "bytes", *paths)
    assert_close(found, direct(module())("serving_bytes", np.array(files, object)))
