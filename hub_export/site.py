"""The hub as an ASGI application: TF-Hub's protocol for programs, pages and "try it" for people."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bit_keras.images import ImageError
from hub_export.pages import HERE, Hub, Module, card_html, page
from hub_export.predictor import Predictor
from hub_export.protocol import REQUEST_SECONDS
from hub_export.shelf import MANIFEST

MAX_UPLOAD = 8_000_000  # bytes of an image
MAX_PENDING = 100  # uploads held in memory at a time
AT_ONCE = 2  # predictions

_FORM_OVERHEAD = 10_000
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
_SUFFIXES = {
    ".tar.gz.sha256": ("checksum", "text/plain; charset=utf-8"),
    ".tar.gz": ("archive", "application/gzip"),
    ".md": ("card", "text/markdown; charset=utf-8"),
}


def create_app(root: str | Path) -> Starlette:
    """The application that serves the modules of a folder.

    Args:
        root: what `python -m hub_export.build --out` wrote.

    Raises:
        ValueError: when its manifest cannot be read.

    Example:
        >>> uvicorn.run(create_app("hub"))  # doctest: +SKIP
    """
    site = _Site(Hub(Path(root)))
    errors: dict[Any, Any] = {HTTPException: site.error, 500: site.error}
    return Starlette(
        routes=[
            Route("/", site.gallery),
            Route("/healthz", site.health),
            Route(f"/{MANIFEST}", site.manifest),
            Mount("/static", StaticFiles(directory=HERE / "static")),
            Route("/{handle:path}:predict", site.predict, methods=["POST"]),
            Route("/{path:path}", site.module),
        ],
        exception_handlers=errors,
        middleware=[Middleware(_SafeHeaders)],
    )


class _SafeHeaders:
    """Adds the headers that keep a page from running anything but its own script."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, with_headers)


class _Site:
    """The handlers. No path of a request is ever joined to a folder: they are looked up."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        _ = hub.modules  # a broken manifest is found now, not by the first visitor
        self.predictor = Predictor()
        self.pending = 0
        self.limiter: anyio.CapacityLimiter | None = None

    async def gallery(self, request: Request) -> Response:
        """All modules, or those that fit `?q=`."""
        query = request.query_params.get("q", "")
        modules = [(module, module.matches(query)) for module in self.hub.modules.values()]
        shown = sum(visible for _, visible in modules)
        return HTMLResponse(page("gallery.html", modules=modules, shown=shown, query=query))

    async def health(self, request: Request) -> Response:
        """For load balancers."""
        return PlainTextResponse(f"ok, {len(self.hub.modules)} modules\n")

    async def manifest(self, request: Request) -> Response:
        """The manifest as it is."""
        if not (path := self.hub.root / MANIFEST).is_file():
            raise HTTPException(404, "Nothing was built here yet.")
        return _file(request, path, "application/json")

    async def module(self, request: Request) -> Response:
        """A module's page, or one of its files."""
        path = request.path_params["path"]
        if path.endswith(":predict"):
            raise HTTPException(405, "Send the image by POST.", {"Allow": "POST"})
        for suffix, (kind, media_type) in _SUFFIXES.items():
            if path.endswith(suffix):
                return self._download(request, path.removesuffix(suffix), kind, media_type)
        wanted = request.query_params.get("tf-hub-format")
        if wanted == "compressed":
            return self._download(request, path.rstrip("/"), "archive", "application/gzip")
        if wanted is not None:
            raise HTTPException(
                400, "tf-hub-format must be compressed: the archive is all we have."
            )
        module = self._find(path.rstrip("/"))
        if path.endswith("/"):
            return RedirectResponse(f"/{module.handle}")
        archives = self.hub.archives()
        base = str(request.base_url).rstrip("/")
        return HTMLResponse(
            page(
                "module.html",
                module=module,
                card=card_html(module, base),
                max_upload=MAX_UPLOAD,
                serving_sha256=archives[module.facts["serving"]][1] if module.serving else "",
            )
        )

    def _download(self, request: Request, handle: str, kind: str, media_type: str) -> Response:
        place, sha256 = self.hub.archives().get(handle, (None, ""))
        path = getattr(place, kind, None)
        if path is None or not path.is_file():
            raise HTTPException(404, f"There is no {handle!r} here.")
        if kind != "archive":
            return _file(request, path, media_type)
        name = f"{handle.replace('/', '_')}.tar.gz"
        return _file(request, path, media_type, etag=f'"{sha256}"', filename=name)

    def _find(self, handle: str) -> Module:
        if (module := self.hub.modules.get(handle)) is None:
            raise HTTPException(404, f"There is no module {handle!r} here.")
        return module

    async def predict(self, request: Request) -> Response:
        """The best classes of an image, the body or the form's field `image`."""
        module = self._find(request.path_params["handle"])
        if module.serving is None:
            raise HTTPException(404, f"{module.handle} gives features, not classes.")
        if self.pending >= MAX_PENDING:
            raise HTTPException(503, "Too many images at once. Try again.", {"Retry-After": "2"})
        self.pending += 1
        try:
            data = await _image_of(request)
            self.limiter = self.limiter or anyio.CapacityLimiter(AT_ONCE)
            call = functools.partial(self.predictor.classes, module, data)
            classes = await anyio.to_thread.run_sync(call, limiter=self.limiter)
        except ImageError as error:
            raise HTTPException(422, f"This image cannot be used: {error}.") from error
        finally:
            self.pending -= 1
        if _wants_page(request):
            return HTMLResponse(page("answer.html", module=module, classes=classes, error=""))
        return JSONResponse({"module": module.handle, "classes": classes})

    async def error(self, request: Request, error: Exception) -> Response:
        """Every error, as a page for people and as JSON for programs."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = error.detail if isinstance(error, HTTPException) else "A fault of the server's."
        headers = getattr(error, "headers", None)
        if _wants_page(request):
            return HTMLResponse(page("message.html", title=f"{status}", text=text), status, headers)
        return JSONResponse({"error": text}, status, headers)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _file(
    request: Request,
    path: Path,
    media_type: str,
    etag: str | None = None,
    filename: str | None = None,
) -> Response:
    """A file with ETag, If-None-Match, ranges and HEAD."""
    headers = {"cache-control": "no-cache", **({"etag": etag} if etag else {})}
    response = FileResponse(
        path, headers=headers, media_type=media_type, filename=filename, stat_result=path.stat()
    )
    known = request.headers.get("if-none-match", "")
    current = response.headers["etag"]
    if known.strip() == "*" or current in {
        tag.strip().removeprefix("W/") for tag in known.split(",")
    }:
        return Response(status_code=304, headers={"etag": current, "cache-control": "no-cache"})
    return response


async def _image_of(request: Request) -> bytes:
    """The image in a request, read within the limits of size and time."""
    is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
    body = await _body(request, MAX_UPLOAD + (_FORM_OVERHEAD if is_form else 0))
    if not is_form:
        return body

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async with Request(request.scope, replay).form(max_files=1, max_fields=4) as form:
        upload = form.get("image")
        if upload is None or isinstance(upload, str):
            raise HTTPException(400, "The form has no file in its field `image`.")
        return await upload.read()


async def _body(request: Request, limit: int) -> bytes:
    too_large = HTTPException(413, f"The limit is {MAX_UPLOAD / 1e6:g} MB. Send a smaller image.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(REQUEST_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, "The image took too long to arrive.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The connection broke.") from None
    return bytes(body)
