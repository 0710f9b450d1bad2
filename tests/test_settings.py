"""Folders and key: which source wins, what is refused, what an administrator is warned of."""

from __future__ import annotations

import os
import pwd
import stat

import pytest

from exeio_core.errors import ExeioError, Failed, Invalid, StartupError
from exeio_core.options import serve_options
from exeio_core.settings import Folders, ServeOptions, check_key, find_folders, find_key, server_key

LONG = "k" * 20


@pytest.fixture
def folders(tmp_path):
    made = Folders(str(tmp_path / "config"), str(tmp_path / "data"))
    made.create()
    return made


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# Folders


def test_the_defaults_are_in_the_home_folder():
    found = find_folders(None, None, {"HOME": "/home/me"})
    assert found.processes_file == "/home/me/.config/exeio/processes.json"
    assert found.key_file == "/home/me/.config/exeio/api-key"
    assert found.logs_dir == "/home/me/.local/share/exeio/logs"
    assert found.system_log == "/home/me/.local/share/exeio/logs/exeio.log"
    assert found.runs_file == "/home/me/.local/share/exeio/runs.jsonl"


def test_option_before_own_variable_before_xdg_before_home(tmp_path, monkeypatch):
    environ = {"HOME": "/home/me", "XDG_CONFIG_HOME": "/xdg/c", "XDG_DATA_HOME": "/xdg/d"}
    assert find_folders(None, None, environ) == Folders("/xdg/c/exeio", "/xdg/d/exeio")
    environ.update(EXEIO_CONFIG_DIR="/own/c", EXEIO_DATA_DIR="/own/d")
    assert find_folders(None, None, environ) == Folders("/own/c", "/own/d"), "the exeio folders themselves"
    monkeypatch.chdir(tmp_path)
    assert find_folders("c", "/opt/d", environ) == Folders(str(tmp_path / "c"), "/opt/d")


def test_a_tilde_is_the_home_folder_where_no_shell_has_said_so(tmp_path, monkeypatch):
    """`--data-dir=~/d` made a folder that is called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folders("~/c", None, {"EXEIO_DATA_DIR": "~"}) == Folders(f"{tmp_path}/c", str(tmp_path))
    (tmp_path / "key").write_text(LONG)
    key = find_key(None, "~/key", Folders("/c", "/d"), {})
    assert key is not None and (key.value, key.path) == (LONG, f"{tmp_path}/key")
    found = serve_options(["--unix-socket=~/s", "--tls-cert=~/cert", "--tls-key=~/key"], {})
    assert (found.unix_socket, found.tls_cert) == (f"{tmp_path}/s", f"{tmp_path}/cert")
    assert found.tls_key == f"{tmp_path}/key"


def test_a_relative_or_empty_xdg_variable_is_ignored():
    environ = {"HOME": "/home/me", "XDG_CONFIG_HOME": "relative", "XDG_DATA_HOME": ""}
    assert find_folders(None, None, environ) == find_folders(None, None, {"HOME": "/home/me"})


def test_without_home_the_account_knows():
    home = pwd.getpwuid(os.getuid()).pw_dir
    for environ in ({}, {"HOME": ""}, {"HOME": "relative"}):
        assert find_folders(None, None, environ).config_dir == home + "/.config/exeio"


def test_an_account_without_a_home_folder_is_told_what_to_do(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(StartupError, match="--config-dir and --data-dir"):
        find_folders(None, None, {})
    assert find_folders("/c", "/d", {}) == Folders("/c", "/d")


def test_new_folders_are_private_and_quiet_whatever_the_umask(tmp_path):
    folders = Folders(str(tmp_path / "a" / "config"), str(tmp_path / "b" / "data"))
    old = os.umask(0o700)
    try:
        assert folders.create() == []
    finally:
        os.umask(old)
    for folder in (folders.config_dir, folders.data_dir, folders.logs_dir, str(tmp_path / "a")):
        assert mode(folder) == 0o700
    assert folders.create() == []


def test_an_existing_folder_keeps_its_mode_and_an_open_one_is_warned_of(tmp_path):
    folders = Folders(str(tmp_path), str(tmp_path))
    os.chmod(tmp_path, 0o755)
    assert folders.create() == []
    os.chmod(tmp_path, 0o777)
    (warning,) = folders.create()
    assert f"chmod go-w {tmp_path}" in warning
    assert mode(tmp_path) == 0o777


def test_a_folder_that_cannot_be_made_names_its_option(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="cannot make the folder .*Not a directory.*--config-dir"):
        Folders(str(tmp_path / "file" / "c"), str(tmp_path / "d")).create()
    with pytest.raises(StartupError, match="cannot make the folder .*Not a directory.*--data-dir"):
        Folders(str(tmp_path / "c"), str(tmp_path / "file")).create()


# The key


def test_the_sources_in_their_order(folders, tmp_path):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "exeio-api-key").write_text("from-credential\n")
    key_file = tmp_path / "key"
    key_file.write_text("from-option-file\n")
    with open(folders.key_file, "w") as file:
        file.write("from-config\r\n")
    environ = {"EXEIO_API_KEY": "from-variable", "CREDENTIALS_DIRECTORY": str(credentials)}

    assert find_key("from-option", str(key_file), folders, environ).value == "from-option"
    assert find_key(None, str(key_file), folders, environ).value == "from-option-file"
    assert find_key(None, None, folders, environ).value == "from-variable"
    environ["EXEIO_API_KEY"] = ""
    assert find_key(None, None, folders, environ).value == "from-credential"
    (credentials / "exeio-api-key").unlink()
    found = find_key(None, None, folders, environ)
    assert (found.value, found.path) == ("from-config", folders.key_file)
    os.unlink(folders.key_file)
    assert find_key(None, None, folders, environ) is None


def test_a_key_is_made_once_and_kept_privately(folders):
    first = server_key(ServeOptions(), folders, {})
    assert first.generated and first.path == folders.key_file
    assert first.value.startswith("exeio_") and len(first.value) >= 40
    assert mode(folders.key_file) == 0o600
    again = server_key(ServeOptions(), folders, {})
    assert again.value == first.value and not again.generated
    assert first.warnings() == again.warnings() == []


def test_a_given_key_is_written_nowhere(folders):
    server_key(ServeOptions(api_key=LONG), folders, {})
    assert not os.path.exists(folders.key_file)


@pytest.mark.parametrize("options", [ServeOptions(), ServeOptions(api_key=LONG), ServeOptions(api_key="ä")])
def test_the_variable_is_taken_out_of_the_environment(folders, options):
    environ = {"EXEIO_API_KEY": LONG}
    try:
        assert server_key(options, folders, environ).value == LONG
    except StartupError:
        assert options.api_key == "ä"
    assert environ == {}


@pytest.mark.parametrize("text", ["", " \n", "a\nb", "a\0b", "schlüssel", "a\tb", "\x7f", "x" * 1025])
def test_what_cannot_be_a_key(folders, tmp_path, text):
    file = tmp_path / "key"
    file.write_bytes(text.encode())
    for call in (
        lambda: check_key(text, "the key"),
        lambda: find_key(text, None, folders, {}),
        lambda: find_key(None, str(file), folders, {}),
    ):
        with pytest.raises(Invalid) as refused:
            call()
        assert refused.value.message.startswith("the key")
        assert "\n" not in refused.value.message
        assert not text.strip() or text not in refused.value.message, "a message never shows a key"


def test_a_key_file_loses_only_the_white_space_around_the_key(folders, tmp_path):
    file = tmp_path / "key"
    file.write_text(" two words \r\n")
    assert find_key(None, str(file), folders, {}).value == "two words"


def test_a_key_file_that_cannot_be_read_is_named(folders, tmp_path):
    with pytest.raises(Failed, match=f"{tmp_path}/missing: No such file"):
        find_key(None, str(tmp_path / "missing"), folders, {})
    os.symlink(str(tmp_path / "nowhere"), folders.key_file)
    with pytest.raises(ExeioError, match="api-key: No such file"):
        find_key(None, None, folders, {})
    with pytest.raises(StartupError, match="api-key: No such file"):
        server_key(ServeOptions(), folders, {})
    assert not os.path.exists(tmp_path / "nowhere"), "an unreadable key is never replaced by a new one"


def test_the_warnings(folders, tmp_path):
    assert ["ps" in each for each in find_key(LONG, None, folders, {}).warnings()] == [True]
    short, visible = sorted(find_key("short", None, folders, {}).warnings(), key=lambda text: "`ps`" in text)
    assert "5 characters" in short and "EXEIO_API_KEY" in visible and "--api-key-file" in visible
    assert "short" not in short + visible
    assert find_key(None, None, folders, {"EXEIO_API_KEY": LONG}).warnings() == []
    file = tmp_path / "key"
    file.write_text(LONG)
    file.chmod(0o644)
    (open_to_others,) = find_key(None, str(file), folders, {}).warnings()
    assert f"chmod 600 {file}" in open_to_others
    file.chmod(0o600)
    assert find_key(None, str(file), folders, {}).warnings() == []
