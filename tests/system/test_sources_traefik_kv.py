"""The kind ``traefik-kv`` with real connections: good servers, and servers that hang and lie."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
import ssl
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mailsni.core.model import Inventory
from mailsni.errors import HostError
from mailsni.host.http_client import Answer
from mailsni.sandbox.authority import Issued
from mailsni.sources import traefik_kv
from mailsni.sources.base import StoreFiles
from mailsni.sources.document import DOCUMENT_LIMIT, DocumentStore
from mailsni.sources.kinds import SourceSettings
from tests.support.builders import authority
from tests.support.document_stores import KeyValueBuilder, consul_answer, etcd_answer
from tests.support.key_value_server import KEY, Server, consul, etcd, serving

TOKEN = "b1gs07f1-secret-token"


@pytest.fixture(scope="module")
def issued() -> Issued:
    return authority().issue(["mail.a.test"])


@pytest.fixture
def plain(tmp_path: Path, issued: Issued) -> bytes:
    """The JSON of a value."""
    builder = KeyValueBuilder(tmp_path / "builder", encode=bytes)
    builder.put("mail.a.test", issued)
    return builder.path.read_bytes()


def store(server: Server, word: str = "", scheme: str = "http://127.0.0.1", **keys: Any) -> DocumentStore:  # noqa: ANN401
    source: Any = SourceSettings.of("traefik-kv", url=f"{word}{scheme}:{server.port}", **keys).open()
    opened: DocumentStore = source
    return opened


def fingerprints(inventory: Inventory) -> list[str]:
    assert inventory.skipped == ()
    return [each.fingerprint for each in inventory.certificates]


# ── servers as they should be ────────────────────────────────────────────────────────────────────────────────────────

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "base64": base64.b64encode,
    "base64 in lines": base64.encodebytes,
    "gzip in base64": lambda value: base64.b64encode(gzip.compress(value)),
    "plain": bytes,
}


@pytest.mark.parametrize("word", ["", "consul+"])
@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_consul_gives_the_certificates(
    plain: bytes, issued: Issued, word: str, encode: Callable[[bytes], bytes]
) -> None:
    with serving(consul({KEY: (encode(plain), 12)})) as server:
        source = store(server, word)
        assert fingerprints(source.scan({})) == [issued.fingerprint]
        assert source.change_token() == b"'12'"
        (origin,) = source.scan({}).lineages
        assert origin == f"http://127.0.0.1:{server.port}/{KEY}#mail.a.test"
    assert {target for _, target, _ in server.asked} == {f"/v1/kv/{KEY}?raw", f"/v1/kv/{KEY}?keys"}


@pytest.mark.parametrize("word", ["", "etcd+"])
@pytest.mark.parametrize("version", ["v3", "v3beta", "v3alpha"])
@pytest.mark.parametrize("key", [KEY, f"/{KEY}"])
def test_etcd_gives_the_certificates(plain: bytes, issued: Issued, word: str, version: str, key: str) -> None:
    with serving(etcd({key: (gzip.compress(plain), 34)}, version)) as server:
        source = store(server, word)
        assert fingerprints(source.scan({})) == [issued.fingerprint]
        assert source.change_token() == b"'34'"


def test_an_answer_of_consul_that_is_not_raw_is_read_too(plain: bytes, issued: Issued) -> None:
    values = {KEY: (gzip.compress(plain), 12)}
    with serving(Server(lambda *_: consul_answer(f"kv/{KEY}", None, values))) as server:
        assert fingerprints(store(server).scan({})) == [issued.fingerprint]


@pytest.mark.parametrize("prefix", ["other", f"other/{KEY.removeprefix('traefik/')}"])
def test_the_prefix_is_traefiks_or_the_whole_key(plain: bytes, issued: Issued, prefix: str) -> None:
    with serving(consul({KEY.replace("traefik", "other"): (plain, 12)})) as server:
        assert fingerprints(store(server, prefix=prefix).scan({})) == [issued.fingerprint]
        with pytest.raises(HostError, match=f"neither Consul nor etcd has the key {KEY} there"):
            store(server).scan({})


def test_tls_is_verified_with_the_authorities_of_ca_file(plain: bytes, issued: Issued, tmp_path: Path) -> None:
    own = authority().issue(["localhost"])
    (tmp_path / "server.pem").write_bytes(own.key_pem + own.fullchain_pem)
    (tmp_path / "ca.pem").write_bytes(authority().root.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with serving(consul({KEY: (plain, 12)}), context) as server:
        good = store(server, "consul+", "https://localhost", ca_file=f"{tmp_path}/ca.pem")
        assert fingerprints(good.scan({})) == [issued.fingerprint]
        for source in (
            store(server, scheme="https://localhost"),
            store(server, scheme="https://127.0.0.1", ca_file=f"{tmp_path}/ca.pem"),
        ):
            with pytest.raises(HostError, match="its certificate is not trusted"):
                source.scan({})
        for file, message in (("server.pem.none", "No such file"), ("text", "cannot be used")):
            (tmp_path / "text").write_text("no PEM")
            with pytest.raises(HostError, match=message) as caught:
                store(server, scheme="https://localhost", ca_file=f"{tmp_path}/{file}").scan({})
            assert caught.value.path == tmp_path / file
    with serving(consul({KEY: (plain, 12)})) as server, pytest.raises(HostError, match="cannot be asked"):
        store(server, scheme="https://localhost").scan({})


# ── the token ────────────────────────────────────────────────────────────────────────────────────────────────────────


def token_file(tmp_path: Path, content: str = TOKEN) -> str:
    file = tmp_path / "token"
    file.write_text(f"{content}\n")
    file.chmod(0o600)
    return str(file)


def test_the_token_goes_to_the_server_alone(plain: bytes, issued: Issued, tmp_path: Path) -> None:
    values = {KEY: (plain, 12)}
    with serving(consul(values)) as server:
        source = store(server, "consul+", token_file=token_file(tmp_path))
        assert TOKEN not in repr(source)
        assert fingerprints(source.scan({})) == [issued.fingerprint]
        assert server.asked[0][2]["x-consul-token"] == TOKEN
        assert source.files() == StoreFiles((tmp_path / "token",), (tmp_path,))
    with serving(etcd(values)) as server:
        assert fingerprints(store(server, "etcd+", token_file=token_file(tmp_path)).scan({})) == [issued.fingerprint]
        assert server.asked[0][2]["authorization"] == TOKEN


def test_a_name_and_a_password_of_etcd_are_changed_for_a_token(plain: bytes, issued: Issued, tmp_path: Path) -> None:
    values = {KEY: (plain, 12)}

    def answer(_method: str, target: str, body: bytes | None, head: dict[str, str]) -> Answer:
        if target == "/v3/auth/authenticate":
            good = json.loads(body or b"") == {"name": "mail", "password": TOKEN}
            return Answer(200, {}, b'{"header": {}, "token": "t.1"}') if good else Answer(400, {}, b"{}")
        if head.get("authorization") != "t.1":
            return Answer(400, {}, b'{"error": "etcdserver: user name is empty"}')
        return etcd_answer(target.removeprefix("/v3/"), body, values)

    with serving(Server(answer)) as server:
        good = store(server, "etcd+", token_file=token_file(tmp_path, f"mail:{TOKEN}"))
        assert fingerprints(good.scan({})) == [issued.fingerprint]
        with pytest.raises(HostError, match="takes neither the name nor the password"):
            store(server, "etcd+", token_file=token_file(tmp_path, "mail:x")).scan({})
        with pytest.raises(HostError, match="user name is empty"):
            store(server, "etcd+").scan({})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.chmod(0o620), "others can change it"),
        (lambda file: file.write_text("two words"), "holds no token"),
        (lambda file: file.write_text("x\r\nX-Evil: 1"), "holds no token"),
        (lambda file: file.write_text(""), "holds no token"),
        (Path.unlink, "No such file"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be read"),
    ],
)
def test_a_token_that_others_can_change_or_that_is_none_is_not_used(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    file = Path(token_file(tmp_path))
    spoil(file)
    with serving(consul({})) as server:
        with pytest.raises(HostError, match=message) as caught:
            store(server, token_file=str(file)).scan({})
        assert caught.value.path == file
        assert server.asked == []


def test_an_error_shows_neither_the_token_nor_a_key(plain: bytes, issued: Issued, tmp_path: Path) -> None:
    answers = [
        Answer(403, {}, b"Permission denied: token with AccessorID '1' lacks permission 'key:read'"),
        Answer(302, {"location": "http://elsewhere.test/"}, b""),
        Answer(200, {}, gzip.compress(plain)[:-9]),
        Answer(200, {"content-length": "100000"}, plain),
        Answer(200, {"transfer-encoding": "chunked"}, plain),
        None,
    ]
    for answer in answers:
        with serving(Server(lambda *_, answer=answer: answer)) as server:
            source = store(server, "consul+", token_file=token_file(tmp_path))
            with pytest.raises(HostError) as caught:
                source.scan({})
            shown = "".join(traceback.format_exception(caught.value, chain=True)) + repr(caught.value.hint)
            assert TOKEN not in shown
            assert issued.key_pem.decode().splitlines()[1] not in shown
            assert TOKEN.encode() not in source.change_token()


# ── servers that hang and lie ────────────────────────────────────────────────────────────────────────────────────────

BOMB = zlib.compressobj(9, wbits=31)
LIES: dict[str, tuple[Answer | None, str]] = {
    "403": (Answer(403, {}, b"Permission denied"), "refuses the key: status 403: Permission denied"),
    "404": (Answer(404, {}, b""), "Consul has not the key"),
    "500": (Answer(500, {}, b"\x1b[2Jno leader"), r"no answer of Consul's: status 500: '\\x1b\[2Jno leader'"),
    "html": (Answer(200, {}, b"<html><body>Sign in</body></html>"), "neither gzip nor base64 nor JSON"),
    "html in 404": (Answer(404, {}, b"<html>"), "Consul has not the key"),
    "empty": (Answer(200, {}, b""), "neither gzip nor base64 nor JSON"),
    "text": (Answer(200, {}, b"hello"), "neither gzip nor base64 nor JSON"),
    "list": (Answer(200, {}, b"[1, 2]"), "neither gzip nor base64 nor JSON"),
    "object": (Answer(200, {}, b"{}"), "no certificates of Traefik's"),
    "other object": (Answer(200, {}, b'{"message": {"a": 1}}'), "no certificates of Traefik's"),
    "cut gzip": (Answer(200, {}, gzip.compress(b'{"DomainsCertificate": null}')[:-4]), "gzip that is cut off"),
    "damaged gzip": (Answer(200, {}, b"\x1f\x8b" + b"x" * 100), "damaged gzip"),
    "bomb": (
        Answer(200, {}, b"".join((BOMB.compress(b" " * (DOCUMENT_LIMIT * 4)), BOMB.flush()))),
        f"more than {DOCUMENT_LIMIT} bytes of gzip",
    ),
    "redirect": (Answer(301, {"location": "/v1/kv/"}, b""), "a redirect, which is not followed: status 301"),
    "cut body": (Answer(200, {"content-length": "99"}, b"x"), "gave no whole answer of HTTP: IncompleteRead"),
    "cut chunks": (Answer(200, {"transfer-encoding": "chunked"}, b"ff\r\nx"), "gave no whole answer of HTTP"),
    "nothing": (None, "gave no whole answer of HTTP|cannot be asked"),
}


@pytest.mark.parametrize(("answer", "message"), LIES.values(), ids=LIES)
def test_a_server_that_lies_is_an_error(answer: Answer | None, message: str) -> None:
    with serving(Server(lambda *_: answer)) as server:
        with pytest.raises(HostError, match=message):
            store(server, "consul+").scan({})
        with pytest.raises(HostError):
            store(server).scan({})
        assert len(server.asked) <= 6, "no redirect is followed"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'"header"',
        b'{"kvs": []}',
        b'{"header": {}, "kvs": [{"value": "!", "mod_revision": "1"}]}',
        b"",
    ],
)
def test_an_etcd_that_lies_is_an_error(body: bytes) -> None:
    with (
        serving(Server(lambda *_: Answer(200, {}, body))) as server,
        pytest.raises(HostError, match="answer of etcd's"),
    ):
        store(server, "etcd+").scan({})


def test_an_answer_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traefik_kv, "ANSWER_LIMIT", 1000)
    with serving(Server(lambda *_: Answer(200, {}, b"x" * 1001))) as server:
        source = store(server)
        with pytest.raises(HostError, match="answers with more than 1000 bytes"):
            source.scan({})


def drip(connection: socket.socket, part: bytes, until: threading.Event) -> None:
    """Send a little, then a byte now and then."""
    connection.sendall(part)
    while not until.wait(0.05):
        connection.sendall(b"x")


SLOW = {
    "silent": b"",
    "in the status": b"HTTP/1.1 2",
    "in a header": b"HTTP/1.1 200 OK\r\nX: ",
    "in the headers": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    "in a body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n\x1f\x8b",
    "without an end": b"HTTP/1.1 200 OK\r\n\r\n",
    "for ever to continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("part", SLOW.values(), ids=SLOW)
def test_a_server_that_hangs_or_drips_is_an_error_in_time(
    monkeypatch: pytest.MonkeyPatch,
    part: bytes,
    tls: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(traefik_kv, "TIME_LIMIT", 0.6)
    monkeypatch.setattr(traefik_kv, "TOKEN_TIME_LIMIT", 0.4)
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def accept(listener: socket.socket) -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=hang, args=(connection,), daemon=True))
            threads[-1].start()

    def hang(connection: socket.socket) -> None:
        with closing(connection):
            try:
                if part:
                    drip(connection, part, ended)
                ended.wait()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads.append(threading.Thread(target=accept, args=(listener,), daemon=True))
        threads[0].start()
        scheme = "https://127.0.0.1" if tls else "http://127.0.0.1"
        source = store(Server(lambda *_: None, port=listener.getsockname()[1]), "consul+", scheme)
        begin = time.monotonic()
        with pytest.raises(HostError):
            source.scan({})
        first = source.change_token()
        assert first == source.change_token()
        assert time.monotonic() - begin < 5
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(5)


def test_a_server_that_is_not_there_is_an_error_and_comes_back(plain: bytes, issued: Issued) -> None:
    with serving(consul({KEY: (plain, 12)})) as server:
        source = store(server)
        inventory, token = source.scan({}), source.change_token()
    with pytest.raises(HostError, match="cannot be asked: Connection refused"):
        source.scan({})
    assert source.change_token() != token
    assert all(map(source.owns, inventory.lineages))
    assert inventory.read[0].pem == issued.key_pem + issued.fullchain_pem


def test_no_proxy_is_asked(plain: bytes, issued: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:1")
    with serving(consul({KEY: (plain, 12)})) as server:
        assert fingerprints(store(server).scan({})) == [issued.fingerprint]
