"""A server on this machine, to fetch from."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What the server holds and does, and the Range headers that it got."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_at: int | None = None  # closes the connection after so many bytes of a body
    ranges: bool = True
    status: int | None = None
    redirect: str | None = None
    length: str | None = None  # instead of the true one
    asked: list[str | None] = field(default_factory=list)


@contextlib.contextmanager
def served() -> Iterator[Server]:
    """A server on this machine, for as long as the block lasts."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, start = state.files.get(self.path.lstrip("/")), 0
            given = self.headers.get("Range")
            state.asked.append(given)
            if state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                return
            if state.status or body is None:
                self.send_error(state.status or 404)
                return
            if given and state.ranges:
                start = int(given.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", state.length or str(len(body) - start))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a client that refuses hangs up
                self.wfile.write(body[start : state.cut_at])

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.address = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def tar_of(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_of(members: dict[str, bytes | tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info, body = content if isinstance(content, tuple) else (zipfile.ZipInfo(name), content)
            archive.writestr(info, body)
    return stream.getvalue()
