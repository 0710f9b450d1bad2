"""Reads supervisord.conf as supervisord 4 does (http://supervisord.org/configuration.html), for `exeio import`."""

from __future__ import annotations

import configparser
import glob
import os
import platform
import shlex
from typing import Callable, Dict, List, Mapping, Tuple

from exeio_core.errors import Invalid
from exeio_core.import_plan import Plan, folder_of, read_text

_TRUE, _FALSE = ("yes", "true", "on", "1"), ("no", "false", "off", "0")
_HERE = "%(here)s"

# Keys of a program that exeio has nothing for: the value that means nothing, and why another cannot be mapped.
_OTHERS: Dict[str, Tuple[Tuple[str, ...], str]] = {
    "priority": ((), "exeio starts and stops all processes at once"),
    "stdout_logfile": (("auto",), "exeio keeps its own log of each process, logs/<id>.log in the data folder"),
    "stderr_logfile": (("auto", "none"), "the one log of a process has both, STDOUT and STDERR"),
    "stderr_logfile_maxbytes": ((), "the one log of a process has both; stdout_logfile_maxbytes counts"),
    "stderr_logfile_backups": ((), "the one log of a process has both; stdout_logfile_backups counts"),
    "stdout_capture_maxbytes": (("0",), "exeio has no capture mode"),
    "stderr_capture_maxbytes": (("0",), "exeio has no capture mode"),
    "stdout_events_enabled": (_FALSE, "exeio has no events of output; GET /logs/<id>?follow=true has the lines"),
    "stderr_events_enabled": (_FALSE, "exeio has no events of output; GET /logs/<id>?follow=true has the lines"),
    "stdout_syslog": (_FALSE, "exeio does not write to syslog"),
    "stderr_syslog": (_FALSE, "exeio does not write to syslog"),
    "serverurl": (("auto",), "SUPERVISOR_SERVER_URL is not there: what calls supervisord has to be changed"),
}
_MAPPED = frozenset((
    "command", "process_name", "numprocs", "numprocs_start", "directory", "umask", "autostart", "startsecs",
    "startretries", "autorestart", "exitcodes", "stopsignal", "stopwaitsecs", "stopasgroup", "killasgroup", "user",
    "redirect_stderr", "stdout_logfile_maxbytes", "stdout_logfile_backups", "environment",
))

# Whole sections that are about supervisord itself.
_SECTIONS = {
    "unix_http_server": "exeio has its own API; serve --unix-socket PATH",
    "inet_http_server": "exeio has its own API; serve --host, --port and a key",
    "supervisorctl": "the client of exeio finds its supervisor by itself",
    "rpcinterface": "exeio has its own API and no others",
    "ctlplugin": "the client of exeio has no plugins",
    "eventlistener": "exeio has no event listeners; add its command as a process if it does something else as well",
    "fcgi-program": "exeio hands no FastCGI socket on; let the program make its own, and add it as a process",
}
_OF_SUPERVISORD = {
    "logfile": "exeio.log in the data folder", "logfile_maxbytes": "serve --log-max-bytes",
    "logfile_backups": "serve --log-backups", "nodaemon": "serve stays in the foreground; --daemon detaches",
    "user": "run exeio itself as that account, see install --run-as", "pidfile": "run.json in the data folder",
    "childlogdir": "logs/ in the data folder",
}


class _Parser(configparser.RawConfigParser):
    def __init__(self) -> None:
        # As supervisord has it, for which a comment begins with " ;" or " #" also behind a value.
        super().__init__(inline_comment_prefixes=(";", "#"), strict=False)


def read(path: str, environ: Mapping[str, str]) -> Plan:
    """Plan what the file, and what it includes, defines; `environ` is for %(ENV_x)s. Raises Invalid, Failed."""
    plan = Plan("supervisord")
    _File(path, environ, plan).plan_all()
    return plan


class _File:
    def __init__(self, path: str, environ: Mapping[str, str], plan: Plan) -> None:
        self.plan = plan
        self.here = folder_of(path)
        self.base: Dict[str, object] = {f"ENV_{name}": value for name, value in environ.items()}
        self.base["host_node_name"] = platform.node()
        self.parser = _Parser()
        self._read(path)
        self._include()
        self.groups: Dict[str, str] = {}

    def _read(self, path: str) -> None:
        try:
            self.parser.read_string(read_text(path), path)
        except configparser.Error as error:
            raise Invalid(" ".join(str(error).split())) from None
        # %(here)s is the folder of the file that says it, so it is put in before the next file is read.
        for section in self.parser.sections():
            for key, value in self.parser.items(section):
                if value and _HERE in value:
                    self.parser.set(section, key, value.replace(_HERE, folder_of(path)))

    def _include(self) -> None:
        if not self.parser.has_section("include"):
            return
        files = self.parser.get("include", "files", fallback="")
        if not files:
            raise Invalid("[include] has no files setting")
        for pattern in _expand(files, self.base, "[include] files").split():
            found = sorted(glob.glob(os.path.join(self.here, pattern)))
            if not found:
                self.plan.note("[include]", "files", f"there is no file {pattern!r}")
            for file in found:
                self._read(file)

    def plan_all(self) -> None:
        programs = [section for section in self.parser.sections() if section.startswith("program:")]
        defaults = self._supervisord()
        for section in self.parser.sections():
            kind, _, name = section.partition(":")
            if kind == "group":
                self._group(section, name.strip())
            elif kind in _SECTIONS:
                self.plan.note(f"[{section}]", "*", _SECTIONS[kind])
            elif kind not in ("program", "supervisord", "include"):
                self.plan.note(f"[{section}]", "*", "exeio has nothing like it")
        for section in programs:
            self._program(section, defaults)

    def _supervisord(self) -> Dict[str, object]:
        """What [supervisord] says for all programs: environment, folder, umask."""
        defaults: Dict[str, object] = {}
        if not self.parser.has_section("supervisord"):
            return defaults
        for key, text in self.parser.items("supervisord"):
            where = "[supervisord]"
            value = text if key == "environment" else _expand(text, self.base, f"{where} {key}")
            if key == "environment":
                defaults["env"] = _pairs(_expand(text, self.base, f"{where} {key}"), where)
            elif key == "directory":
                defaults["working_dir"] = os.path.join(self.here, value)
            elif key == "umask":
                defaults["umask"] = value
            else:
                self.plan.note(where, key, _OF_SUPERVISORD.get(key, "a setting of supervisord itself"))
        return defaults

    def _group(self, section: str, name: str) -> None:
        for program in self.parser.get(section, "programs", fallback="").split(","):
            if not self.parser.has_section(f"program:{program.strip()}"):
                raise Invalid(f"[{section}]: there is no [program:{program.strip()}]")
            self.groups[program.strip()] = name
        self.plan.note(f"[{section}]", "programs", "exeio has no groups; a pattern such as 'name-*' means several ids")
        for key, _ in self.parser.items(section):
            if key != "programs":
                self.plan.note(f"[{section}]", key, _OTHERS.get(key, ((), "exeio has no groups"))[1])

    def _program(self, section: str, defaults: Mapping[str, object]) -> None:
        name = section.partition(":")[2].strip()
        where = f"[{section}]"
        common = {**self.base, "program_name": name, "group_name": self.groups.get(name, name), "here": self.here}
        raw = dict(self.parser.items(section))

        def get(key: str, default: str, more: Mapping[str, object] = common) -> str:
            return _expand(raw.get(key, default), more, f"{where} {key}")

        if "command" not in raw:
            raise Invalid(f"{where} has no command")
        self._note_others(where, raw, get)
        number = _whole(where, "numprocs", get("numprocs", "1"))
        first = _whole(where, "numprocs_start", get("numprocs_start", "0"))
        process_name = raw.get("process_name", "%(program_name)s")
        if number > 1 and "%(process_num)" not in process_name:
            raise Invalid(f"{where}: process_name needs %(process_num)s in it where numprocs is more than 1")
        fields = {**defaults, **self._life(where, raw, get)}
        start = _flag(where, "autostart", get("autostart", "true"))
        for process_num in range(first, first + number):
            expansions: Dict[str, object] = {**common, "process_num": process_num, "numprocs": number}
            own = _pairs(_expand(raw.get("environment", ""), expansions, f"{where} environment"), where)
            expansions.update({f"ENV_{key}": value for key, value in own.items()})
            environment = {**_texts(defaults.get("env")), **own}
            words = _split(where, get("command", "", expansions))
            one = {**fields, "command": words[0], "args": words[1:]}
            if environment:
                one["env"] = environment
            if "directory" in raw:
                one["working_dir"] = os.path.join(self.here, get("directory", "", expansions))
            made = _expand(process_name, expansions, f"{where} process_name").strip()
            self.plan.add(where, made, one, start, f"{expansions['group_name']}.{made}")

    def _note_others(self, where: str, raw: Mapping[str, str], get: Callable[[str, str], str]) -> None:
        for key in raw:
            if key in _OTHERS:
                nothing, reason = _OTHERS[key]
                # Only the value that supervisord would take the same way as none is not worth a word.
                value = raw[key].strip().lower()
                if value not in nothing:
                    none = key == "stdout_logfile" and value in ("none", "off")
                    self.plan.note(where, key, "exeio always keeps a log" if none else reason)
            elif key not in _MAPPED:
                self.plan.note(where, key, "supervisord 4 has no such key, and exeio neither")
        if raw.get("stopasgroup", "true").lower() in _FALSE or raw.get("killasgroup", "true").lower() in _FALSE:
            self.plan.note(where, "stopasgroup, killasgroup", "exeio stops all that a process started; "
                                                              'kill_mode "process" would stop it alone')

    def _life(self, where: str, raw: Mapping[str, str], get: Callable[[str, str], str]) -> Dict[str, object]:
        """The fields about start, restart, stop, account and log."""
        fields: Dict[str, object] = {}
        restart = get("autorestart", "unexpected").lower()
        if restart not in (*_TRUE, *_FALSE, "unexpected"):
            raise Invalid(f"{where}: autorestart must be true, false or unexpected, not {restart!r}")
        fields["auto_restart"] = restart not in _FALSE
        if restart == "unexpected":
            fields["restart_policy"] = "on-failure"
        codes = [code for code in get("exitcodes", "0").split(",") if code.strip()]
        fields["success_exit_codes"] = [_whole(where, "exitcodes", code) for code in codes]
        if fields["auto_restart"]:
            fields["min_uptime_seconds"] = _whole(where, "startsecs", get("startsecs", "1"))
            retries = _whole(where, "startretries", get("startretries", "3"))
            # For exeio the restart after a good run counts as well.
            fields["max_restarts"] = max(1, retries)
            if retries < 1:
                self.plan.note(where, "startretries", "0 is taken as 1: exeio counts the restart after a good run, too")
        else:
            for key in ("startsecs", "startretries"):
                if key in raw:
                    self.plan.note(where, key, "without autorestart exeio does not try again either")
        fields["stop_signal"] = get("stopsignal", "TERM")
        if "stopwaitsecs" in raw:
            fields["stop_timeout_seconds"] = _whole(where, "stopwaitsecs", get("stopwaitsecs", "10"))
        for key in ("user", "umask"):
            if key in raw:
                fields[key] = get(key, "")
        if "stdout_logfile_maxbytes" in raw:
            size = _size(where, get("stdout_logfile_maxbytes", "50MB"))
            fields["log_max_bytes"] = size if size == 0 else max(4096, size)
            if 0 < size < 4096:
                self.plan.note(where, "stdout_logfile_maxbytes", "the least that exeio takes is 4096")
        if "stdout_logfile_backups" in raw:
            fields["log_backups"] = _whole(where, "stdout_logfile_backups", get("stdout_logfile_backups", "10"))
        return fields


def _texts(env: object) -> Dict[str, str]:
    return {str(name): str(value) for name, value in env.items()} if isinstance(env, dict) else {}


def _expand(text: str, expansions: Mapping[str, object], where: str) -> str:
    try:
        return text % expansions
    except KeyError as error:
        name = error.args[0]
        raise Invalid(f"{where}: there is no %({name})s here; %(ENV_NAME)s is a variable of the environment") from None
    except (TypeError, ValueError) as error:
        raise Invalid(f"{where}: {error}; write %% for a percent sign") from None


def _pairs(text: str, where: str) -> Dict[str, str]:
    """KEY="value",KEY2=value2 as supervisord's datatypes.dict_of_key_value_pairs reads it."""
    lexer = shlex.shlex(text)
    lexer.wordchars += "/.+-():"
    try:
        tokens: List[str] = list(lexer)
    except ValueError as error:
        raise Invalid(f"{where}: environment: {error}") from None
    found = {}
    for place in range(0, len(tokens), 4):
        pair = tokens[place : place + 3]
        if len(pair) != 3 or pair[1] != "=" or tokens[place + 3 : place + 4] not in ([], [","]):
            raise Invalid(f'{where}: environment must be NAME="value",NAME2="value2"; quote what is not a plain word')
        found[pair[0]] = pair[2].strip("'\"")
    return found


def _split(where: str, command: str) -> List[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Invalid(f"{where}: command: {error}") from None
    if not words:
        raise Invalid(f"{where}: command is empty")
    return words


def _whole(where: str, key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Invalid(f"{where}: {key} must be a whole number, not {text!r}") from None


def _flag(where: str, key: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise Invalid(f"{where}: {key} must be true or false, not {text!r}")
    return text.lower() in _TRUE


def _size(where: str, text: str) -> int:
    """Bytes of "50MB", of 1024s as supervisord has it."""
    for suffix, factor in (("KB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30)):
        if text.strip().upper().endswith(suffix):
            return _whole(where, "stdout_logfile_maxbytes", text.strip()[:-2]) * factor
    return _whole(where, "stdout_logfile_maxbytes", text)
