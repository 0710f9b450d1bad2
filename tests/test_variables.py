"""A variable for every option of `serve`: the option wins, a bad value names the variable, children see none."""

import re

import pytest
from support import wait_for

from exeio_core.options import UsageError, serve_options
from exeio_core.settings import Folders, ServeOptions, find_key, read_only_key


def test_every_option_has_a_variable():
    environ = {
        "EXEIO_HOST": "::1", "EXEIO_PORT": "0", "EXEIO_READ_ONLY_KEY_FILE": "r", "EXEIO_TLS_CERT": "c",
        "EXEIO_TLS_KEY": "k", "EXEIO_UNIX_SOCKET": "s", "EXEIO_ON_EVENT": "e", "EXEIO_ECHO": "raw",
        "EXEIO_LOG_MAX_BYTES": "10M", "EXEIO_LOG_BACKUPS": "3", "EXEIO_STOP_TIMEOUT": "2.5",
        "EXEIO_DAEMON": "yes", "EXEIO_EXIT_WITH": "main",
    }
    assert serve_options([], environ) == ServeOptions(
        host="::1", port=0, read_only_key_file="r", tls_cert="c", tls_key="k", unix_socket="s",
        on_event="e", echo=True, echo_raw=True, log_max_bytes=10 << 20, log_backups=3, stop_timeout=2.5, daemon=True,
        exit_with="main")
    # The others are found together with what else says them; see test_settings.py and below.
    elsewhere = {"api_key", "api_key_file", "read_only_key", "config_dir", "data_dir", "echo_raw"}
    assert {name[6:].lower() for name in environ} == set(ServeOptions._fields) - elsewhere


def test_the_option_wins_and_an_empty_variable_is_none():
    environ = {"EXEIO_PORT": "1", "EXEIO_ECHO": "raw", "EXEIO_STOP_TIMEOUT": "", "EXEIO_DAEMON": "no"}
    options = serve_options(["--port", "2", "--no-echo"], environ)
    assert (options.port, options.echo, options.echo_raw, options.daemon) == (2, False, False, False)
    assert serve_options(["--daemon", "--echo"], environ) == ServeOptions(port=1, echo=True, daemon=True)


@pytest.mark.parametrize(("text", "echo", "raw"), [
    ("yes", True, False), ("1", True, False), ("True", True, False), ("off", False, False), ("raw", True, True)])
def test_the_words_of_the_echo(text, echo, raw):
    options = serve_options([], {"EXEIO_ECHO": text})
    assert (options.echo, options.echo_raw) == (echo, raw)
    assert serve_options([f"--echo={text}"], {}) == options


@pytest.mark.parametrize(("name", "value", "words"), [
    ("EXEIO_PORT", "abc", "EXEIO_PORT must be a whole number from 0 to 65535, not 'abc'"),
    ("EXEIO_PORT", "none", "EXEIO_PORT none needs --unix-socket"),
    ("EXEIO_TLS_KEY", "k", "EXEIO_TLS_KEY needs --tls-cert"),
    ("EXEIO_LOG_MAX_BYTES", "1", "EXEIO_LOG_MAX_BYTES must be 0 or"),
    ("EXEIO_LOG_BACKUPS", "-1", "EXEIO_LOG_BACKUPS must be"),
    ("EXEIO_STOP_TIMEOUT", "nan", "EXEIO_STOP_TIMEOUT must be"),
    ("EXEIO_ECHO", "maybe", "EXEIO_ECHO must be yes, no or raw, not 'maybe'"),
    ("EXEIO_DAEMON", "raw", "EXEIO_DAEMON must be yes or no, not 'raw'"),
    ("EXEIO_EXIT_WITH", "a b", "EXEIO_EXIT_WITH: id must be"),
])
def test_a_bad_value_names_the_variable(name, value, words):
    with pytest.raises(UsageError, match=words.replace("(", "[(]")):
        serve_options([], {name: value})


@pytest.mark.parametrize(("arguments", "words"), [
    (["--echo=maybe"], "--echo must be yes, no or raw"), (["--exit-with", "-x-"], "--exit-with"),
    (["--exit-with", "exeio"], "--exit-with: id must not be"), (["--daemon=yes"], "--daemon")])
def test_a_bad_option_names_the_option(arguments, words):
    with pytest.raises(UsageError, match=words):
        serve_options(arguments, {})


def test_keys_from_variables(tmp_path):
    folders = Folders(str(tmp_path), str(tmp_path))
    file = tmp_path / "key"
    file.write_text("the-key-in-that-file\n")
    environ = {"EXEIO_API_KEY_FILE": str(file), "EXEIO_READ_ONLY_KEY": "a-key-that-may-read"}
    key = find_key(None, None, folders, environ)
    assert (key.value, key.path) == ("the-key-in-that-file", str(file))
    assert find_key("another-key-of-16", None, folders, environ).value == "another-key-of-16"
    reading = read_only_key(ServeOptions(), key, environ)
    assert (reading.value, reading.source) == ("a-key-that-may-read", "the variable EXEIO_READ_ONLY_KEY")
    assert reading.warnings() == [] and "EXEIO_READ_ONLY_KEY" not in environ
    given = read_only_key(ServeOptions(read_only_key="another-key-that-reads"), key, {"EXEIO_READ_ONLY_KEY": "x"})
    assert given.value == "another-key-that-reads"


def test_they_work_and_no_child_inherits_them(servers):
    """Also an exeio that a child starts: it would take the folders of the one around it."""
    environ = {"EXEIO_STOP_TIMEOUT": "3", "EXEIO_ECHO": "yes", "EXEIO_LOG_BACKUPS": "1", "EXEIO_URL": "http://here:1",
               "EXEIO_READ_ONLY_KEY": "a-key-that-may-only-read", "EXEIO_CONFIG_DIR": "/nowhere"}
    server = servers(env=environ)
    server.sh("look", "env", env={"EXEIO_PORT": "5"})
    wait_for(lambda: "[look] EXEIO_RUN=" in server.stdout)
    server.wait_status("look", "stopped")
    seen = set(re.findall(r"STDOUT: (EXEIO_\w+)=", server.log("look")))
    assert seen == {"EXEIO_RUN", "EXEIO_URL", "EXEIO_PORT"}
    assert server.call("GET", "/list", key="a-key-that-may-only-read")[0] == 200
