"""Serves a folder of built modules: TF-Hub's protocol, and a site for people.

    python -m hub_export.serve DIR [--host 127.0.0.1] [--port 8000]

Then hub.KerasLayer("http://127.0.0.1:8000/bit/xs-r26x0.5/1") and
bit_keras.load_module("http://127.0.0.1:8000/bit/xs-r26x0.5/1") load a module; a browser shows them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

MAX_CONNECTIONS = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hub_export.serve", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("directory", metavar="DIR", help="what hub_export.build wrote")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all interfaces")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    root = Path(options.directory)
    try:
        import uvicorn

        from hub_export.protocol import PatientProtocol
        from hub_export.site import create_app

        if not root.is_dir():
            raise NotADirectoryError(
                f"There is no folder {root}. Make one: python -m hub_export.build --weights DIR "
                f"--out {root}"
            )
        app = create_app(root)
    except ModuleNotFoundError as error:
        print(f"{parser.prog}: {error}. pip install 'bit-keras[site]'", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        http=PatientProtocol,
        limit_concurrency=MAX_CONNECTIONS,
        server_header=False,
        ws="none",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
