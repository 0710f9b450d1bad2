"""Reads pm2's ecosystem file in JSON, for `exeio import`.

Its keys: https://pm2.keymetrics.io/docs/usage/application-declaration/
"""

from __future__ import annotations

import json
import os
import re
import shlex
from typing import Dict, List, Optional, Tuple

from exeio_core.errors import Invalid
from exeio_core.import_plan import Plan, folder_of, read_text

_INTERPRETERS = {".js": "node", ".cjs": "node", ".mjs": "node", ".ts": "bun", ".py": "python3", ".rb": "ruby",
                 ".sh": "bash", ".pl": "perl", ".php": "php", ".coffee": "coffee"}
_UNITS = {"": 0.001, "ms": 0.001, "s": 1, "m": 60, "h": 3600}

_OWN_LOG = "exeio keeps its own log of each process, logs/<id>.log in the data folder"
_OTHERS = {
    "cron_restart": "exeio has no cron expressions; a periodic process has period_seconds",
    "cron": "exeio has no cron expressions; a periodic process has period_seconds",
    "watch": "exeio does not watch files", "ignore_watch": "exeio does not watch files",
    "watch_delay": "exeio does not watch files", "watch_options": "exeio does not watch files",
    "max_memory_restart": "exeio does not restart for memory",
    "out_file": _OWN_LOG, "output": _OWN_LOG, "out": _OWN_LOG, "error_file": _OWN_LOG, "error": _OWN_LOG,
    "err_file": _OWN_LOG, "err": _OWN_LOG, "log_file": _OWN_LOG, "log": _OWN_LOG, "logs": _OWN_LOG,
    "combine_logs": _OWN_LOG, "merge_logs": _OWN_LOG, "disable_logs": "exeio always keeps a log",
    "log_date_format": "lines of a log begin with the time in UTC", "time": "lines of a log begin with the time in UTC",
    "log_type": "exeio's logs are text",
    "pid_file": "the pid is in `list --json`", "pid": "the pid is in `list --json`",
    "wait_ready": "exeio does not wait for a message; wait_seconds of /add waits for some seconds",
    "listen_timeout": "exeio does not wait for a message", "shutdown_with_message": "exeio stops with a signal",
    "source_map_support": "of Node alone; give it in interpreter_args",
    "filter_env": "clear_env leaves only PATH and the like", "namespace": "exeio has no namespaces; name ids alike",
    "increment_var": "give each instance an id and an env of its own", "exec_mode": "",
}


def read(path: str) -> Plan:
    """Plan what the file defines. Raises Invalid, Failed."""
    plan = Plan("pm2")
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise Invalid(f"{path} is not JSON: {error}; a module is turned into it by: node -p "
                      f"'JSON.stringify(require(\"./ecosystem.config.js\"))' > ecosystem.json") from None
    except RecursionError:
        raise Invalid(f"{path} is nested too deeply") from None
    apps: object = content
    if isinstance(content, dict):
        apps = content.get("apps", content.get("pm2", [content] if "script" in content else None))
        for key in content if "script" not in content else ():
            if key not in ("apps", "pm2"):
                plan.note("the file", key, "exeio has nothing like it")
    if isinstance(apps, dict):
        apps = [apps]
    if not isinstance(apps, list):
        raise Invalid(f"{path} has no list `apps`, as an ecosystem file of pm2 has")
    for number, app in enumerate(apps):
        if not isinstance(app, dict):
            raise Invalid(f"{path}: apps[{number}] must be an object")
        _App(app, number, folder_of(path), plan).plan_it()
    return plan


class _App:
    def __init__(self, app: Dict[str, object], number: int, here: str, plan: Plan) -> None:
        self.app = app
        self.plan = plan
        self.used = {"name", "script", "args"}
        script = app.get("script")
        if not isinstance(script, str) or not script:
            raise Invalid(f"apps[{number}] has no script")
        self.script: str = script
        base = os.path.splitext(os.path.basename(script.split()[0]))[0]
        self.name = str(app.get("name") or base)
        self.where = f"app {self.name}"
        self.folder = os.path.join(here, self._text("cwd") or "")

    def plan_it(self) -> None:
        fields: Dict[str, object] = {**self._command(), "working_dir": os.path.normpath(self.folder)}
        fields.update(self._life())
        env = self._env("env")
        if env:
            fields["env"] = env
        for key, names in (("user", ("user", "uid")), ("group", ("group", "gid"))):
            for name in names:
                if self._take(name) is not None:
                    fields[key] = str(self.app[name])
        count = self._instances()
        for key in self.app:
            if key.startswith("env_"):
                self.plan.note(self.where, key, f"only env is taken; `update {self.name} --env` adds to it")
            elif key not in self.used:
                self.plan.note(self.where, key, _OTHERS.get(key) or "exeio has nothing like it")
        for number in range(count):
            one = fields if count == 1 else {**fields, "env": {**env, "NODE_APP_INSTANCE": str(number)}}
            self.plan.add(self.where, self.name if count == 1 else f"{self.name}-{number}", one)

    def _take(self, key: str) -> object:
        self.used.add(key)
        return self.app.get(key)

    def _text(self, key: str) -> Optional[str]:
        value = self._take(key)
        if value is not None and not isinstance(value, str):
            raise Invalid(f"{self.where}: {key} must be a text")
        return value

    def _words(self, key: str) -> List[str]:
        value = self._take(key)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(word, (str, int, float)) for word in value):
            return [str(word) for word in value]
        if isinstance(value, str):
            try:
                return shlex.split(value)
            except ValueError as error:
                raise Invalid(f"{self.where}: {key}: {error}") from None
        raise Invalid(f"{self.where}: {key} must be a text or a list of texts")

    def _command(self) -> Dict[str, object]:
        script, args = self.script, self._words("args")
        if " " in script and not os.path.exists(os.path.join(self.folder, script)):
            script, *first = shlex.split(script)
            args = [*first, *args]
        extension = os.path.splitext(script)[1].lower()
        before: List[str] = []
        for key in ("interpreter_args", "node_args", "exec_interpreter_args"):
            before += self._words(key)
        interpreter = self._text("interpreter") or self._text("exec_interpreter")
        if interpreter is None:
            interpreter = _INTERPRETERS.get(extension, "none")
        file = os.path.normpath(os.path.join(self.folder, script))
        # A word without a slash that is no file is a program of PATH, such as npm.
        known = "/" in script or extension in _INTERPRETERS or os.path.exists(file)
        program = file if known else script
        if interpreter == "none":
            return {"command": program, "args": args}
        return {"command": interpreter, "args": [*before, program, *args]}

    def _life(self) -> Dict[str, object]:
        fields: Dict[str, object] = {"auto_restart": self._take("autorestart") is not False}
        codes = self._take("stop_exit_codes")
        if codes is not None:
            fields["restart_policy"] = "on-failure"
            fields["success_exit_codes"] = codes if isinstance(codes, list) else [codes]
        if fields["auto_restart"]:
            count = self._take("max_restarts")
            fields["max_restarts"] = 16 if count is None else count  # pm2's default
            fields["min_uptime_seconds"] = self._seconds("min_uptime", 1.0)
        else:
            for key in ("max_restarts", "min_uptime"):
                self._take(key)
        delay = self._seconds("restart_delay", 0.0) or self._seconds("exp_backoff_restart_delay", 0.0)
        self._take("exp_backoff_restart_delay")
        if delay:
            fields["restart_delay_seconds"] = delay
        fields["stop_signal"] = "INT"  # what pm2 sends first
        fields["stop_timeout_seconds"] = self._seconds("kill_timeout", 1.6)
        if self._take("treekill") is False:
            fields["kill_mode"] = "process"
        return fields

    def _seconds(self, key: str, default: float) -> float:
        """Seconds of pm2's times: milliseconds, or a text with a unit."""
        value = self._take(key)
        if value is None:
            return default
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|)", str(value).strip())
        if found is None or isinstance(value, bool):
            raise Invalid(f"{self.where}: {key} must be milliseconds, or a text such as \"10s\", not {value!r}")
        return round(float(found[1]) * _UNITS[found[2]], 3)

    def _env(self, key: str) -> Dict[str, str]:
        value = self._take(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Invalid(f"{self.where}: {key} must be an object")
        return {str(name): _plain(one) for name, one in value.items()}

    def _instances(self) -> int:
        value = self._take("instances")
        mode = self._take("exec_mode")
        if mode in ("cluster", "cluster_mode"):
            self.plan.note(self.where, "exec_mode", "exeio has no cluster: instances cannot share a port unless they "
                                                    "ask for it themselves (reusePort)")
        count, told = _count(value)
        if told:
            self.plan.note(self.where, "instances", told)
        if count < 1 or count > 1000:
            raise Invalid(f"{self.where}: instances must be a number from 1 to 1000 or \"max\", not {value!r}")
        return count


def _count(value: object) -> Tuple[int, str]:
    if value is None:
        return 1, ""
    cores = os.cpu_count() or 1
    if value in ("max", 0, "0"):
        return cores, f"taken as {cores}, the cores of this machine"
    text = str(value)
    if re.fullmatch("-?[0-9]{1,4}", text):
        number = int(text)
        return (number, "") if number > 0 else (max(1, cores + number), f"taken as {max(1, cores + number)}")
    return 0, ""


def _plain(value: object) -> str:
    """A value of env as pm2 puts it into the environment."""
    return value if isinstance(value, str) else json.dumps(value)
