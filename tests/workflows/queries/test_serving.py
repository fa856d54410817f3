"""Who has the token is served, by this machine's name, the site and rows of its tables; nobody else, and no more."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pyarrow as pa
import pytest

from workflows.errors import RunError, RunFolderError
from workflows.queries.serving import SiteServer, serve_site
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import SCHEMAS, write_table


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SiteServer]:
    root, site = tmp_path / "run", tmp_path / "run" / "site"
    site.mkdir(parents=True)
    (site / "index.html").write_text("<h1>the report</h1>", encoding="utf-8")
    (root / "secret.txt").write_text("not of the site", encoding="utf-8")
    (site / "link.txt").symlink_to(root / "secret.txt")
    record = {name: None for name in SCHEMAS["layers"].names}
    needed = {
        field.name: 0 if pa.types.is_integer(field.type) else 0.5 for field in SCHEMAS["layers"] if not field.nullable
    }
    write_table(root / "layers.parquet", [{**record, **needed, "scope": "joint", "layer": "<b>"}], "layers")
    with SiteServer(RunFolder(root), site) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def ask(
    server: SiteServer, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, {"Host": server.hosts[0], **headers})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response, text


def signed(server: SiteServer) -> dict[str, str]:
    return {"Cookie": f"{server.cookie}={server.token}"}


def test_the_first_visit_leaves_the_token_in_a_cookie(server: SiteServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    response, _ = ask(server, "GET", f"/index.html?token={server.token}")
    assert (response.status, response.getheader("Location")) == (303, "/index.html")
    cookie = response.getheader("Set-Cookie") or ""
    assert cookie.endswith("HttpOnly; SameSite=Strict; Path=/")
    response, text = ask(server, "GET", "/index.html", Cookie=cookie.split(";")[0])
    assert (response.status, text) == (200, "<h1>the report</h1>")


def test_nothing_is_told_without_token_or_under_another_name(server: SiteServer) -> None:
    for headers, path in (
        ({}, "/index.html"),
        ({}, "/index.html?token=guessed"),
        ({"Cookie": "inference_graphs_token_1=guessed"}, "/sql"),
        ({**signed(server), "Host": "evil.example.org"}, "/index.html"),
        ({**signed(server), "Host": f"evil.example.org:{server.server_port}"}, "/sql"),
    ):
        response, text = ask(server, "GET", path, **headers)
        assert response.status == 403
        assert "report" not in text
    body = json.dumps({"sql": "SELECT 1"})
    assert ask(server, "POST", "/sql", body, **{"Content-Type": "application/json"})[0].status == 403


def test_files_outside_the_site_are_not_there(server: SiteServer) -> None:
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/link.txt", "/..%2fsecret.txt", "//etc/passwd", "/none.html"):
        response, text = ask(server, "GET", path, **signed(server))
        assert response.status == 404, path
        assert "not of the site" not in text


def test_the_box_answers_and_tells_mistakes(server: SiteServer) -> None:
    kind = {"Content-Type": "application/json"}
    sql = "SELECT layer, 'nan'::DOUBLE AS nothing FROM layers"
    _, text = ask(server, "POST", "/sql", json.dumps({"sql": sql}), **signed(server), **kind)
    assert json.loads(text) == {"columns": ["layer", "nothing"], "rows": [["<b>", None]], "total": 1}
    _, text = ask(server, "POST", "/sql", json.dumps({"sql": "SELECT x FROM layers"}), **signed(server), **kind)
    assert "layers has: scope, layer, units" in json.loads(text)["error"]
    for body, status in (("[]", 400), ("no json", 400), ("x" * 100_001, 413)):
        assert ask(server, "POST", "/sql", body, **signed(server), **kind)[0].status == status
    assert ask(server, "POST", "/sql", "sql=1", **signed(server))[0].status == 404
    response, text = ask(server, "GET", "/sql", **signed(server))
    assert response.getheader("Content-Security-Policy") is not None
    assert "Ask the tables" in text
    assert len(json.loads(ask(server, "GET", "/examples", **signed(server))[1])) == 10


def test_a_taken_port_and_an_empty_run_are_told(server: SiteServer, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="serve: --port must be free, got"):
        SiteServer(server.folder, server.site, server.server_port)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="has no table yet"):
        serve_site(RunFolder(tmp_path / "empty"), tmp_path / "empty" / "site", 0, print)
