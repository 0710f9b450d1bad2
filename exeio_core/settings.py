"""What exeio was told at its start: options, folders and the API key, and where each of them came from."""

from __future__ import annotations

import os
from typing import List, Mapping, MutableMapping, NamedTuple, Optional, Tuple

from exeio_core.errors import ExeioError, Failed, Invalid, StartupError
from exeio_core.files import make_private_folder, whole_path, write_atomic

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
DEFAULT_LOG_MAX_BYTES = 50 * 1024 * 1024
DEFAULT_LOG_BACKUPS = 10
DEFAULT_STOP_TIMEOUT = 10.0

KEY_VARIABLE = "EXEIO_API_KEY"
READ_ONLY_KEY_VARIABLE = "EXEIO_READ_ONLY_KEY"
KEY_FILE_VARIABLE = "EXEIO_API_KEY_FILE"
KEY_CREDENTIAL = "exeio-api-key"
_SHORT_KEY = 16
# Options that show a key to `ps`: how they are written, and what is better.
_ON_COMMAND_LINE = {
    "--api-key": ("-k/--api-key", f"--api-key-file FILE or the variable {KEY_VARIABLE}"),
    "--read-only-key": ("--read-only-key", "--read-only-key-file FILE"),
}
_LONGEST_KEY = 1024


class ServeOptions(NamedTuple):
    """The options of `serve`, checked one by one; None where there is no answer yet."""

    host: str = DEFAULT_HOST
    port: Optional[int] = DEFAULT_PORT  # None: no TCP, the Unix socket alone
    api_key: Optional[str] = None
    api_key_file: Optional[str] = None
    config_dir: Optional[str] = None
    data_dir: Optional[str] = None
    echo: Optional[bool] = None  # None: if stdout is a terminal
    log_max_bytes: int = DEFAULT_LOG_MAX_BYTES  # 0: never rotate
    log_backups: int = DEFAULT_LOG_BACKUPS
    stop_timeout: float = DEFAULT_STOP_TIMEOUT  # seconds
    read_only_key: Optional[str] = None
    read_only_key_file: Optional[str] = None
    tls_cert: Optional[str] = None
    tls_key: Optional[str] = None  # None: in the same file
    unix_socket: Optional[str] = None
    on_event: Optional[str] = None  # a command line
    echo_raw: bool = False  # without `[id]`
    daemon: bool = False
    exit_with: Optional[str] = None  # id of the process whose end is exeio's own


class Folders(NamedTuple):
    """The two folders of exeio, absolute, and the files that live in them."""

    config_dir: str
    data_dir: str

    @property
    def processes_file(self) -> str:
        return os.path.join(self.config_dir, "processes.json")

    @property
    def key_file(self) -> str:
        return os.path.join(self.config_dir, "api-key")

    @property
    def logs_dir(self) -> str:
        return os.path.join(self.data_dir, "logs")

    @property
    def system_log(self) -> str:
        return os.path.join(self.logs_dir, "exeio.log")

    @property
    def runs_file(self) -> str:
        return os.path.join(self.data_dir, "runs.jsonl")

    def create(self) -> List[str]:
        """Make what is missing, mode 0700; returns warnings about what is there. Raises StartupError."""
        warnings: List[str] = []
        for folder, option in (
            (self.data_dir, "--data-dir"),
            (self.config_dir, "--config-dir"),
            (self.logs_dir, "--data-dir"),
        ):
            try:
                warnings += make_private_folder(folder)
            except OSError as error:
                raise StartupError(
                    f"cannot make the folder {folder}: {error.strerror}; choose another one with {option}"
                ) from None
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise StartupError(
                    f"cannot write to the folder {folder}: Permission denied; correct its owner or mode, or "
                    f"choose another one with {option}"
                )
        return list(dict.fromkeys(warnings))


def find_folders(config_dir: Optional[str], data_dir: Optional[str], environ: Mapping[str, str]) -> Folders:
    """The folders of this account: option, EXEIO_CONFIG_DIR and EXEIO_DATA_DIR, XDG, home, in that order.

    A relative XDG variable is ignored, as the XDG Base Directory specification wants. Raises StartupError if
    there is no home folder to fall back to, Failed for a relative folder where the current one was deleted.
    """
    return Folders(
        config_dir=_find_folder(config_dir, "EXEIO_CONFIG_DIR", "XDG_CONFIG_HOME", ".config", environ),
        data_dir=_find_folder(data_dir, "EXEIO_DATA_DIR", "XDG_DATA_HOME", ".local/share", environ),
    )


def _find_folder(option: Optional[str], own: str, xdg: str, fallback: str, environ: Mapping[str, str]) -> str:
    chosen = option or environ.get(own)
    if chosen:
        # ~ is for those whom no shell has helped: `--data-dir=~/exeio`, a variable of a systemd unit.
        return whole_path(os.path.expanduser(chosen))
    base = environ.get(xdg, "")
    if not os.path.isabs(base):
        base = os.path.join(_home(environ), fallback)
    return os.path.join(base, "exeio")


def _home(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    if os.path.isabs(home):
        return home
    import pwd  # only where HOME is missing

    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = ""
    if not os.path.isabs(home):
        raise StartupError("this account has no home folder; set HOME, or give --config-dir and --data-dir")
    return home


class ApiKey(NamedTuple):
    """The key and where it came from."""

    value: str
    source: str  # for people: "--api-key", "the file /etc/exeio.key", …
    path: Optional[str] = None  # the file that holds it, if it is one
    generated: bool = False  # made just now
    read_only: bool = False

    def warnings(self) -> List[str]:
        """One sentence for each weakness an administrator should know of."""
        found = []
        if self.source in _ON_COMMAND_LINE:
            option, better = _ON_COMMAND_LINE[self.source]
            found.append(
                f"the key given with {option} is visible to every user of this machine in `ps`; better use {better}"
            )
        if len(self.value) < _SHORT_KEY:
            which = "read-only key" if self.read_only else "key"
            found.append(
                f"the {which} has only {len(self.value)} characters and may be guessed; use {_SHORT_KEY} or "
                "more, for example from `openssl rand -hex 32`"
            )
        if self.path is not None and not self.generated and _others_may_read(self.path):
            found.append(
                f"other users can read the key in {self.path}; close it with: chmod 600 {self.path}"
            )
        return found


def _others_may_read(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o044)
    except OSError:
        return False


def find_key(
    option: Optional[str], option_file: Optional[str], folders: Folders, environ: Mapping[str, str]
) -> Optional[ApiKey]:
    """The key from the first source that has one, in the order of the contract; None if none has.

    Raises Invalid for a key that is no key, Failed for a file that cannot be read.
    """
    if option is not None:
        return ApiKey(check_key(option, "the key given with --api-key"), "--api-key")
    if option_file is None:
        option_file = environ.get(KEY_FILE_VARIABLE) or None
    if option_file is not None:
        return _key_from_file(option_file)
    value = environ.get(KEY_VARIABLE)
    if value:
        source = f"the variable {KEY_VARIABLE}"
        return ApiKey(check_key(value, f"the key in {source}"), source)
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials:
        path = os.path.join(credentials, KEY_CREDENTIAL)
        if os.path.lexists(path):
            return _key_from_file(path)
    if os.path.lexists(folders.key_file):
        return _key_from_file(folders.key_file)
    return None


def server_key(options: ServeOptions, folders: Folders, environ: MutableMapping[str, str]) -> ApiKey:
    """The key to serve with: found, or made and kept in the config folder, so that it survives restarts.

    The variable EXEIO_API_KEY is taken out of `environ`, so that no child inherits it. Raises StartupError.
    """
    try:
        key = find_key(options.api_key, options.api_key_file, folders, environ)
    except ExeioError as error:
        raise StartupError(error.message) from None
    finally:
        environ.pop(KEY_VARIABLE, None)
    if key is not None:
        return key
    import secrets  # only at the very first start

    value = "exeio_" + secrets.token_urlsafe(32)
    try:
        write_atomic(folders.key_file, value.encode("ascii") + b"\n")
    except OSError as error:
        raise StartupError(
            f"cannot keep a new key in {folders.key_file}: {error.strerror}; make the folder writable or "
            "give a key with --api-key-file"
        ) from None
    return ApiKey(value, "the file " + folders.key_file, folders.key_file, generated=True)


def read_only_key(options: ServeOptions, key: ApiKey, environ: MutableMapping[str, str]) -> Optional[ApiKey]:
    """The key that may only read, if there is to be one beside `key`: option, file, or the variable.

    The variable EXEIO_READ_ONLY_KEY is taken out of `environ`. Raises StartupError.
    """
    found: Optional[ApiKey] = None
    variable = environ.pop(READ_ONLY_KEY_VARIABLE, "")
    try:
        if options.read_only_key is not None:
            value = check_key(options.read_only_key, "the key given with --read-only-key")
            found = ApiKey(value, "--read-only-key", read_only=True)
        elif options.read_only_key_file is not None:
            found = _key_from_file(options.read_only_key_file)._replace(read_only=True)
        elif variable:
            source = f"the variable {READ_ONLY_KEY_VARIABLE}"
            found = ApiKey(check_key(variable, f"the key in {source}"), source, read_only=True)
        if found is not None:
            _check_differ(key, found)
    except ExeioError as error:
        raise StartupError(error.message) from None
    return found


def read_again(key: ApiKey, read_only: Optional[ApiKey]) -> Tuple[ApiKey, Optional[ApiKey]]:
    """The keys as their files have them now; one from elsewhere as it was. Raises Invalid, Failed."""
    if key.path is not None:
        key = _key_from_file(key.path)._replace(generated=key.generated)  # equal where the file is as it was
    if read_only is not None:
        if read_only.path is not None:
            read_only = _key_from_file(read_only.path)._replace(read_only=True)
        _check_differ(key, read_only)
    return key, read_only


def _check_differ(key: ApiKey, read_only: ApiKey) -> None:
    if read_only.value == key.value:
        raise Invalid(
            "the read-only key is the same as the key that may do everything; make another one, for example with "
            "`openssl rand -hex 32`"
        )


def _key_from_file(path: str) -> ApiKey:
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_LONGEST_KEY + 1024)
    except OSError as error:
        raise Failed(f"cannot read the key file {path}: {error.strerror}") from None
    text = data.decode("latin-1")  # any byte that is no key is then refused by its character
    return ApiKey(check_key(text, f"the key in the file {path}"), f"the file {path}", path)


def check_key(text: str, what: str) -> str:
    """The key in `text` without surrounding white space; `what` names it in the message of Invalid.

    It has to fit into a header field: printable ASCII (RFC 9110, field-value).
    """
    key = text.strip(" \t\r\n")
    if not key:
        raise Invalid(f"{what} is empty; put a key there or leave it out")
    if len(key) > _LONGEST_KEY:
        raise Invalid(f"{what} is longer than {_LONGEST_KEY} characters")
    for position, character in enumerate(key, 1):
        if not " " <= character <= "~":
            raise Invalid(
                f"{what} holds a character that cannot be sent in a header (the {position}. of it); use "
                "printable ASCII on one line"
            )
    return key
