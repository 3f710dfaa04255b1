import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import bit_keras
from bit_keras import ResNetV2, load_module, module_files
from bit_keras.export import export_module
from bit_keras.loading import ModuleLayer
from bit_keras.module_files import ChecksumError, ModuleUnavailableError, find_module
from bit_keras.unpack import ArchiveError, unpack

HANDLE = "bit/tiny/1"


def images(*shape):
    return np.random.default_rng(1).random((*shape, 3), np.float32)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return ResNetV2(26, 0.25)


@pytest.fixture(scope="module")
def hub(network, tmp_path_factory):
    """A collection with one module: its folder, archive and checksum."""
    root = tmp_path_factory.mktemp("collection")
    folder = export_module(network, root / HANDLE)
    archive = folder.with_name("1.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder), recursive=False)
    write_checksum(archive)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIT_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BIT_KERAS_HUB", raising=False)
    return tmp_path / "cache/modules"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_checksum(archive):
    archive.with_name(f"{archive.name}.sha256").write_text(f"{digest(archive)}  {archive.name}\n")


@pytest.fixture
def copied(hub, tmp_path):
    """The archive with its checksum, to be changed."""
    for name in ("1.tar.gz", "1.tar.gz.sha256"):
        (tmp_path / name).write_bytes((hub / HANDLE).with_name(name).read_bytes())
    return tmp_path / "1.tar.gz"


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder by TF-Hub's protocol; `requests` are the paths asked for."""

    daemon_threads = True

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.requests = root, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        path = self.path.replace("?tf-hub-format=compressed", ".tar.gz").lstrip("/")
        file = self.server.root / path
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(hub):
    server = Server(hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_layer_computes_what_the_network_computes(hub, network):
    layer = load_module(hub / HANDLE)
    x = images(2, 40, 33)
    np.testing.assert_allclose(layer(x), network(x * 2 - 1), atol=1e-5)
    assert layer.sha256 is None
    assert isinstance(layer, keras.layers.Layer)
    assert load_module is bit_keras.load_module


def test_fit_trains_the_module_itself(hub):
    layer = load_module(hub / HANDLE)
    model = keras.Sequential([keras.Input((None, None, 3)), layer, keras.layers.Dense(3)])
    assert model.output_shape == (None, 3)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    before = [variable.numpy() for variable in layer._loaded.variables]
    features = layer(images(1, 32, 32)).numpy()
    losses = model.fit(images(6, 32, 32), np.arange(6) % 3, epochs=3, verbose=0).history["loss"]
    after = [variable.numpy() for variable in layer._loaded.variables]
    assert all(np.any(x != y) for x, y in zip(before, after, strict=True))
    assert np.any(features != layer(images(1, 32, 32)).numpy())
    assert losses[-1] < losses[0]


def test_frozen_module_has_no_trainable_weights(hub):
    layer = load_module(hub / HANDLE, trainable=False)
    assert layer.trainable_weights == []
    assert len(layer.weights) == len(layer._loaded.variables)
    layer.trainable = True
    assert len(layer.trainable_weights) == len(layer.weights)


def test_fine_tuned_model_is_saved_and_read_back(hub, tmp_path):
    model = keras.Sequential([
        keras.Input((None, None, 3)), load_module(hub / f"{HANDLE}.tar.gz"), keras.layers.Dense(3),
    ])  # fmt: skip
    for variable in model.layers[0].weights:
        variable.assign(variable * 1.01)
    x = images(2, 32, 32)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"is a program.*safe_mode=False"):
        keras.models.load_model(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    np.testing.assert_array_equal(again(x), model(x))
    assert again.layers[0].sha256 == digest(hub / f"{HANDLE}.tar.gz")


def test_saved_model_finds_its_module_in_the_cache_without_the_archive(copied, tmp_path):
    layer = load_module(copied)
    copied.unlink()
    again = ModuleLayer.from_config
    with pytest.raises(ValueError, match="safe_mode"):
        with keras.src.saving.serialization_lib.SafeModeScope(True):
            again(layer.get_config())
    with keras.src.saving.serialization_lib.SafeModeScope(False):
        assert len(again(layer.get_config()).weights) == len(layer.weights)


def test_global_mixed_policy_leaves_the_module_in_its_precision(hub, network):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = load_module(hub / HANDLE)
        output = layer(tf.constant(images(1, 32, 32), tf.bfloat16))
    finally:
        keras.config.set_dtype_policy("float32")
    assert output.dtype == tf.float32
    assert {variable.dtype for variable in layer.weights} == {"float32"}


def test_archive_is_unpacked_once_into_the_cache(hub, cache):
    found = find_module(hub / f"{HANDLE}.tar.gz")
    assert found.folder == cache / digest(hub / f"{HANDLE}.tar.gz")
    for path in (hub / HANDLE).rglob("*"):
        if path.is_file():
            copy = found.folder / path.relative_to(hub / HANDLE)
            assert copy.read_bytes() == path.read_bytes()
    stamp = found.folder.stat().st_mtime_ns
    assert find_module(hub / f"{HANDLE}.tar.gz") == found
    assert found.folder.stat().st_mtime_ns == stamp
    assert not list(cache.glob(".*.partial"))


def test_archive_that_is_not_its_checksums_is_not_used(copied, cache):
    content = bytearray(copied.read_bytes())
    content[len(content) // 2] ^= 1
    copied.write_bytes(content)
    with pytest.raises(ChecksumError, match="was damaged or exchanged"):
        find_module(copied)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_archive_without_checksum_has_to_be_pinned(copied):
    copied.with_name("1.tar.gz.sha256").unlink()
    with pytest.raises(ChecksumError, match="has no checksum") as error:
        find_module(copied)
    assert f"sha256='{digest(copied)}'" in str(error.value)
    assert find_module(copied, sha256=digest(copied)).folder.is_dir()
    with pytest.raises(ChecksumError, match="not " + 64 * "0"):
        find_module(copied, sha256=64 * "0")
    with pytest.raises(ChecksumError, match="64 hexadecimal digits. Received: 'abc'"):
        find_module(copied, sha256="abc")


def test_address_is_loaded_by_the_protocol_of_tf_hub(server, hub, network):
    layer = load_module(f"{server.url}/{HANDLE}")
    x = images(1, 32, 32)
    np.testing.assert_allclose(layer(x), network(x * 2 - 1), atol=1e-5)
    assert server.requests == [f"/{HANDLE}.tar.gz.sha256", f"/{HANDLE}?tf-hub-format=compressed"]
    find_module(f"{server.url}/{HANDLE}.tar.gz")  # the same archive: not fetched again
    assert server.requests[2:] == [f"/{HANDLE}.tar.gz.sha256"]


def test_handle_lies_below_the_hub_variable(server, hub, monkeypatch, cache):
    for place in (server.url, f"{server.url}/", str(hub)):
        monkeypatch.setenv("BIT_KERAS_HUB", place)
        assert (find_module(HANDLE).folder / "saved_model.pb").is_file()
    with pytest.raises(FileNotFoundError, match=r"nor is there .*bit/none/1"):
        find_module("bit/none/1")
    with pytest.raises(FileNotFoundError, match="does not lie below"):
        find_module("../bit/tiny/none")
    monkeypatch.delenv("BIT_KERAS_HUB")
    with pytest.raises(FileNotFoundError, match="BIT_KERAS_HUB is not set"):
        find_module(HANDLE)


def test_loaded_address_works_while_the_server_is_away(server, capsys):
    found = find_module(f"{server.url}/{HANDLE}")
    server.shutdown()
    server.server_close()
    assert find_module(f"{server.url}/{HANDLE}") == found
    assert "does not answer" in capsys.readouterr().err
    with pytest.raises(ModuleUnavailableError, match="does not answer.*give their path"):
        find_module(f"{server.url}/bit/other/1")


def test_server_without_the_module_or_with_another_archive(server, copied, tmp_path, cache):
    with pytest.raises(ModuleUnavailableError, match="answered 404"):
        find_module(f"{server.url}/bit/none/1")
    server.root = tmp_path
    copied.write_bytes(copied.read_bytes()[:-10])
    with pytest.raises(ChecksumError, match="was damaged or exchanged"):
        find_module(f"{server.url}/1")
    assert not list(cache.glob("*.tar.gz"))
    assert not [path for path in cache.glob("*") if path.is_dir() and path.name != "addresses"]


def test_two_processes_at_once_load_the_same_module(server, cache):
    code = "import sys; from bit_keras.module_files import find_module; " \
           f"print(find_module('{server.url}/{HANDLE}').folder)"  # fmt: skip
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "no_proxy": "127.0.0.1"},
        )
        for _ in range(3)
    ]
    folders = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(folders) == 1
    assert (Path(folders.pop()) / "saved_model.pb").is_file()
    assert server.requests.count(f"/{HANDLE}?tf-hub-format=compressed") == 1
    assert not list(cache.glob(".*.partial"))


def test_without_locks_the_first_rename_counts(hub, cache, monkeypatch):
    monkeypatch.setattr(module_files, "fcntl", None)
    archive = hub / f"{HANDLE}.tar.gz"
    final = find_module(archive).folder
    module_files._unpack_into_cache(archive, final.name)  # another process, a moment later
    assert (final / "saved_model.pb").is_file()
    assert not list(cache.glob(".*.partial"))


def test_what_is_no_module_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no saved_model.pb"):
        load_module(tmp_path)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        add(tar, "readme", b"hello")
    write_checksum(tmp_path / "x.tar.gz")
    with pytest.raises(ArchiveError, match="holds no module"):
        load_module(tmp_path / "x.tar.gz")
    tf.saved_model.save(tf.Module(), str(tmp_path / "serving"))  # has none of the members
    with pytest.raises(ValueError, match="no module to build on.*tf.saved_model.load"):
        load_module(tmp_path / "serving")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/saved_model.pb").write_bytes(b"no")
    with pytest.raises(ValueError, match="no SavedModel that can be loaded"):
        load_module(tmp_path / "broken")


def add(tar, name, data=b"", **changes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in changes.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("/etc/evil", {}, "absolute"),
        ("../evil", {}, "leads out"),
        ("a/../../evil", {}, "leads out"),
        ("C:\\evil", {}, "absolute or foreign"),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc"}, "link"),
        ("link", {"type": tarfile.LNKTYPE, "linkname": "good"}, "link"),
        ("device", {"type": tarfile.CHRTYPE}, "device"),
        ("pipe", {"type": tarfile.FIFOTYPE}, "pipe"),
        ("good", {}, "twice"),
    ],
)
def test_unsafe_members_are_refused(tmp_path, name, changes, message):
    archive, folder = tmp_path / "a.tar.gz", tmp_path / "inside/folder"
    with tarfile.open(archive, "w:gz") as tar:
        add(tar, "good", b"data")
        add(tar, name, **changes)
        add(tar, "link/after", b"data")
    folder.mkdir(parents=True)
    with pytest.raises(ArchiveError, match=message):
        unpack(archive, folder)
    assert [path.name for path in folder.rglob("*")] == ["good"]
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["folder"]


def test_archive_bombs_end_at_the_limit(tmp_path):
    archive = tmp_path / "bomb.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        add(tar, "a", bytes(1000))
        add(tar, "b", bytes(3_000_000))
    for number, limits in enumerate(({"max_bytes": 1_000_000}, {"max_files": 1})):
        folder = tmp_path / f"out{number}"
        folder.mkdir()
        with pytest.raises(ArchiveError, match="more than"):
            unpack(archive, folder, **limits)
        assert not (folder / "b").exists()


@pytest.mark.parametrize("keep", [0, 5, 100, 5000, -1])
def test_damaged_archives_are_named(hub, tmp_path, keep):
    archive = tmp_path / "part.tar.gz"
    data = (hub / f"{HANDLE}.tar.gz").read_bytes()
    archive.write_bytes(b"not an archive" if keep < 0 else data[:keep])
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="part.tar.gz is damaged"):
        unpack(archive, tmp_path / "out")
