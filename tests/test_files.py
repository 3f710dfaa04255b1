import errno
import os

import pytest

from bit_keras.files import replacing


@pytest.fixture(params=[False, True], ids=["file", "folder"])
def folder(request):
    return request.param


def write(path, text, folder):
    """Writes `text` to the path, or to a file in the folder at the path."""
    (path / "content" if folder else path).write_text(text)


def read(path):
    return (path / "content" if path.is_dir() else path).read_text()


@pytest.fixture
def old(tmp_path, folder):
    """A path where something stands already."""
    path = tmp_path / "name"
    if folder:
        path.mkdir()
    write(path, "old", folder)
    return path


def test_new_content_appears_and_parents_are_made(tmp_path, folder):
    path = tmp_path / "a" / "b" / "name"
    with replacing(path, folder=folder) as partial:
        write(partial, "new", folder)
        assert not path.exists()
    assert read(path) == "new"
    assert os.listdir(path.parent) == ["name"]


def test_old_content_stands_until_the_block_ends(old, folder):
    with replacing(old, folder=folder) as partial:
        write(partial, "new", folder)
        assert read(old) == "old"
    assert read(old) == "new"
    assert os.listdir(old.parent) == ["name"]


def test_replaced_folder_keeps_nothing_of_the_old_one(tmp_path):
    path = tmp_path / "name"
    path.mkdir()
    (path / "stale").touch()
    with replacing(path, folder=True) as partial:
        (partial / "fresh").touch()
    assert os.listdir(path) == ["fresh"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_failure_leaves_the_old_content_and_nothing_else(old, folder, error):
    with pytest.raises(error), replacing(old, folder=folder) as partial:
        write(partial, "half", folder)
        raise error("stop")
    assert read(old) == "old"
    assert os.listdir(old.parent) == ["name"]


def test_failure_without_old_content_leaves_nothing(tmp_path, folder):
    with pytest.raises(RuntimeError), replacing(tmp_path / "name", folder=folder) as partial:
        write(partial, "half", folder)
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_failure_of_the_last_rename_leaves_the_old_content(old, folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError), replacing(old, folder=folder) as partial:
        write(partial, "new", folder)
    assert read(old) == "old"
    assert os.listdir(old.parent) == ["name"]


def test_a_block_that_makes_no_file_is_an_error_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "name"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert read(path) == "old"


@pytest.mark.parametrize("name", ["replaced", ".hidden", "with space", "ümlaut.npz"])
def test_any_name_can_be_replaced(tmp_path, folder, name):
    for text in ("old", "new"):
        with replacing(tmp_path / name, folder=folder) as partial:
            write(partial, text, folder)
    assert read(tmp_path / name) == "new"
    assert os.listdir(tmp_path) == [name]


def test_full_disk_is_explained(old, folder):
    with pytest.raises(OSError, match=r"No space left to write .*name .*MB free.*Free some space"):
        with replacing(old, folder=folder) as partial:
            write(partial, "half", folder)
            raise OSError(errno.ENOSPC, "No space left on device")
    assert read(old) == "old"


def test_other_system_errors_pass_as_they_are(tmp_path):
    error = OSError(errno.EIO, "broken disk")
    with pytest.raises(OSError, match="broken disk") as caught, replacing(tmp_path / "name"):
        raise error
    assert caught.value is error


def test_new_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "name") as partial:
        partial.touch()
    assert (tmp_path / "name").stat().st_mode == (tmp_path / "plain").stat().st_mode
