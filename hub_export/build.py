"""Builds every module whose weights are there, with archive, checksum, card and manifest.

    python -m hub_export.build --weights DIR --out DIR [--only TEXT]

DIR of the weights holds released files under their names (BiT-M-R50x1.npz); the BiT-XS that comes
with the package is always built. A module that is complete is left as it is, once its files agree
with their checksum; an interrupted build leaves no part of a module and goes on when called again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bit_keras.files import sha256_of
from bit_keras.version import __version__
from hub_export.archive import write_archive, write_checksum
from hub_export.card import outputs, parameters, render
from hub_export.catalog import WEIGHTS_LICENCE, Spec, available
from hub_export.shelf import Place, read_manifest, write_manifest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_ROOM = ".building-"


class BuildError(RuntimeError):
    """A build that cannot begin."""


def build(
    weights: str | Path, out: str | Path, only: str = "", say: Callable[[str], None] = print
) -> list[str]:
    """Builds modules into a folder, each whole or not at all.

    Args:
        weights: folder with npz files under their released names.
        out: folder for the modules; made when missing.
        only: build only handles that contain this text.
        say: is told about each module.

    Returns:
        Handles of the modules that were built, without those that were complete already.

    Raises:
        NotADirectoryError: when `weights` is no folder.
        BuildError: when no module fits, or another build is at work in `out`.
        ExportError, WeightsFormatError, OSError: a module that cannot be built.

    Example:
        >>> build("weights", "hub")  # doctest: +SKIP
        ['bit/xs-r26x0.5/1', 'bit/xs-r26x0.5/clipart_classification/1']
    """
    weights, out = Path(weights), Path(out)
    if not weights.is_dir():
        raise NotADirectoryError(
            f"--weights must be a folder with files such as BiT-M-R50x1.npz. Received: {weights}"
        )
    found = [(spec, path) for spec, path in available(weights) if only in spec.handle]
    if not found:
        raise BuildError(f"No module whose weights are there has {only!r} in its handle.")
    out.mkdir(parents=True, exist_ok=True)
    digest = functools.cache(sha256_of)
    built = []
    with _alone_in(out):
        for spec, path in found:
            labels = spec.labels(weights)
            card = render(spec, digest(path), labels is not None)
            if _complete(spec, out, card):
                say(f"{spec.handle}: complete, checksums hold")
            else:
                _build_module(spec, path, labels, card, out)
                built.append(spec.handle)
                say(f"{spec.handle}: built")
            entry = _entry(spec, digest(path), labels is not None)
            write_manifest(out, {**read_manifest(out), spec.handle: entry})
    return built


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Holds the folder's lock, and removes what a killed build left."""
    with (out / ".lock").open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BuildError(f"Another build is at work in {out}. Wait for it.") from None
        for leftover in out.glob(f"{_ROOM}*"):
            shutil.rmtree(leftover)
        yield


def _complete(spec: Spec, out: Path, card: str) -> bool:
    """Whether the module is there, made of these weights, and its files are what they were."""
    place = Place.of(out, spec.handle)
    same_card = place.card.is_file() and place.card.read_text(encoding="utf-8") == card
    served = spec.serving is None or Place.of(out, spec.serving).whole()
    return same_card and place.whole() and served


def _build_module(spec: Spec, weights: Path, labels: Path | None, card: str, out: Path) -> None:
    """Builds in a room of its own and moves what is whole into place; the card comes last."""
    from bit_keras import ResNetV2, export_module

    model = ResNetV2.from_preset(spec.preset.name, spec.num_classes, weights=str(weights))
    names = None if labels is None else labels.read_text(encoding="utf-8").splitlines()
    room = Path(tempfile.mkdtemp(prefix=_ROOM, dir=out))
    try:
        made = {}
        for handle in filter(None, (spec.handle, spec.serving)):
            place = made[handle] = Place.of(room, handle)
            place.folder.parent.mkdir(parents=True)
            export_module(
                model,
                place.folder,
                kind="serving" if handle == spec.serving else "fine-tunable",
                labels=names,
                image_size=spec.image_size,
                multi_label=spec.upstream.multi_label,
            )
            write_archive(place.folder, place.archive)
            write_checksum(place.archive, place.checksum)
        final = Place.of(out, spec.handle)
        final.card.unlink(missing_ok=True)  # without its card a module counts as missing
        for handle, place in made.items():
            Place.of(out, handle).take(place)
        (room / "card").write_text(card, encoding="utf-8", newline="\n")
        (room / "card").replace(final.card)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _entry(spec: Spec, weights_sha256: str, labelled: bool) -> dict[str, Any]:
    """What the manifest says of a module."""
    return {
        "handle": spec.handle,
        "serving": spec.serving,
        "archive": f"{spec.handle}.tar.gz",
        "checksum": f"{spec.handle}.tar.gz.sha256",
        "card": f"{spec.handle}.md",
        "preset": spec.preset.name,
        "architecture": str(spec.preset.architecture),
        "dataset": spec.upstream.dataset,
        "task": "image-feature-vector" if spec.num_classes is None else "image-classification",
        "input": "float32 [B, H, W, 3] in [0, 1]",
        "output": outputs(spec),
        "num_classes": spec.num_classes,
        "labelled": labelled,
        "multi_label": spec.upstream.multi_label,
        "image_size": spec.image_size,
        "parameters": parameters(spec),
        "gmacs_224": round(spec.preset.architecture.gmacs(), 4),
        "fine_tunable": True,
        "licence": WEIGHTS_LICENCE,
        "weights": {"file": spec.preset.filename, "sha256": weights_sha256},
        "bit_keras": __version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hub_export.build", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--weights", required=True, metavar="DIR", help="folder of npz files")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the modules")
    parser.add_argument("--only", default="", metavar="TEXT", help="handles that contain TEXT")
    options = parser.parse_args(arguments)
    try:
        built = build(
            options.weights, options.out, options.only, lambda text: print(text, flush=True)
        )
    except (BuildError, OSError, ValueError, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on with the modules left.", file=sys.stderr)
        return 130
    print(f"{len(built)} built. Look at them: python -m hub_export.serve {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
