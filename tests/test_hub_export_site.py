import concurrent.futures
import contextlib
import hashlib
import io
import shutil
import socket
import struct
import time
import zlib

import numpy as np
import pytest
import requests
import tensorflow as tf
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("jinja2")
pytest.importorskip("markdown_it")

from hub_modules import CLASSIFIER, FEATURES, SERVING, built_hub, serving

from bit_keras import load_module
from bit_keras.preprocess import resize_square
from hub_export import protocol, site
from hub_export.pages import Hub, card_html
from hub_export.serve import main
from hub_export.shelf import Place

COMPRESSED = {"tf-hub-format": "compressed"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return built_hub(tmp_path_factory)


@pytest.fixture(scope="module")
def url(hub):
    with serving(hub) as url:
        yield url


def picture(seed=0, size=48):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size + 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bomb(side=60_000):
    """A PNG of 3.6 gigapixels in some bytes."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def predict(url, data, **kwargs):
    return requests.post(f"{url}/{CLASSIFIER}:predict", data=data, timeout=120, **kwargs)


@pytest.fixture(scope="module")
def expected(hub):
    """The probabilities that the serving module gives an image."""
    module = tf.saved_model.load(str(hub / SERVING))

    def answer(data):
        view = resize_square(np.array(Image.open(io.BytesIO(data))), 64)
        return module.signatures["serving_default"](images=view[None] / 255)["probabilities"][0]

    return answer


# TF-Hub's protocol.


def test_archive_is_served_whole_and_in_parts(url, hub):
    data = (hub / f"{FEATURES}.tar.gz").read_bytes()
    for address in (f"{url}/{FEATURES}?tf-hub-format=compressed", f"{url}/{FEATURES}.tar.gz"):
        answer = requests.get(address)
        assert answer.content == data
        assert answer.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
        assert answer.headers["Content-Type"] == "application/gzip"
        assert "Content-Encoding" not in answer.headers
        head = requests.head(address)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["Content-Length"]) == len(data)
        part = requests.get(address, headers={"Range": "bytes=1000-1999"})
        assert part.status_code == 206
        assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(data)}"
        assert part.content == data[1000:2000]
        etag = answer.headers["ETag"]
        kept = requests.get(address, headers={"If-None-Match": f'"x", {etag}'})
        assert (kept.status_code, kept.content) == (304, b"")
        stale = requests.get(address, headers={"Range": "bytes=10-", "If-Range": '"other"'})
        assert (stale.status_code, len(stale.content)) == (200, len(data))
        beyond = requests.get(address, headers={"Range": f"bytes={len(data)}-"})
        assert beyond.status_code == 416


def test_checksum_card_and_manifest_are_served(url, hub):
    for name in (f"{FEATURES}.tar.gz.sha256", f"{FEATURES}.md", f"{SERVING}.tar.gz.sha256",
                 f"{SERVING}.tar.gz", "manifest.json"):  # fmt: skip
        assert requests.get(f"{url}/{name}").content == (hub / name).read_bytes()


def test_keras_layer_loads_the_address(url, hub, tmp_path, monkeypatch):
    tensorflow_hub = pytest.importorskip("tensorflow_hub")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    layer = tensorflow_hub.KerasLayer(f"{url}/{FEATURES}", trainable=True)
    x = np.random.default_rng(0).random((2, 40, 33, 3), np.float32)
    expected = tf.saved_model.load(str(hub / FEATURES))(x)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    assert len(layer.trainable_weights) == len(layer.weights) > 0
    assert any((folder / "saved_model.pb").exists() for folder in tmp_path.iterdir())


def test_load_module_loads_the_address(url, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("BIT_KERAS_CACHE", str(tmp_path))
    monkeypatch.setenv("BIT_KERAS_HUB", url)
    layer = load_module(FEATURES)
    assert layer.sha256 == hashlib.sha256((hub / f"{FEATURES}.tar.gz").read_bytes()).hexdigest()
    assert layer(np.zeros([1, 32, 32, 3], np.float32)).shape == (1, 1024)


def test_uncompressed_format_is_refused(url):
    answer = requests.get(f"{url}/{FEATURES}", params={"tf-hub-format": "uncompressed"})
    assert answer.status_code == 400
    assert "must be compressed" in answer.json()["error"]


# Pages.


def test_gallery_lists_and_searches_without_javascript(url):
    page = requests.get(url).text
    assert "2 of 2 modules" in page
    for handle in (FEATURES, CLASSIFIER):
        assert f'<a href="/{handle}">{handle}</a>' in page
    page = requests.get(url, params={"q": "Classification  xs"}).text
    assert "1 of 2 modules" in page
    assert page.count("hidden>") == 1
    page = requests.get(url, params={"q": '"><script>alert(1)</script>'}).text
    assert "0 of 2 modules" in page
    assert "<script>alert" not in page


def test_module_page_has_card_snippets_and_checksums(url, hub):
    page = requests.get(f"{url}/{CLASSIFIER}").text
    assert f"{url}/{CLASSIFIER}&quot;, trainable=True" in page
    assert f"load_module(&quot;{url}/{CLASSIFIER}&quot;)" in page
    assert f"{url}/{SERVING}.tar.gz" in page
    for handle in (CLASSIFIER, SERVING):
        assert (hub / f"{handle}.tar.gz.sha256").read_text().split()[0] in page
    assert "<td>float32 [B, 136], logits before sigmoid</td>" in page
    assert "&lt;!--" not in page
    assert 'id="try-form"' in page
    assert 'id="try-form"' not in requests.get(f"{url}/{FEATURES}").text
    assert requests.get(f"{url}/{CLASSIFIER}/").url == f"{url}/{CLASSIFIER}"


def test_html_in_a_card_is_shown_not_obeyed(hub, tmp_path):
    module = Hub(hub).modules[FEATURES]
    place = Place(tmp_path / "1")
    place.card.write_text("# Module\n\n<script>alert(1)</script> [x](javascript:alert(1))\n")
    html = card_html(type(module)(module.facts, place, None, ""), "http://x")
    assert "<script>" not in html
    assert 'href="javascript' not in html


def test_pages_may_run_their_own_script_only(url):
    for path in ("", FEATURES, "manifest.json", "none"):
        headers = requests.get(f"{url}/{path}").headers
        assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_module_built_later_appears_and_one_without_files_does_not(hub, tmp_path):
    root = tmp_path / "hub"
    root.mkdir()
    with serving(root) as url:
        assert "0 of 0 modules" in requests.get(url).text
        assert requests.get(f"{url}/manifest.json").status_code == 404
        shutil.copytree(hub / "bit", root / "bit")
        shutil.copy(hub / "manifest.json", root)
        assert "1 of 1 modules" in requests.get(url).text  # the other's serving module is missing


# "Try it".


def test_prediction_is_the_serving_modules(url, expected):
    data = picture()
    probabilities = expected(data).numpy()
    answer = predict(url, data).json()
    assert answer["module"] == CLASSIFIER
    found = [row["probability"] for row in answer["classes"]]
    np.testing.assert_allclose(found, np.sort(probabilities)[::-1][:5], rtol=1e-4)
    names = requests.get(f"{url}/{CLASSIFIER}.md")  # the class names are of the module
    assert names.ok
    assert all("/" in row["label"] or row["label"] for row in answer["classes"])


def test_form_without_javascript_gives_a_page_with_bars(url):
    answer = requests.post(f"{url}/{CLASSIFIER}:predict", files={"image": ("a.png", picture())},
                           headers={"Accept": "text/html"})  # fmt: skip
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.text.count("<meter ") == 5
    answer = requests.post(f"{url}/{CLASSIFIER}:predict", files={"other": ("a.png", b"x")})
    assert (answer.status_code, answer.json()["error"][:20]) == (400, "The form has no file")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (picture()[:200], "truncated"),
        (bomb(), "3.6e+03 megapixels"),
        (bomb(7000), "49 megapixels, limit 40"),
    ],
    ids=["empty", "text", "truncated", "bomb", "large"],
)
def test_bad_files_get_a_clear_message(url, data, message):
    answer = predict(url, data)
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    page = predict(url, data, headers={"Accept": "text/html"})
    assert page.status_code == 422
    assert message in page.text


def test_uploads_above_the_limit_are_refused(url):
    too_much = bytes(site.MAX_UPLOAD + 1)
    for body in (too_much, (too_much[i::2] for i in range(2))):  # with a length, and chunked
        answer = predict(url, body)
        assert answer.status_code == 413
        assert answer.json()["error"] == "The limit is 8 MB. Send a smaller image."


# What a server on the open network meets.


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "bit/../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
     "static/../site.py", "static/%2e%2e/site.py", "..%5c..%5cetc/passwd", ".lock",
     "bit/xs-r26x0.5/1/saved_model.pb", "bit/xs-r26x0.5/1/../1.md", "\x00", "bit/none/1.tar.gz"],
)  # fmt: skip
def test_paths_that_are_no_modules_are_not_found(url, path):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"400")
    assert b"root:" not in answer
    assert b"import" not in answer


def test_wrong_methods_are_refused(url):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = requests.request(method, f"{url}/{FEATURES}")
        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]
    answer = requests.get(f"{url}/{CLASSIFIER}:predict")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert predict(url.rstrip("/") + "/none", b"x").status_code == 404
    assert requests.post(f"{url}/{FEATURES}:predict", data=b"x").status_code == 404


def test_clients_that_dawdle_lose_their_connection(hub, monkeypatch):
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.5)
    head = (
        f"POST /{CLASSIFIER}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    )
    with serving(hub) as url:
        host, port = url.removeprefix("http://").split(":")
        for begun in (b"", b"GET / HTTP/1.1\r\nHos", head, head + b"12345"):
            began = time.monotonic()
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(begun)
                assert connection.recv(1000) == b""  # closed by the server
            assert 0.3 < time.monotonic() - began < 10
        assert requests.get(f"{url}/healthz").text == "ok, 2 modules\n"


def test_client_that_does_not_read_loses_its_connection(hub, monkeypatch):
    monkeypatch.setattr(protocol, "STALL_SECONDS", 0.5)
    with serving(hub) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.settimeout(20)
            connection.sendall(f"GET /{FEATURES}.tar.gz HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(2)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(1 << 20):
                    received += len(chunk)
        assert received < (hub / f"{FEATURES}.tar.gz").stat().st_size
        assert requests.get(f"{url}/healthz").ok


def test_64_downloads_and_predictions_at_once_lose_nothing(url, hub, expected):
    archive = hashlib.sha256((hub / f"{FEATURES}.tar.gz").read_bytes()).hexdigest()
    pictures = [picture(seed, 30 + seed) for seed in range(8)]
    best = [float(tf.reduce_max(expected(data))) for data in pictures]

    def work(number):
        if number % 2:
            answer = requests.get(f"{url}/{FEATURES}", params=COMPRESSED, timeout=120)
            return hashlib.sha256(answer.content).hexdigest() == archive
        answer = predict(url, pictures[number // 2 % 8]).json()
        return abs(answer["classes"][0]["probability"] - best[number // 2 % 8]) < 1e-4

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert list(pool.map(work, range(128))) == [True] * 128


def test_more_uploads_than_fit_in_memory_are_put_off(hub, monkeypatch):
    monkeypatch.setattr(site, "MAX_PENDING", 1)
    with serving(hub) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(f"POST /{CLASSIFIER}:predict HTTP/1.1\r\nHost: x\r\n"
                         "Content-Length: 10\r\n\r\n123".encode())  # fmt: skip
            deadline = time.monotonic() + 20
            while (answer := predict(url, b"x")).status_code != 503:
                assert time.monotonic() < deadline
            assert answer.headers["Retry-After"] == "2"
            slow.sendall(b"4567890")
            assert slow.recv(1000).startswith(b"HTTP/1.1 422")
        assert predict(url, b"x").status_code == 422


def test_command_says_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 1
    assert "There is no folder" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{}")
    assert main([str(tmp_path)]) == 1
    assert "is no manifest of format 1" in capsys.readouterr().err
