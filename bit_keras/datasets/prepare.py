"""Prepares a builder on Apache Beam: `python -m bit_keras.datasets.prepare NAME --data_dir=DIR`.

All other flags are Beam's, such as `--runner=DataflowRunner --project=… --region=…`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

# The direct runner's engine in this process. "DirectRunner" would first download another one.
RUNNER = "FnApiRunner"


class PrepareError(ValueError):
    """A data set that cannot be prepared here."""


def prepare(
    name: str, data_dir: str, manual_dir: str | None = None, beam: Sequence[str] = ()
) -> str:
    """Downloads and prepares a data set of TFDS with a Beam pipeline.

    Args:
        name: of the builder, such as "imagenet21k".
        data_dir: where to put it, local or gs://; what TFDS_DATA_DIR is for `tfds:NAME`.
        manual_dir: where what was downloaded by hand is; by default DATA_DIR/downloads/manual.
        beam: flags of Beam's pipeline options.

    Returns:
        A sentence with what there is now.

    Raises:
        PrepareError: without Apache Beam, or for flags that Beam does not know.
        FileNotFoundError: when the archives are not where they should be.
    """
    if find_spec("apache_beam") is None:
        raise PrepareError(
            "Apache Beam is not installed. It needs older versions of protobuf and Pillow than the "
            "rest takes, so give it an environment of its own: python -m venv .venv-beam && "
            ".venv-beam/bin/pip install 'bit-keras[beam]'"
        )
    import tensorflow_datasets as tfds

    from bit_keras import datasets

    datasets.register()
    builder = tfds.builder(name, data_dir=data_dir)
    config = tfds.download.DownloadConfig(
        manual_dir=manual_dir, beam_options=beam_options(beam), try_download_gcs=False
    )
    try:
        builder.download_and_prepare(download_config=config)
    except AssertionError as error:  # TFDS' way to say that files are not where they should be
        raise FileNotFoundError(str(error)) from error
    counts = ", ".join(f"{s} {info.num_examples:,}" for s, info in builder.info.splits.items())
    told = ", ".join(f"{key}: {value}" for key, value in (builder.info.metadata or {}).items())
    return f"{builder.data_path}: {counts}. {told}".rstrip()


def beam_options(flags: Sequence[str]) -> Any:
    """Beam's PipelineOptions from flags; `RUNNER` where they name no runner.

    Raises:
        PrepareError: for a flag that Beam does not know; Beam would only warn.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(flags))
    known = options.get_all_options()
    unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    if unknown:
        raise PrepareError(f"Apache Beam has no such flags. Received: {', '.join(unknown)}")
    if "runner" not in options.get_all_options(drop_default=True):
        options = PipelineOptions([*flags, f"--runner={RUNNER}"])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bit_keras.datasets.prepare",
        description=f"{(__doc__ or '').splitlines()[0]} Other flags are Beam's.",
        allow_abbrev=False,
    )
    parser.add_argument("name", help="of the builder, imagenet21k")
    parser.add_argument(
        "--data_dir", default=os.environ.get("TFDS_DATA_DIR"), help="default: $TFDS_DATA_DIR"
    )
    parser.add_argument("--manual_dir", help="default: DATA_DIR/downloads/manual")
    options, beam = parser.parse_known_args(arguments)
    if not options.data_dir:
        parser.error("pass --data_dir, or set TFDS_DATA_DIR")
    try:
        print(prepare(options.name, options.data_dir, options.manual_dir, beam))
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
