"""The server answers this machine's page and nobody else."""

import http.client
import json
import sys
from urllib.parse import urlsplit

import pytest

from meddistill.runtime.errors import InputError, OutputError
from meddistill.view import serve
from meddistill.view.subjects import Subject, subjects


@pytest.fixture
def ask(serving, new_run):
    """``ask(path after the token, …)`` of a server that shows one run: the response with its body read."""
    run = new_run()
    server = serving(run.path)
    address = urlsplit(server.address)

    def request(path="", method="GET", token=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=20)
        base = address.path.rstrip("/") if token is None else f"/{token}"
        connection.putrequest(method, f"{base}/{path}", skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        answer.body = answer.read().decode()
        return answer

    request.origin, request.key, request.run = f"http://127.0.0.1:{address.port}", Subject(run.path, True).key, run
    return request


def test_a_part_that_cannot_be_made_is_answered_and_leaves_the_others(ask, monkeypatch):
    monkeypatch.setattr(serve.page, "live", lambda *_: 1 // 0)
    assert ask(f"live/{ask.key}").status == 500
    assert ask("style.css").status == 200


def test_it_listens_on_this_machine_alone(serving, new_run):
    server = serving(new_run().path)
    assert server.server_address[0] == "127.0.0.1"
    assert len(urlsplit(server.address).path) > 24


@pytest.mark.parametrize("token", ["", "x", "%00", "..", "%C3%A9"])
def test_without_the_token_there_is_nothing(ask, token):
    for path in ("", "style.css", f"live/{ask.key}"):
        answer = ask(path, token=token)
        assert (answer.status, answer.body) == (404, "")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:80"])
def test_another_host_name_is_refused_even_with_the_token(ask, host):
    assert ask(Host=host).status == 421


def test_a_request_without_a_host_is_refused(ask):
    assert ask(Host="").status == 421


def test_every_answer_carries_the_policy(ask):
    for path in ("", "htmx.js", "view.js", "style.css", f"figures/{ask.key}", "no-such-thing"):
        headers = ask(path).headers
        assert headers["Content-Security-Policy"] == serve.POLICY
        assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert "unsafe" not in serve.POLICY
    assert "http" not in serve.POLICY


@pytest.mark.parametrize(
    "headers",
    [{}, {"HX_Request": "true"}, {"Origin": "http://evil.example", "HX_Request": "true"}, {"Origin": "null"}],
)
def test_only_the_page_itself_stops_a_run(ask, headers):
    assert ask(f"stop/{ask.key}", "POST", **headers).status == 403
    assert not (ask.run.path / "stop").exists()
    assert ask(f"stop/{ask.key}", "POST", Origin=ask.origin, HX_Request="true").status == 200
    assert (ask.run.path / "stop").exists()


def test_a_stop_is_not_taken_as_a_get(ask):
    assert ask(f"stop/{ask.key}").status == 404
    assert not (ask.run.path / "stop").exists()


@pytest.mark.parametrize(
    "path",
    [
        "live/0123456789abcdef",
        "live/",
        "live/../x",
        "images/KEY",
        "images/KEY?at=-1",
        "images/KEY?at=x",
        "figures",
        "etc/passwd",
    ],
)
def test_what_is_not_there_is_not_found(ask, path):
    assert ask(path.replace("KEY", ask.key)).status == 404


def test_what_the_page_has_already_is_not_sent_again(ask):
    part = ask(f"figures/{ask.key}")
    seal = part.body.split("seen=")[1].split('"')[0]
    again = ask(f"figures/{ask.key}?seen={seal}")
    assert (part.status, again.status, again.body) == (200, 204, "")
    ask.run.log(
        {"time": 200.0, "event": "distilled", "iteration": 21, "phase": "trajectories", "score": 0.5, "step_size": 0.1}
    )
    assert ask(f"figures/{ask.key}?seen={seal}").status == 200


def test_a_folder_shows_its_runs_and_packages_newest_run_first(new_run, new_package, tmp_path):
    import os

    older, newer, package = new_run("a.run"), new_run("b.run"), new_package()
    os.utime(older.path / "events.jsonl", (1, 1))
    found = subjects([tmp_path])
    assert [(one.name, one.is_run) for one in found] == [("b.run", True), ("a.run", True), (package.name, False)]
    assert subjects([newer.path, tmp_path])[0].path == newer.path
    assert len(subjects([newer.path, newer.path])) == 1


def test_what_cannot_be_shown_is_said_at_once(tmp_path, serving, monkeypatch):
    for name in ("nowhere.run", "x" * 300):
        with pytest.raises(InputError, match="there is nothing at"):
            serve.open_server([tmp_path / name])
    taken = serving(tmp_path).server_port
    with pytest.raises(OutputError, match="cannot listen"):
        serve.open_server([tmp_path], taken)
    monkeypatch.setitem(sys.modules, "js_lib_htmx", None)
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'meddistill\[view\]'"):
        serve.open_server([tmp_path])


def test_the_viewer_needs_no_torch():
    import subprocess

    code = "import sys, meddistill.view.serve; print(json.dumps('torch' in sys.modules))".replace(
        "import sys", "import sys, json"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
