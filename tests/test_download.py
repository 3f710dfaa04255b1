import base64
import errno
import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from bit_keras import download, pretrained
from bit_keras.download import WeightsUnavailableError, fetch
from bit_keras.pretrained import cache_dir, find_weights, local_weights

DATA = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
NAME = "BiT-M-R50x1.npz"
LOCK = f".{NAME}.lock"  # stays, empty


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No proxy, no settings of the user's, a cache of the test's own, and short pauses."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("BIT_KERAS_WEIGHTS", raising=False)
    monkeypatch.setenv("BIT_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(pretrained, "BASE_URL", "http://127.0.0.1:1/bit_models")


class Server(http.server.ThreadingHTTPServer):
    """Serves `data` at every path; what it does wrong is set by its attributes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = DATA
        self.etag = '"1"'
        self.ranges = True
        self.md5 = None
        self.status = None
        self.broken = []  # bodies of the next answers end after so many bytes
        self.open = threading.Event()  # answers wait for it
        self.open.set()
        self.requests = []  # headers

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/{NAME}"

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        server.open.wait(10)
        if server.status:
            self.send_error(server.status)
            return
        begin, size = 0, len(server.data)
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if span and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            begin = int(span[1])
        if begin >= size > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - begin))
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.md5:
            self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={server.md5}")
        self.end_headers()
        end = begin + server.broken.pop(0) if server.broken else size
        self.wfile.write(server.data[begin:end])


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / NAME


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def md5(data):
    return base64.b64encode(hashlib.md5(data).digest()).decode()


# Where files are looked for


def test_cache_dir(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("BIT_KERAS_CACHE", "~/bit")
    assert str(cache_dir()) == "/home/me/bit"
    monkeypatch.delenv("BIT_KERAS_CACHE")
    assert str(cache_dir()) == "/xdg/bit_keras"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(cache_dir()) == "/home/me/.cache/bit_keras"


def test_order_is_given_then_cache_then_download(monkeypatch, tmp_path, server, target):
    given = tmp_path / "given"
    given.mkdir()
    monkeypatch.setenv("BIT_KERAS_WEIGHTS", str(given))
    assert local_weights(NAME) is None
    assert find_weights(NAME, server.url) == target
    assert len(server.requests) == 1
    assert find_weights(NAME, server.url) == target == local_weights(NAME)
    assert len(server.requests) == 1
    (given / NAME).write_bytes(b"given")
    assert find_weights(NAME, server.url) == given / NAME


def test_the_given_file_only_under_its_own_name(monkeypatch, tmp_path, server, target):
    given = tmp_path / NAME
    given.write_bytes(b"given")
    monkeypatch.setenv("BIT_KERAS_WEIGHTS", str(given))
    assert find_weights(NAME) == given
    other = target.with_name("BiT-M-R101x1.npz")
    assert find_weights(other.name, server.url) == other


def test_given_place_must_exist(monkeypatch):
    monkeypatch.setenv("BIT_KERAS_WEIGHTS", "/no/such/folder")
    with pytest.raises(WeightsUnavailableError, match=r"BIT_KERAS_WEIGHTS.*/no/such/folder"):
        find_weights(NAME)


def test_the_error_names_url_and_the_given_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BIT_KERAS_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsUnavailableError) as caught:
        find_weights(NAME)
    text = str(caught.value)
    assert f"http://127.0.0.1:1/bit_models/{NAME}" in text
    assert "BIT_KERAS_WEIGHTS=/folder/that/holds/it" in text
    assert f"BIT_KERAS_WEIGHTS={tmp_path} was looked at first" in text


# Downloads that succeed


def test_download_is_whole_and_leaves_nothing_else(server, target, capsys):
    server.md5 = md5(DATA)
    assert fetch(server.url, target) == target
    assert target.read_bytes() == DATA
    assert names(target.parent) == [LOCK, NAME]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"Downloading {server.url} (0.3 MB) to {target}\n"


def test_a_file_that_is_there_is_not_asked_for(server, target):
    target.parent.mkdir()
    target.write_bytes(b"there")
    assert fetch(server.url, target).read_bytes() == b"there"
    assert not server.requests


def test_progress_bar_on_a_terminal(server, target, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(server.url, target, label="weights")
    text = capsys.readouterr().err
    assert re.search(r"weights: 100%.*300k/300k.*B/s\]", text)
    assert "Downloading" not in text


def test_empty_file(server, target):
    server.data = b""
    assert fetch(server.url, target).read_bytes() == b""


def test_broken_connection_is_continued(server, target):
    server.broken = [100_000, 0, 50_001]
    assert fetch(server.url, target).read_bytes() == DATA
    assert [r.get("Range") for r in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=100000-",
        "bytes=150001-",
    ]
    assert server.requests[1]["If-Range"] == '"1"'


def break_off(server, target, monkeypatch, after=100_000):
    """A call that gives up in the middle."""
    server.broken = [after]
    with monkeypatch.context() as patch:
        patch.setattr(download, "RETRIES_TO_CONTINUE", 0)
        with pytest.raises(WeightsUnavailableError) as caught:
            fetch(server.url, target)
    assert not target.exists()
    server.requests.clear()
    return str(caught.value)


def test_second_call_continues(server, target, monkeypatch):
    server.md5 = md5(DATA)
    text = break_off(server, target, monkeypatch)
    assert f"100,000 bytes are kept in {target}.part and will be continued" in text
    assert server.url in text
    server.md5 = None  # an answer to a range need not repeat it
    assert fetch(server.url, target).read_bytes() == DATA
    assert [r.get("Range") for r in server.requests] == ["bytes=100000-"]
    assert names(target.parent) == [LOCK, NAME]


def test_changed_file_starts_over(server, target, monkeypatch):
    break_off(server, target, monkeypatch)
    server.data, server.etag = DATA[::-1], '"2"'
    assert fetch(server.url, target).read_bytes() == DATA[::-1]
    assert server.requests[0]["If-Range"] == '"1"'


def test_other_url_starts_over(server, target, monkeypatch):
    break_off(server, target, monkeypatch)
    server.data = DATA[::-1]
    assert fetch(server.url + "?other", target).read_bytes() == DATA[::-1]
    assert "Range" not in server.requests[0]


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_without_a_strong_validator_starts_over(server, target, etag):
    server.etag = etag
    server.broken = [100_000]
    assert fetch(server.url, target).read_bytes() == DATA
    assert ["Range" in r for r in server.requests] == [False, False]


def test_server_without_ranges_starts_over(server, target):
    server.ranges = False
    server.broken = [100_000]
    assert fetch(server.url, target).read_bytes() == DATA
    assert len(server.requests) == 2


def test_complete_part_is_finished(server, target, monkeypatch):
    break_off(server, target, monkeypatch)
    target.with_name(f"{NAME}.part").write_bytes(DATA)
    assert fetch(server.url, target).read_bytes() == DATA
    assert [r.get("Range") for r in server.requests] == [f"bytes={len(DATA)}-"]


def test_part_longer_than_the_file_starts_over(server, target, monkeypatch):
    break_off(server, target, monkeypatch)
    target.with_name(f"{NAME}.part").write_bytes(DATA + b"more")
    assert fetch(server.url, target).read_bytes() == DATA


def test_unreadable_note_starts_over(server, target, monkeypatch):
    break_off(server, target, monkeypatch)
    target.with_name(f"{NAME}.part.json").write_text('{"url": "ht')
    assert fetch(server.url, target).read_bytes() == DATA


# Downloads that fail


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (404, 1), (503, 3)])
def test_http_error(server, target, status, tries):
    server.status = status
    with pytest.raises(WeightsUnavailableError, match=f"answered {status} ") as caught:
        fetch(server.url, target)
    assert server.url in str(caught.value)
    assert len(server.requests) == tries
    assert not target.exists()


def check_unreachable(url, target, reason, seconds, **options):
    began = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=reason) as caught:
        fetch(url, target, **options)
    assert time.monotonic() - began < seconds
    assert url in str(caught.value)
    assert "BIT_KERAS_WEIGHTS=/folder/that/holds/it" in str(caught.value)
    assert "urllib3" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not target.exists()


def test_connection_refused(target):
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/{NAME}"
        check_unreachable(url, target, r": Connection refused\.", 5)


def test_proxy_of_the_environment_is_used(target, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    check_unreachable(f"http://bit.invalid/{NAME}", target, "the proxy: Connection refused", 5)


def test_unknown_host(target, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    check_unreachable(f"http://bit.invalid/{NAME}", target, "Name or service not known", 5)


def test_name_server_that_does_not_answer(target, monkeypatch):
    released = threading.Event()

    def hangs(*args, **kwargs):
        released.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    url = f"http://bit.invalid/{NAME}"
    check_unreachable(url, target, r"no answer within 0\.\d+ s", 3, connect_timeout=0.2)
    released.set()


def test_host_that_does_not_answer(target):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{NAME}"
        check_unreachable(url, target, r"no answer within 0\.\d+ s", 3, connect_timeout=0.2)


def test_host_that_sends_nothing_after_its_headers(server, target):
    released = threading.Event()
    headers_only = Handler.end_headers

    class Stalling(Handler):
        def end_headers(self):
            headers_only(self)
            released.wait(10)

    server.RequestHandlerClass = Stalling
    check_unreachable(server.url, target, r"no answer within 0\.\d+ s", 3, connect_timeout=0.2)
    released.set()


def test_defaults_stay_below_20_seconds():
    assert 2 * download.CONNECT_SECONDS + 2 < 20


def test_truncated_file(server, target):
    server.ranges = False
    server.broken = [1000] * 10
    with pytest.raises(WeightsUnavailableError, match="connection broke") as caught:
        fetch(server.url, target)
    assert "1000 bytes read" in str(caught.value)
    assert len(server.requests) == 1 + download.RETRIES_TO_CONTINUE
    assert not target.exists()


def test_stall_in_the_middle_is_a_broken_connection(server, target, monkeypatch):
    released = threading.Event()

    class Stalling(Handler):
        def finish(self):
            if len(self.server.requests) == 1:
                self.wfile.flush()
                released.wait(10)
            super().finish()

    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    server.RequestHandlerClass = Stalling
    server.broken = [100_000]
    assert fetch(server.url, target).read_bytes() == DATA
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-"]
    released.set()


def test_wrong_md5(server, target):
    server.md5 = md5(b"something else")
    with pytest.raises(WeightsUnavailableError, match=r"MD5 .* deleted") as caught:
        fetch(server.url, target)
    assert hashlib.md5(DATA).hexdigest() in str(caught.value)
    assert server.url in str(caught.value)
    assert names(target.parent) == [LOCK]


def test_disk_with_too_little_room(server, target, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1234)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WeightsUnavailableError) as caught:
        fetch(server.url, target)
    for part in (str(target.parent), "300,000 bytes", "1,234 bytes", "BIT_KERAS_CACHE"):
        assert part in str(caught.value)
    assert not target.exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_disk_that_fills_up(server, target, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(WeightsUnavailableError, match="No space left in"):
        fetch(server.url, target)


def test_folder_that_cannot_be_written_to(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsUnavailableError, match=r"Cannot write .*BIT_KERAS_CACHE"):
        fetch(server.url, tmp_path / "file" / NAME)


# Several processes


PROGRAM = """
import sys
from pathlib import Path
from bit_keras import download, pretrained
try:
    print(download.fetch(sys.argv[1], Path(sys.argv[2])))
except download.WeightsUnavailableError as error:
    print(error)
"""


def start(url, target):
    command = [sys.executable, "-c", PROGRAM, url, str(target)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(download.fcntl is None, reason="needs file locks")
def test_two_processes_make_one_download(server, target):
    server.open.clear()
    with start(server.url, target) as first:
        while not server.requests and first.poll() is None:
            time.sleep(0.01)
        with start(server.url, target) as second:
            assert second.stderr.readline() == f"Waiting for another download of {NAME}.\n"
            server.open.set()
            assert second.communicate(timeout=10) == (f"{target}\n", "")
        assert first.communicate(timeout=10)[0] == f"{target}\n"
    assert len(server.requests) == 1
    assert target.read_bytes() == DATA
    assert names(target.parent) == [LOCK, NAME]


@pytest.mark.skipif(download.fcntl is None, reason="needs file locks")
def test_waiting_for_a_download_that_fails_fails_with_it(target):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{NAME}"
        errors = []

        def attempt():
            with pytest.raises(WeightsUnavailableError) as caught:
                fetch(url, target, connect_timeout=0.4)
            errors.append(str(caught.value))

        threads = [threading.Thread(target=attempt) for _ in range(4)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - began < 2.5  # 0.8 for one, 3.2 one after the other
    assert len(errors) == 4
    assert len(set(errors)) == 1


@pytest.mark.parametrize("locks", ["no module", "no support"])
def test_without_locks_each_writes_its_own_part(server, target, monkeypatch, locks):
    if locks == "no module":
        monkeypatch.setattr(download, "fcntl", None)
    else:

        def unsupported(file, operation):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(download.fcntl, "flock", unsupported)
    server.broken = [100_000]
    assert fetch(server.url, target).read_bytes() == DATA
    target.unlink()
    text = break_off(server, target, monkeypatch)
    assert "kept" not in text
    assert not [name for name in names(target.parent) if "part" in name]
