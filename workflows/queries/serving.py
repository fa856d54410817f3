"""The report site of a run with a box for SQL, for the browser of this machine alone.

Listens on the loopback address. Who has the token may read; pages of other sites cannot have it, nor reach it by a name
of their own that leads to this machine: the Host must be this one.
"""

from __future__ import annotations

import hmac
import json
import mimetypes
import secrets
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from workflows.errors import RunError
from workflows.queries.asking_sql import query, tables_of
from workflows.queries.examples import EXAMPLES
from workflows.queries.printing import first_rows, plain_rows
from workflows.storage.run_folder import RunFolder

ROWS = 1000
"""That a page is sent."""

STATEMENT_BYTES = 100_000

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'none'",
}


class SiteServer(ThreadingHTTPServer):
    """A server of one run.

    Args:
        folder: of the run.
        site: its report site; where there is none the box for SQL is all.
        port: 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, folder: RunFolder, site: Path, port: int = 0) -> None:
        self.folder, self.site, self.token = folder, site.resolve(), secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise RunError(f"serve: --port must be free, got {port} ({error.strerror}); leave it out") from None

    @property
    def address(self) -> str:
        """What to open in a browser, with the token."""
        page = "index.html" if (self.site / "index.html").exists() else "sql"
        return f"http://127.0.0.1:{self.server_port}/{page}?token={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie that holds the token. Browsers do not tell ports apart: servers beside each other do."""
        return f"inference_graphs_token_{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that is closed while it is answered is no error."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names under which it may be asked."""
        return tuple(f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost"))


class _Handler(BaseHTTPRequestHandler):
    server: SiteServer
    server_version, sys_version = "inference-graphs", ""

    def log_message(self, format: str, *args: Any) -> None:  # the name that the base class gives it
        """Nothing: the addresses hold the token."""

    def do_GET(self) -> None:  # the name that the base class asks for
        """A page, a file of the site, or the first visit, which leaves the token in a cookie."""
        self._guarded(self._get)

    def do_POST(self) -> None:
        """A statement."""
        self._guarded(self._post)

    def _guarded(self, answer: Callable[[str], None]) -> None:
        try:
            parts = urlsplit(self.path)
        except ValueError:
            self._say(HTTPStatus.BAD_REQUEST, "ask for a path")
            return
        if self.headers.get("Host") not in self.server.hosts:
            self._say(HTTPStatus.FORBIDDEN, f"ask for {self.server.hosts[0]}")
            return
        given = parse_qs(parts.query).get("token", [""])[0]
        if not self._known(given or self._cookie()):
            self._say(HTTPStatus.FORBIDDEN, "open the address that was printed: it has the token")
            return
        if given and self.command == "GET":
            self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", {"Location": parts.path, "Set-Cookie": self._to_keep()})
            return
        answer(unquote(parts.path))

    def _known(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.server.token.encode())

    def _cookie(self) -> str:
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return ""
        return morsel.value if morsel else ""

    def _to_keep(self) -> str:
        return f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"

    def _get(self, path: str) -> None:
        if path == "/sql":
            page = files("workflows.queries").joinpath("sql_page.html").read_bytes()
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")
        elif path == "/examples":
            self._send_json([{"question": one.question, "sql": one.sql} for one in EXAMPLES])
        else:
            self._send_file(path)

    def _post(self, path: str) -> None:
        # A form of another site can send neither this type nor the cookie.
        if path != "/sql" or self.headers.get_content_type() != "application/json":
            self._say(HTTPStatus.NOT_FOUND, "POST a JSON object with sql to /sql")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > STATEMENT_BYTES:
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a statement has {STATEMENT_BYTES:,} bytes at most")
            return
        try:
            sql = json.loads(self.rfile.read(int(length)))["sql"]
            with query(self.server.folder, str(sql)) as reader:
                rows, total = first_rows(reader, ROWS)
        except (ValueError, KeyError, TypeError):
            self._say(HTTPStatus.BAD_REQUEST, "POST a JSON object with sql to /sql")
        except RunError as error:
            self._send_json({"error": str(error)})
        else:
            self._send_json({"columns": rows.column_names, "rows": plain_rows(rows), "total": total})

    def _send_file(self, path: str) -> None:
        wanted = (self.server.site / path.lstrip("/")).resolve()
        if wanted.is_dir():
            wanted = wanted / "index.html"
        if not wanted.is_relative_to(self.server.site) or not wanted.is_file():
            self._say(HTTPStatus.NOT_FOUND, "no such page; /sql asks the tables")
            return
        kind = mimetypes.guess_type(wanted.name)[0] or "application/octet-stream"
        self._send(HTTPStatus.OK, wanted.read_bytes(), f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)

    def _say(self, status: HTTPStatus, words: str) -> None:
        self._send(status, f"{words}\n".encode(), "text/plain; charset=utf-8")

    def _send_json(self, content: Any) -> None:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, default=str)
        self._send(HTTPStatus.OK, text.encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, further: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **_HEADERS,
            **(further or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve_site(folder: RunFolder, site: Path, port: int, told: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        folder: of the run.
        site: its report site.
        port: 0 takes a free one.
        told: is given the address.

    Raises:
        RunError: the port is taken. RunFolderError: the run has neither a site nor a table yet.
    """
    if not (site / "index.html").exists():
        tables_of(folder)
    with SiteServer(folder, site, port) as server:
        told(server.address)
        with suppress(KeyboardInterrupt):  # how it is ended
            server.serve_forever()
