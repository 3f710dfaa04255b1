"""Publishes built modules: to a folder, a bucket, Kaggle Models or the Hugging Face Hub.

    python -m hub_export.publish DIR TARGET [--only TEXT] [--upload]

TARGET is a folder, gs://BUCKET/PATH (any address tf.io.gfile writes to), kaggle://OWNER or
hf://OWNER. Without --upload it prints what would be uploaded and touches nothing. Credentials are
those of the targets' own tools (`gcloud auth`, `kagglehub.login()`, `hf auth login`); none is read
or printed here.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bit_keras.files import replacing
from hub_export.shelf import MANIFEST, Place, read_manifest

_ENDINGS = (".tar.gz", ".tar.gz.sha256", ".md")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Upload:
    """What goes to one place.

    Attributes:
        target: folder, address, or name of the repository or model.
        files: name there → file here, or what is written for this target only.
        facts: the module's entry of the manifest; empty for a whole collection.
    """

    target: str
    files: dict[str, Path | bytes]
    facts: dict[str, Any]

    def listing(self) -> str:
        """The files with their sizes, one a line."""
        sizes = {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }
        lines = [f"{size:>13,}  {name}" for name, size in sizes.items()]
        total = f"{sum(sizes.values()):>13,}  bytes in {len(lines)} files"
        return "\n".join([self.target, *lines, total])

    def write(self, folder: Path) -> None:
        """Copies the files into a folder, each whole or not at all."""
        for name, content in self.files.items():
            with replacing(folder / name) as partial:
                if isinstance(content, bytes):
                    partial.write_bytes(content)
                else:
                    shutil.copyfile(content, partial)


def plan(root: str | Path, target: str, only: str = "") -> list[Upload]:
    """What publishing would upload, after checking that every module is whole.

    Args:
        root: what `hub_export.build` wrote.
        target: a folder, gs://…, kaggle://OWNER or hf://OWNER.
        only: handles that contain this text.

    Raises:
        ValueError: no module, one that does not agree with its checksum, or a bad target.

    Example:
        >>> plan("hub", "hf://me")  # doctest: +SKIP
        [Upload(target='me/bit-xs-r26x0.5', ...)]
    """
    root = Path(root)
    modules = {h: facts for h, facts in read_manifest(root).items() if only in h}
    if not modules:
        raise ValueError(
            f"{root / MANIFEST} lists no module{f' with {only!r} in its handle' if only else ''}. "
            f"Build some: python -m hub_export.build --weights DIR --out {root}"
        )
    for handle, facts in modules.items():
        for part in filter(None, (handle, facts["serving"])):
            if not Place.of(root, part).whole():
                raise ValueError(f"{part} is not what its checksum says. Build it again.")
    kind, _, owner = target.partition("://")
    if kind in ("kaggle", "hf"):
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"Write the target as {kind}://OWNER. Received: {target!r}")
        make = _for_kaggle if kind == "kaggle" else _for_hugging_face
        return [make(root, owner, facts) for facts in modules.values()]
    return [Upload(target.rstrip("/"), _collection(root, modules, only), {})]


def _for_kaggle(root: Path, owner: str, facts: dict[str, Any]) -> Upload:
    """The SavedModel and its card as a variation of the model "bit"."""
    place = Place.of(root, facts["handle"])
    name = "-".join(facts["handle"].split("/")[1:-1]).replace(".", "").replace("_", "-")
    files = {**_files_of(place.folder, ""), "README.md": place.card}
    return Upload(f"{owner}/bit/tensorFlow2/{name}", files, facts)


def _for_hugging_face(root: Path, owner: str, facts: dict[str, Any]) -> Upload:
    """The SavedModel and its card, which begins with the metadata of the Hub, as a repository."""
    place = Place.of(root, facts["handle"])
    task = "image-feature-extraction" if facts["num_classes"] is None else facts["task"]
    metadata = (
        f"---\nlicense: {facts['licence'].lower()}\nlibrary_name: tf-keras\n"
        f"pipeline_tag: {task}\ntags: [big-transfer, resnetv2, tf-hub]\n---\n\n"
    )
    card = metadata.encode() + place.card.read_bytes()
    name = f"bit-{'-'.join(facts['handle'].split('/')[1:-1])}"
    return Upload(f"{owner}/{name}", {**_files_of(place.folder, ""), "README.md": card}, facts)


def _files_of(folder: Path, prefix: str) -> dict[str, Path | bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {f"{prefix}{path.relative_to(folder).as_posix()}": path for path in paths}


def _collection(root: Path, modules: dict[str, Any], only: str) -> dict[str, Path | bytes]:
    """The folder as it is, without what does not belong to the modules."""
    files: dict[str, Path | bytes] = {}
    for handle, facts in modules.items():
        for part in filter(None, (handle, facts["serving"])):
            files |= _files_of(Place.of(root, part).folder, f"{part}/")
            for path in Place.of(root, part).settings:
                files[f"{part.rpartition('/')[0]}/{path.name}"] = path
            for ending in _ENDINGS:
                path = Path(f"{Place.of(root, part).folder}{ending}")
                if path.is_file():
                    files[f"{part}{ending}"] = path
    if not only:  # last, so that a server that reads it finds what it lists
        files[MANIFEST] = root / MANIFEST
    return files


def to_folder(upload: Upload) -> None:
    """Copies the files, each whole or not at all."""
    upload.write(Path(upload.target))


def to_bucket(upload: Upload) -> None:
    """Copies the files with TensorFlow's file systems, which know gs://, s3:// and others."""
    from bit_keras.backend import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    for name, content in upload.files.items():
        there = f"{upload.target}/{name}"
        tf.io.gfile.makedirs(there.rpartition("/")[0])
        tf.io.gfile.copy(str(content), there, overwrite=True)


def to_kaggle(upload: Upload) -> None:
    """Uploads a version of the model with kagglehub."""
    import kagglehub

    with tempfile.TemporaryDirectory() as folder:
        upload.write(Path(folder))
        kagglehub.model_upload(upload.target, folder, "Apache 2.0", upload.facts["handle"])


def to_hugging_face(upload: Upload) -> None:
    """Makes the repository and uploads one commit with huggingface_hub."""
    import huggingface_hub

    with tempfile.TemporaryDirectory() as folder:
        upload.write(Path(folder))
        huggingface_hub.create_repo(upload.target, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=upload.target, folder_path=folder, commit_message=upload.facts["handle"]
        )


def uploader(target: str) -> Callable[[Upload], None]:
    """The function that uploads to a target."""
    kind, separator, _ = target.partition("://")
    if not separator:
        return to_folder
    return {"kaggle": to_kaggle, "hf": to_hugging_face}.get(kind, to_bucket)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hub_export.publish", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("directory", metavar="DIR", help="what hub_export.build wrote")
    parser.add_argument("target", metavar="TARGET", help="PATH, gs://…, kaggle://OWNER, hf://OWNER")
    parser.add_argument("--only", default="", metavar="TEXT", help="handles that contain TEXT")
    parser.add_argument("--upload", action="store_true", help="do it, instead of saying it")
    options = parser.parse_args(arguments)
    try:
        for upload in plan(options.directory, options.target, options.only):
            print(upload.listing(), flush=True)
            if options.upload:
                uploader(options.target)(upload)
                print(f"Published {upload.target}", flush=True)
    except ModuleNotFoundError as error:
        print(f"{parser.prog}: {error}. pip install 'bit-keras[publish]'", file=sys.stderr)
        return 1
    except Exception as error:  # each target's tool has errors of its own
        print(f"{parser.prog}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if not options.upload:
        print("Nothing was uploaded. To do it, add --upload.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
