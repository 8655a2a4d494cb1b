"""The server of the page: for this machine, for whoever knows its address, and for nothing else.

It listens on 127.0.0.1. Every address begins with a random token, which only the terminal shows; a request without it,
or for a host of another name (a page that had its own name point here), is answered 404 or 421. Requests that change
something must come from the page itself. A strict Content-Security-Policy lets the page run two scripts, htmx and a
few lines of its own, and forbids evaluation, inline scripts and styles, forms, frames and every other host.

Why htmx, and the standard library's server: the parts of the page are HTML that the templates of this package write,
as the report's are, so a library is needed for nothing but to fetch them. htmx (BSD Zero Clause) does so by attributes
in 50 kB, and works under that policy. NiceGUI, the first candidate, was tried: under the policy its page stays blank,
as it needs inline scripts and ``eval``; it brings 102 MB; and axe finds four kinds of faults in an empty page of it.
Gradio, Streamlit and Panel are larger, and the first two report usage unless told not to.
"""

import contextlib
import http.server
import importlib.util
import secrets
import socketserver
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import parse_qs, urlsplit

from meddistill.runtime.errors import InputError, OutputError
from meddistill.view import control, page, runs
from meddistill.view.subjects import Subject, require_there, subjects

HOST = "127.0.0.1"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SECONDS = 20.0  # a connection that says nothing is closed after so long
_HTML, _CSS, _JS = (f"{kind}; charset=utf-8" for kind in ("text/html", "text/css", "text/javascript"))


@dataclass(frozen=True)
class Reply:
    """What is sent: nothing new (204), or a body of some kind."""

    status: int
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"


@dataclass
class Site:
    """What the server knows: what to show, the token, and which runs were continued from here."""

    paths: Sequence[Path]
    script: bytes
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    started: dict[str, "Popen[bytes]"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def base(self) -> str:
        return f"/{self.token}"

    def get(self, path: str, query: dict[str, list[str]]) -> Reply:
        """The page, one of its parts, or one of its files; ``path`` is what follows the token."""
        seen, at = (query.get(name, [""])[0] for name in ("seen", "at"))
        files = {"style.css": (page.style, _CSS), "view.js": (lambda: page.asset("view.js"), _JS)}
        if path == "":
            return Reply(200, page.whole(subjects(self.paths), self.base).encode(), _HTML)
        if path in files:
            make, kind = files[path]
            return Reply(200, make(), kind)
        if path == "htmx.js":
            return Reply(200, self.script, _JS)
        if path == "compared":
            return _unless_seen(page.compared(subjects(self.paths), self.base), seen)
        return self._part(path, seen, at)

    def post(self, path: str) -> Reply:
        """Stop or continue a run, and show where it stands then."""
        act, _, key = path.partition("/")
        subject = self._run(key)
        if subject is None or act not in ("stop", "resume"):
            return Reply(404)
        with self._lock:
            note = self._stop(subject) if act == "stop" else self._resume(subject)
        return Reply(200, page.live(subject, self.base, note).encode(), _HTML)

    def _part(self, path: str, seen: str, at: str) -> Reply:
        kind, _, key = path.partition("/")
        subject = self._run(key)
        if subject is None:
            return Reply(404)
        if kind == "live":
            return _unless_seen(page.live(subject, self.base, self._note(subject)), seen)
        if kind == "figures":
            return _unless_seen(page.figures(subject, self.base), seen)
        if kind == "images" and at.isascii() and at.isdigit() and len(at) <= 6:
            return Reply(200, page.images(subject, int(at)).encode(), _HTML)
        return Reply(404)

    def _run(self, key: str) -> Subject | None:
        return next((one for one in subjects(self.paths) if one.is_run and one.key == key), None)

    def _stop(self, subject: Subject) -> str:
        return "Asked to stop." if control.stop(subject.path) else "It is not running any more."

    def _resume(self, subject: Subject) -> str:
        if self._is_starting(subject):
            return "It is starting."
        process = control.resume(subject.path)
        if process is None:
            return "It cannot be continued from here."
        self.started[subject.key] = process
        return "It is starting."

    def _note(self, subject: Subject) -> str:
        """What there is to say of a run that was continued from here until it speaks for itself."""
        process = self.started.get(subject.key)
        if process is None:
            return ""
        code = process.poll()
        if code is None:
            return "" if runs.read(subject.path).state == "running" else "It is starting."
        return f"It ended with: {control.last_words(subject.path)}" if code not in (0, 130) else ""

    def _is_starting(self, subject: Subject) -> bool:
        process = self.started.get(subject.key)
        return process is not None and process.poll() is None


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers each request in a thread of its own."""

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, site: Site, port: int) -> None:
        super().__init__((HOST, port), partial(_Handler, site))
        self.site = site

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}{self.site.base}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away in the middle of an answer is nothing to tell."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """Checks who asks before anything is looked at."""

    server_version, sys_version = "meddistill", ""
    timeout = _SECONDS

    def __init__(self, site: Site, *rest: Any) -> None:
        self._site = site
        super().__init__(*rest)

    def do_GET(self) -> None:
        self._answer(self._site.get)

    def do_POST(self) -> None:
        self._answer(lambda path, _: self._site.post(path) if self._is_from_the_page() else Reply(403))

    def log_message(self, *_: Any) -> None:
        """Addresses hold the token: they are written nowhere."""

    def _answer(self, reply_to: Callable[[str, dict[str, list[str]]], Reply]) -> None:
        if self.headers.get("Host", "") not in self._hosts():
            return self._send(Reply(421))
        asked = urlsplit(self.path)
        _, token, *rest = [*asked.path.split("/", 2), ""]
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self._site.token.encode()):
            return self._send(Reply(404))
        try:
            reply = reply_to(rest[0], parse_qs(asked.query, max_num_fields=8))
        except Exception:  # whatever a folder holds, the page is to hear that this part of it failed
            reply = Reply(500)
        return self._send(reply)

    def _hosts(self) -> tuple[str, str]:
        port = self.connection.getsockname()[1]
        return f"{HOST}:{port}", f"localhost:{port}"

    def _is_from_the_page(self) -> bool:
        """Browsers say where a request comes from; one from elsewhere must not change anything."""
        origin = self.headers.get("Origin", "")
        return origin.removeprefix("http://") in self._hosts() and self.headers.get("HX-Request") == "true"

    def _send(self, reply: Reply) -> None:
        self.close_connection = True
        self.send_response(reply.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if reply.status != 204:
            self.wfile.write(reply.body)


def _unless_seen(part: str, seen: str) -> Reply:
    """The part, or nothing if the page has it: what is not replaced keeps its focus and is not read aloud again."""
    if seen and f"seen={seen}" in part:
        return Reply(204)
    return Reply(200, part.encode(), _HTML)


def htmx() -> bytes:
    """The script of htmx, from the package that carries it. Raises :class:`InputError` if that is not installed."""
    found = importlib.util.find_spec("js_lib_htmx")  # finds it without running any of it
    if found is None or found.origin is None:
        raise InputError("the viewer needs the script htmx: pip install 'meddistill[view]'")
    return (Path(found.origin).parent / "static" / "htmx" / "htmx.min.js").read_bytes()


def open_server(paths: Sequence[Path], port: int = 0) -> Server:
    """A server that listens and does not answer yet; port 0 takes any that is free.

    Raises :class:`InputError` for a path with nothing there, or without htmx, and :class:`OutputError` for a port that
    cannot be had.
    """
    require_there(paths)
    site = Site(tuple(path.resolve() for path in paths) or (Path.cwd(),), htmx())
    try:
        return Server(site, port)
    except (OSError, OverflowError) as error:
        problem = f"cannot listen on {HOST}, port {port}: {error}; leave --port out to take a free one"
        raise OutputError(problem) from error


def serve(paths: Sequence[Path], port: int, announce: Callable[[str], None]) -> str:
    """Answer until Ctrl-C; ``announce`` is told the address to open. Returns the address."""
    with open_server(paths, port) as server:
        announce(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        return server.address
