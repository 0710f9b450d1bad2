"""`exeio install` and `uninstall`: writes and removes what starts exeio with the machine, and says what is next."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from typing import Dict, List, NamedTuple, Optional

from exeio_core import service_texts
from exeio_core.client_options import Call
from exeio_core.client_output import print_json
from exeio_core.errors import Failed
from exeio_core.files import make_private_folder, whole_path, write_atomic
from exeio_core.options import UsageError, program, serve_options
from exeio_core.service_texts import MARK, Service

_RELATIVE = ("api_key_file", "read_only_key_file", "tls_cert", "tls_key", "unix_socket", "config_dir", "data_dir")


class _Way(NamedTuple):
    """One way to be a service: the text, where it goes, its mode, what to do then, and what after it is gone."""

    text: str
    path: str  # "" for the crontab
    mode: int
    next: List[str]
    links: str = ""  # pattern of the symbolic links that enable it
    gone: List[str] = []
    key: bool = False  # it needs the key in the file of the system's service


def run(call: Call) -> int:
    """Carry out `install` or `uninstall`; returns the exit status. Raises UsageError, Failed."""
    way = _way(call)
    if call.command.name == "uninstall":
        return _uninstall(call, way)
    if call.options.print:
        print(way.text, end="" if way.text.endswith("\n") else "\n")
        return 0
    return _install(call, way)


def own_command() -> List[str]:
    """The absolute command that starts this very program, without arguments. Raises Failed."""
    main = getattr(sys.modules["__main__"], "__file__", None) or ""
    path = os.path.abspath(main) if main else ""
    if os.path.basename(path) == "__main__.py" and not os.path.isfile(os.path.dirname(path)):
        beside = os.path.join(os.path.dirname(os.path.dirname(path)), "exeio.py")
        if not os.path.isfile(beside):
            return [_python(), "-m", "exeio_core"]
        path = beside
    elif os.path.basename(path) == "__main__.py":
        path = os.path.dirname(path)  # of a zip file, in which it lies
    if not os.path.isfile(path):
        raise Failed("it cannot be told where exeio lies; run it by its file: python3 /path/of/exeio.py install")
    return [_python(), path]


def _python() -> str:
    if not sys.executable:
        raise Failed("it cannot be told where this Python lies; run it by its path: /usr/bin/python3 exeio.py install")
    return os.path.abspath(sys.executable)


def _way(call: Call) -> _Way:
    options = call.options
    chosen = [name for name in ("system", "user", "cron", "openrc") if getattr(options, name, False)]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} are two ways; choose one")
    kind = chosen[0] if chosen else "system" if os.geteuid() == 0 else "user"
    account: Optional[str] = getattr(options, "run_as", None)
    if account is not None and kind not in ("system", "openrc"):
        raise UsageError(f"--run-as is for services of the whole machine; with --{kind} exeio runs as you")
    folders = [_folder(call.connection.config_dir, "EXEIO_CONFIG_DIR"),
               _folder(call.connection.data_dir, "EXEIO_DATA_DIR")]
    if kind in ("system", "openrc"):
        usual = service_texts.system_folders(account)
        folders = [given or one for given, one in zip(folders, usual)]
    service = Service(own_command(), _serve_words(call), account, *folders)
    return {"system": _system, "user": _user, "cron": _cron, "openrc": _openrc}[kind](call, service)


def _folder(option: Optional[str], variable: str) -> Optional[str]:
    chosen = option or os.environ.get(variable)
    return whole_path(chosen) if chosen else None


def _serve_words(call: Call) -> List[str]:
    """What stands behind `--`: options of serve, checked now and not at the next start of the machine."""
    if call.command.name == "uninstall":
        return []
    given = serve_options(call.words, {})
    if given.daemon:
        raise UsageError("leave --daemon out: a service manager wants the foreground, and the line for cron has it")
    if given.api_key is not None or given.read_only_key is not None:
        raise UsageError("a key in the command line can be read by everybody; use --api-key-file FILE")
    for name in _RELATIVE:
        path = getattr(given, name)
        if path is not None and not os.path.isabs(path):
            raise UsageError(f"--{name.replace('_', '-')} {path}: a service needs the whole path")
    return call.words


def _client(service: Service, key_file: bool, name: str = "list") -> str:
    """A command of the client as it finds that supervisor, to be run as it stands."""
    words = [*([program()] if shutil.which(program()) else map(shlex.quote, service.command)), name]
    for option, folder in (("--config-dir", service.config_dir), ("--data-dir", service.data_dir)):
        if folder is not None:
            words += [option, shlex.quote(folder)]
    return " ".join([*words, *(("--api-key-file", service_texts.KEY_FILE) if key_file else ())])


def _system(call: Call, service: Service) -> _Way:
    root: str = call.options.destdir or ""
    folder = root + "/etc/systemd/system"
    return _Way(
        service_texts.system_unit(service), folder + "/exeio.service", 0o644,
        ["systemctl daemon-reload", "systemctl enable --now exeio",
         _client(service, service.config_dir != service_texts.CONFIG_DIR)],
        folder + "/*.wants/exeio.service", ["systemctl stop exeio", "systemctl daemon-reload"], True)


def _user(call: Call, service: Service) -> _Way:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.config")
    folder = (call.options.destdir or "") + os.path.join(base, "systemd", "user")
    return _Way(
        service_texts.user_unit(service), folder + "/exeio.service", 0o644,
        ["systemctl --user daemon-reload", "systemctl --user enable --now exeio",
         "loginctl enable-linger    # so that it starts with the machine, not with your login",
         _client(service, False)],
        folder + "/*.wants/exeio.service", ["systemctl --user stop exeio", "systemctl --user daemon-reload"])


def _openrc(call: Call, service: Service) -> _Way:
    root: str = call.options.destdir or ""
    return _Way(
        service_texts.openrc_script(service), root + "/etc/init.d/exeio", 0o755,
        ["rc-update add exeio default", "rc-service exeio start", _client(service, False)],
        root + "/etc/runlevels/*/exeio", [_client(service, False, "shutdown")])


def _cron(call: Call, service: Service) -> _Way:
    if call.options.destdir:
        raise UsageError("--destdir is for files; a crontab belongs to an account")
    folders = dict.fromkeys(os.environ.get("PATH", os.defpath).split(os.pathsep))
    line = service_texts.cron_line(service, os.pathsep.join(folders))
    start = line.partition(" >/dev/null")[0].partition(" ")[2].replace("\\%", "%")
    return _Way(
        line, "", 0, [start + "    # starts it now; it prints where it listens", _client(service, False)],
        gone=[_client(service, False, "shutdown")])


def _install(call: Call, way: _Way) -> int:
    if not way.path:
        changed = _change_crontab([way.text])
        what = "the line is in your crontab" + ("" if changed else " already")
        return _tell(call, [what], way.next)
    _need_manager(way.path, call)
    before = _read(way.path)
    if before is not None and MARK not in before:
        raise Failed(f"{way.path} is there, and exeio did not write it; move it away, or use --print")
    done = [f"{way.path} is as it should be"]
    try:
        if before != way.text:
            os.makedirs(os.path.dirname(way.path), exist_ok=True)
            write_atomic(way.path, way.text.encode("utf-8"), way.mode)
            done = [f"{way.path} was {'written' if before is None else 'replaced'}"]
        done += _key(call) if way.key else []
    except OSError as error:
        raise Failed(f"cannot write {error.filename or way.path}: {error.strerror}"
                     + ("; run it as root, or use --user or --cron" if os.geteuid() else "")) from None
    return _tell(call, done, way.next)


def _key(call: Call) -> List[str]:
    """Make the key that the unit hands on as a credential: without the file systemd would not start it."""
    path = (call.options.destdir or "") + service_texts.KEY_FILE
    if os.path.lexists(path):
        return [f"the key in {path} stays"]
    make_private_folder(os.path.dirname(path))
    write_atomic(path, b"exeio_" + secrets.token_urlsafe(32).encode("ascii") + b"\n")
    return [f"{path} was written: a new key"]


def _uninstall(call: Call, way: _Way) -> int:
    if not way.path:
        return _tell(call, *((["the line is out of your crontab"], way.gone) if _change_crontab([]) else
                             (["there is no line of exeio in your crontab"], [])))
    before = _read(way.path)
    if before is None:
        return _tell(call, [f"{way.path} is not there"], [])
    if MARK not in before:
        raise Failed(f"{way.path} was not written by exeio; it stays")
    try:
        os.unlink(way.path)
        for link in glob.glob(glob.escape(call.options.destdir or "") + way.links[len(call.options.destdir or ""):]):
            if os.path.islink(link):
                os.unlink(link)
    except OSError as error:
        raise Failed(f"cannot remove {error.filename}: {error.strerror}") from None
    return _tell(call, [f"{way.path} was removed; processes.json, logs and key stay"], way.gone)


def _tell(call: Call, done: List[str], then: List[str]) -> int:
    if call.json:
        answer: Dict[str, object] = {"success": True, "message": "; ".join(done), "next": then}
        print_json(answer)
        return 0
    print("\n".join(line[0].upper() + line[1:] for line in done))
    if then:
        print("Next:\n" + "\n".join(f"  {line}" for line in then))
    return 0


def _need_manager(path: str, call: Call) -> None:
    """Refuse to write for a service manager that this machine does not have; into --destdir anything goes."""
    if call.options.destdir:
        return
    if "systemd" in path and shutil.which("systemctl") is None:
        raise Failed("this machine has no systemd (there is no systemctl); use --cron, --openrc or serve --daemon")
    if "init.d" in path and shutil.which("openrc-run") is None and not os.path.exists("/sbin/openrc-run"):
        raise Failed("this machine has no OpenRC (there is no openrc-run); use --cron or serve --daemon")


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}") from None


def _change_crontab(lines: List[str]) -> bool:
    """Let the account's crontab have these lines of exeio and no others; returns whether that was a change."""
    crontab = shutil.which("crontab")
    if crontab is None:
        raise Failed("this machine has no crontab command; install cron, or use --user, --openrc or serve --daemon")
    shown = _crontab([crontab, "-l"], None)
    if shown.returncode:
        said = shown.stderr.decode("utf-8", "replace").strip()
        if "no crontab" not in said and "No such file" not in said:
            raise Failed(f"crontab -l failed: {said or shown.returncode}")
    before = shown.stdout if not shown.returncode else b""
    mark = f"# {MARK}".encode()
    after = b""
    for line in before.splitlines(True):
        if not line.rstrip().endswith(mark):
            after += line
        elif lines:
            after += lines.pop(0).encode("utf-8") + b"\n"  # in its place
    for added in lines:
        after += (b"" if not after or after.endswith(b"\n") else b"\n") + added.encode("utf-8") + b"\n"
    if after == before:
        return False
    written = _crontab([crontab, "-"], after)
    if written.returncode:
        raise Failed(f"crontab refused it: {written.stderr.decode('utf-8', 'replace').strip() or written.returncode}")
    return True


def _crontab(command: List[str], text: Optional[bytes]) -> subprocess.CompletedProcess[bytes]:
    with contextlib.suppress(OSError):
        return subprocess.run(
            command, input=text if text is not None else b"", capture_output=True, check=False, timeout=30,
            env={**os.environ, "LC_ALL": "C"})
    raise Failed(f"{command[0]} cannot be run")
