"""HTTPS and the Unix socket: with a certificate made here, against the real server."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import time
from pathlib import Path

import pytest
from support import Server, need, run_exeio, wait_for

from exeio_core.errors import Failed
from exeio_core.tls import make_context, warnings

KEY = "the-key-of-the-test"


def certificate(folder, name, *more):
    """A new self-signed certificate and its key as files."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
         "-keyout", str(key), "-out", str(cert), *more], check=True, capture_output=True)
    key.chmod(0o600)
    return cert, key


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two certificates, made once."""
    folder = tmp_path_factory.mktemp("tls")
    return {name: certificate(folder, name) for name in ("one", "two")}


@pytest.fixture
def secure(servers, made, tmp_path):
    """A server with TLS, on copies of the first certificate's files."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(made["one"][0].read_bytes())
    key.write_bytes(made["one"][1].read_bytes())
    key.chmod(0o600)
    server = servers("-k", KEY, "--tls-cert", cert, "--tls-key", key, "--host", "127.0.0.1")
    return server, cert, key


def trusting(cert):
    return ssl.create_default_context(cafile=str(cert))


def get(server, path, context, key=KEY):
    """The status and JSON of a GET by HTTPS, and the name in the server's certificate."""
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=context)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"exeio-api-key": key})
        answer = connection.getresponse()
        name = dict(pair for entry in connection.sock.getpeercert()["subject"] for pair in entry)["commonName"]
        return answer.status, json.loads(answer.read()), name


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self.path))


def ask(path, method, target, body=None, key=KEY):
    """One request over a Unix socket."""
    with contextlib.closing(UnixConnection(path)) as connection:
        connection.request(method, target, None if body is None else json.dumps(body), {"exeio-api-key": key})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_https_is_spoken_and_said(secure):
    server, cert, _ = secure
    context = trusting(cert)
    assert get(server, "/list", context) == (200, [], "one")
    assert get(server, "/list", context, "x" * 20)[0] == 401
    url = f"https://127.0.0.1:{server.port}"
    assert get(server, "/info", context)[1]["url"] == url
    noted = json.loads((server.data_dir / "run.json").read_text())
    assert (noted["url"], noted["urls"]) == (url, [url])
    assert server.banner.startswith(f"Process Supervisor starting on port {server.port} at 127.0.0.1\n")


def test_older_than_tls_1_2_is_refused(secure):
    server, cert, _ = secure
    context = trusting(cert)
    assert get(server, "/list", context)[0] == 200
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        one = trusting(cert)
        one.minimum_version = one.maximum_version = version
        assert get(server, "/list", one)[0] == 200
    # Python calls asking for it deprecated, which is the point; so openssl asks.
    old = subprocess.run(
        [need("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_1", "-cipher",
         "ALL:@SECLEVEL=0"], input=b"", capture_output=True, timeout=10, check=False)
    assert old.returncode != 0 and b"alert protocol version" in old.stderr


def test_a_plain_client_and_stalled_handshakes_hurt_nobody(secure):
    server, cert, _ = secure
    context = trusting(cert)
    stalled = [socket.create_connection((server.host, server.port), 10) for _ in range(30)]
    for number, each in enumerate(stalled):
        each.sendall([b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"][number % 3])
    began = time.monotonic()
    assert get(server, "/list", context)[0] == 200
    assert time.monotonic() - began < 5, "it waited for a deadline of others"
    status, answer = server.call("GET", "/list")
    assert status == 400 and "HTTPS" in answer["message"]
    with socket.create_connection((server.host, server.port), 10) as garbage:
        garbage.sendall(b"\x16\x03\x01\x00\x05hello")
        garbage.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            while garbage.recv(1000):
                pass
    assert get(server, "/list", context)[0] == 200
    for each in stalled:
        each.close()
    log = (server.logs / "exeio.log").read_text()
    assert log.count("\n") == 1, "clients are no reason for a line"


def test_a_large_answer_and_body_over_tls(secure):
    server, cert, _ = secure
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=trusting(cert))
    with contextlib.closing(connection):
        text = "x" * 100_000
        fields = {"exeio-api-key": KEY}
        connection.request("POST", "/add", json.dumps({"id": "a", "command": "cat", "args": [text]}), fields)
        assert json.loads(connection.getresponse().read())["success"]
        connection.request("GET", "/list", headers=fields)
        assert json.loads(connection.getresponse().read())[0]["args"] == [text]


def test_the_certificate_is_read_anew_at_sighup(secure, made):
    server, cert, key = secure
    old, new = trusting(made["one"][0]), trusting(made["two"][0])
    log = server.logs / "exeio.log"
    key.write_bytes(made["two"][1].read_bytes())
    server.signal(signal.SIGHUP)
    wait_for(lambda: "the certificate stays as it was" in log.read_text())
    assert "is not that of the certificate" in log.read_text()
    assert get(server, "/list", old)[2] == "one"
    cert.write_bytes(made["two"][0].read_bytes())
    server.signal(signal.SIGHUP)
    wait_for(lambda: "the certificate was read anew" in log.read_text())
    assert get(server, "/list", new)[2] == "two"
    with pytest.raises(ssl.SSLError):
        get(server, "/list", old)


def test_the_client_finds_its_way_over_tls(secure):
    server, cert, _ = secure
    folders = ["--config-dir", server.config_dir, "--data-dir", server.data_dir, "-k", KEY]
    ended = run_exeio("list", *folders, home=server.folder)
    assert ended.returncode == 3 and "SSL_CERT_FILE" in ended.stderr
    ended = run_exeio("list", "--json", *folders, home=server.folder, env={"SSL_CERT_FILE": str(cert)})
    assert (ended.returncode, json.loads(ended.stdout)) == (0, [])


def test_a_wildcard_with_tls_is_no_reason_for_a_warning(servers, made):
    cert, key = made["one"]
    server = servers("-k", KEY, "--tls-cert", cert, "--tls-key", key, "--host", "0.0.0.0")
    assert "without TLS" not in server.stderr
    assert get(server, "/list", trusting(cert))[0] == 200


def test_certificate_and_key_in_one_file(servers, made, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(file.read_bytes() for file in made["one"]))
    both.chmod(0o644)
    server = servers("-k", KEY, "--tls-cert", both)
    assert get(server, "/list", trusting(both))[0] == 200
    assert f"other users can read the TLS key in {both}" in server.stderr


def test_what_is_wrong_with_the_files_is_said(made, tmp_path):
    cert, key = made["one"]
    text = tmp_path / "text"
    text.write_text("no certificate")
    secret = tmp_path / "secret.key"
    subprocess.run([need("openssl"), "ec", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", str(secret)],
                   check=True, capture_output=True)
    for given, words in [
        ((str(cert), str(made["two"][1])), "is not that of the certificate"),
        ((str(cert), None), "give the key with --tls-key"),
        ((str(text), str(key)), "must hold a certificate"),
        ((str(cert), str(text)), "its key"),
        ((str(cert), str(secret)), "needs a password"),
        ((str(tmp_path / "none"), None), "of --tls-cert: No such file"),
        ((str(cert), str(tmp_path)), "of --tls-key: Is a directory"),
    ]:
        with pytest.raises(Failed) as refusal:
            make_context(*given)
        assert words in refusal.value.message and "\n" not in refusal.value.message
    assert warnings(str(cert), str(key)) == []
    ended = run_exeio("--port", "0", "--tls-cert", text, home=tmp_path)
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1].startswith(f"exeio: {text} must hold a certificate")


@pytest.mark.parametrize(("options", "words"), [
    (["--tls-key", "k"], "--tls-key needs --tls-cert"),
    (["--port", "none"], "--port none needs --unix-socket"),
    (["--port", "none", "--unix-socket", "/tmp/s", "--tls-cert", "c"], "--tls-cert is about the port"),
    (["--port", "none", "--unix-socket", "/tmp/s", "--host", "h"], "--host is about the port"),
    (["--unix-socket", ""], "--unix-socket must not be empty"),
])
def test_options_that_do_not_go_together(tmp_path, options, words):
    ended = run_exeio(*options, home=tmp_path)
    assert ended.returncode == 2 and words in ended.stderr and ended.stderr.count("\n") == 1


# The Unix socket


@pytest.fixture
def path(tmp_path):
    """Where a socket may be: short, as its name must fit into 107 bytes."""
    folder = f"/tmp/exeio-{os.getpid()}"
    os.mkdir(folder, 0o700)
    yield f"{folder}/s"
    if os.path.exists(f"{folder}/s"):
        os.unlink(f"{folder}/s")
    os.rmdir(folder)


def test_a_unix_socket_beside_tcp(servers, path):
    server = servers("-k", KEY, "--unix-socket", path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert server.banner.splitlines()[0].endswith("at 127.0.0.1")
    assert f"Unix socket: {path}\n" in wait_for(lambda: server.stdout if path in server.stdout else "")
    assert ask(path, "POST", "/add", {"id": "a", "command": "sleep", "args": ["60"]})[0] == 200
    assert [one["id"] for one in server.get("/list")] == ["a"]
    assert ask(path, "GET", "/list", key="wrong-key-for-this")[0] == 401
    noted = json.loads((server.data_dir / "run.json").read_text())
    tcp = f"http://127.0.0.1:{server.port}"
    assert (noted["url"], noted["urls"]) == (f"unix:{path}", [tcp, f"unix:{path}"])
    assert ask(path, "GET", "/info")[1]["url"] == tcp
    log = (server.logs / "exeio.log").read_text()
    assert "unix POST /add: 200" in log and "unix: a wrong API key was refused" in log
    curl = [need("curl"), "-sS", "--fail", "--unix-socket", path, "-H", f"exeio-api-key: {KEY}", "http://localhost/list"]
    assert json.loads(subprocess.run(curl, check=True, capture_output=True, timeout=10).stdout)[0]["id"] == "a"
    server.stop()
    assert not os.path.exists(path)


def test_the_unix_socket_alone(servers, path):
    server = servers("-k", KEY, "--unix-socket", path, "--port", "none")
    assert server.banner.startswith(f"Process Supervisor starting on the Unix socket {path}\n")
    assert ask(path, "GET", "/info")[1]["url"] == f"unix:{path}"
    assert ask(path, "POST", "/add", {"id": "a", "command": "true"})[0] == 200
    wait_for(lambda: ask(path, "GET", "/status/a")[1]["status"] == "stopped")
    assert f"SYSTEM unix:{path}: started with pid" in server.log("a")
    proc = Path(f"/proc/{server.pid}")
    sockets = [line.split() for line in (proc / "net/tcp").read_text().splitlines()[1:]]
    own = set()
    for link in (proc / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile: that of a request before
            own.add(os.readlink(link))
    assert not [line for line in sockets if line[3] == "0A" and f"socket:[{line[9]}]" in own], "no port is open"
    folders = ["--config-dir", server.config_dir, "--data-dir", server.data_dir]
    ended = run_exeio("list", "--json", *folders, "-k", KEY, home=server.folder)
    assert (ended.returncode, json.loads(ended.stdout)[0]["id"]) == (0, "a")


def test_a_unix_socket_with_tls_beside_it(servers, made, path):
    cert, key = made["one"]
    server = servers("-k", KEY, "--unix-socket", path, "--tls-cert", cert, "--tls-key", key)
    assert ask(path, "GET", "/list") == (200, [])
    assert get(server, "/list", trusting(cert)) == (200, [], "one")
    folders = ["--config-dir", server.config_dir, "--data-dir", server.data_dir]
    ended = run_exeio("list", "--json", *folders, "-k", KEY, home=server.folder)
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), "the client needs no certificate on this machine"


def test_the_socket_of_a_killed_server_is_replaced_and_a_living_one_is_not(servers, path):
    server = servers("-k", KEY, "--unix-socket", path)
    server.kill()
    assert os.path.exists(path)
    server.start()
    assert ask(path, "GET", "/list") == (200, [])
    other = Server("--unix-socket", path)
    with pytest.raises(AssertionError, match="another server listens there"):
        other.start()
    other.close()
    assert ask(path, "GET", "/list") == (200, [])
