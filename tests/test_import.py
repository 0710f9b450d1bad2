"""`import`: the files of supervisord, foreman and pm2, among them their own samples and examples of their manuals."""

import json
import os
import platform

import pytest
from support import run_exeio

from exeio_core import import_pm2, import_procfile, import_supervisord
from exeio_core.errors import ExeioError

# What `echo_supervisord_conf` of supervisor 4.2.5 prints, without its comments; then what it has as comments.
SAMPLE = """\
[unix_http_server]
file=/tmp/supervisor.sock   ; the path to the socket file
;chmod=0700                 ; socket file mode (default 0700)

[supervisord]
logfile=/tmp/supervisord.log ; main log file; default $CWD/supervisord.log
logfile_maxbytes=50MB        ; max main logfile bytes b4 rotation; default 50MB
logfile_backups=10           ; # of main logfile backups; 0 means none, default 10
loglevel=info                ; log level; default info; others: debug,warn,trace
pidfile=/tmp/supervisord.pid ; supervisord pidfile; default supervisord.pid
nodaemon=false               ; start in foreground if true; default false
silent=false                 ; no logs to stdout if true; default false
minfds=1024                  ; min. avail startup file descriptors; default 1024
minprocs=200                 ; min. avail process descriptors;default 200

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix:///tmp/supervisor.sock ; use a unix:// URL  for a unix socket
"""
SAMPLE_PROGRAM = """\
[program:theprogramname]
command=/bin/cat              ; the program (relative uses PATH, can take args)
process_name=%(program_name)s ; process_name expr (default %(program_name)s)
numprocs=1                    ; number of processes copies to start (def 1)
directory=/tmp                ; directory to cwd to before exec (def no cwd)
umask=022                     ; umask for process (default None)
priority=999                  ; the relative start priority (default 999)
autostart=true                ; start at supervisord start (default: true)
startsecs=1                   ; # of secs prog must stay up to be running (def. 1)
startretries=3                ; max # of serial start failures when starting (default 3)
autorestart=unexpected        ; when to restart if exited after running (def: unexpected)
exitcodes=0                   ; 'expected' exit codes used with autorestart (default 0)
stopsignal=QUIT               ; signal used to kill process (default TERM)
stopwaitsecs=10               ; max num secs to wait b4 SIGKILL (default 10)
stopasgroup=false             ; send stop signal to the UNIX process group (default false)
killasgroup=false             ; SIGKILL the UNIX process group (def false)
user=chrism                   ; setuid to this UNIX account to run the program
redirect_stderr=true          ; redirect proc stderr to stdout (default false)
stdout_logfile=/a/path        ; stdout log path, NONE for none; default AUTO
stdout_logfile_maxbytes=1MB   ; max # logfile bytes b4 rotation (default 50MB)
stdout_logfile_backups=10     ; # of stdout logfile backups (0 means none, default 10)
stdout_capture_maxbytes=1MB   ; number of bytes in 'capturemode' (default 0)
stdout_events_enabled=false   ; emit events on stdout writes (default false)
stdout_syslog=false           ; send stdout to syslog with process name (default false)
stderr_logfile=/a/path        ; stderr log path, NONE for none; default AUTO
stderr_logfile_maxbytes=1MB   ; max # logfile bytes b4 rotation (default 50MB)
stderr_logfile_backups=10     ; # of stderr logfile backups (0 means none, default 10)
stderr_capture_maxbytes=1MB   ; number of bytes in 'capturemode' (default 0)
stderr_events_enabled=false   ; emit events on stderr writes (default false)
stderr_syslog=false           ; send stderr to syslog with process name (default false)
environment=A="1",B="2"       ; process environment additions (def no adds)
serverurl=AUTO                ; override serverurl computation (childutils)

[eventlistener:theeventlistenername]
command=/bin/eventlistener    ; the program (relative uses PATH, can take args)
events=EVENT                  ; event notif. types to subscribe to (req'd)

[group:thegroupname]
programs=theprogramname       ; each refers to 'x' in [program:x] definitions
priority=999                  ; the relative start priority (default 999)
"""
DEFAULTS = {"working_dir": None, "auto_restart": True, "save_for_next_run": True, "periodic": False,
            "period_seconds": None, "restart_policy": "on-failure", "min_uptime_seconds": 1, "max_restarts": 3}


@pytest.fixture
def supervisord(tmp_path):
    def read(text, environ=None, name="supervisord.conf"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return import_supervisord.read(str(path), environ or {})
    return read


def by_id(plan):
    return {one.definition["id"]: one.definition for one in plan.processes}


def keys(plan, where):
    return {one.key for one in plan.unmapped if one.where == where}


# supervisord


def test_the_sample_as_it_is_has_no_program_and_every_setting_is_told(supervisord):
    plan = supervisord(SAMPLE)
    assert plan.processes == []
    assert keys(plan, "[supervisord]") == {
        "logfile", "logfile_maxbytes", "logfile_backups", "loglevel", "pidfile", "nodaemon", "silent", "minfds",
        "minprocs"}
    assert {one.where for one in plan.unmapped} == {
        "[supervisord]", "[unix_http_server]", "[rpcinterface:supervisor]", "[supervisorctl]"}
    assert all(one.reason for one in plan.unmapped)


def test_the_program_of_the_sample(supervisord):
    plan = supervisord(SAMPLE + SAMPLE_PROGRAM)
    assert [one.start for one in plan.processes] == [True]
    assert by_id(plan) == {"theprogramname": {
        **DEFAULTS, "id": "theprogramname", "command": "/bin/cat", "args": [], "working_dir": "/tmp", "umask": "022",
        "stop_signal": "QUIT", "stop_timeout_seconds": 10, "user": "chrism", "log_max_bytes": 1 << 20,
        "log_backups": 10, "env": {"A": "1", "B": "2"}}}
    assert keys(plan, "[program:theprogramname]") == {
        "priority", "stdout_logfile", "stdout_capture_maxbytes", "stderr_logfile", "stderr_logfile_maxbytes",
        "stderr_logfile_backups", "stderr_capture_maxbytes", "stopasgroup, killasgroup"}
    assert keys(plan, "[group:thegroupname]") == {"programs", "priority"}
    assert keys(plan, "[eventlistener:theeventlistenername]") == {"*"}


# Examples of supervisord's manual: "Subprocess Environment", "Examples of Program Configurations".
MANUAL = r"""
[program:apache2]
command=/path/to/httpd -c "ErrorLog /dev/stdout" -DFOREGROUND
redirect_stderr=true

[program:zeo]
command=/path/to/runzeo
priority=1

[program:postgres]
command=/path/to/postmaster
; we use the "fast" shutdown signal SIGINT
stopsignal=INT
redirect_stderr=true

[program:slapd]
command=/path/to/slapd -f /path/to/slapd.conf -h ldap://0.0.0.0:8888
redirect_stderr=true

[program:apache]
command=/home/chrism/bin/httpd -c "ErrorLog /dev/stdout" -DFOREGROUND
user=chrism
environment=HOME="/home/chrism",USER="chrism"

[program:example]
command=/usr/bin/example --loglevel=%(ENV_LOGLEVEL)s --count=5 --prefix=%(program_name)s
"""


def test_examples_of_the_manual(supervisord):
    found = by_id(supervisord(MANUAL, {"LOGLEVEL": "info"}))
    assert list(found) == ["apache2", "zeo", "postgres", "slapd", "apache", "example"]
    assert (found["apache2"]["command"], found["apache2"]["args"]) == (
        "/path/to/httpd", ["-c", "ErrorLog /dev/stdout", "-DFOREGROUND"])
    assert found["postgres"]["stop_signal"] == "INT"
    assert found["slapd"]["args"] == ["-f", "/path/to/slapd.conf", "-h", "ldap://0.0.0.0:8888"]
    assert found["apache"]["env"] == {"HOME": "/home/chrism", "USER": "chrism"}
    assert found["example"]["args"] == ["--loglevel=info", "--count=5", "--prefix=example"]


def test_numprocs_and_every_expansion(supervisord, tmp_path):
    found = by_id(supervisord("""
[supervisord]
environment=ROOT="%(here)s",BOTH="outer"
directory=%(here)s/run
umask=027
[group:web]
programs=worker
[program:worker]
command=%(here)s/bin/work --port=80%(process_num)02d --of=%(numprocs)d %(group_name)s/%(program_name)s %(ENV_ZONE)s
process_name=%(program_name)s_%(process_num)02d
numprocs=2
numprocs_start=1
environment=ZONE="z%(process_num)d",BOTH="inner, %(host_node_name)s",PERCENT="5%%"
[program:other]
command=run %(process_num)s
directory=%(ENV_HOME)s
""", {"HOME": "/home/me", "ZONE": "unused"}))
    assert list(found) == ["worker_01", "worker_02", "other"]
    second = found["worker_02"]
    assert second["command"] == f"{tmp_path}/bin/work"
    assert second["args"] == ["--port=8002", "--of=2", "web/worker", "z2"]
    assert second["env"] == {"ROOT": str(tmp_path), "BOTH": f"inner, {platform.node()}", "ZONE": "z2", "PERCENT": "5%"}
    assert (second["working_dir"], second["umask"]) == (f"{tmp_path}/run", "027")
    assert (found["other"]["args"], found["other"]["working_dir"]) == (["0"], "/home/me")
    assert found["other"]["env"] == {"ROOT": str(tmp_path), "BOTH": "outer"}


def test_the_same_name_in_two_groups(supervisord):
    plan = supervisord("[group:g]\nprograms=b\n[program:a]\ncommand=a\nprocess_name=main\n"
                       "[program:b]\ncommand=b\nprocess_name=main\n[program:exeio]\ncommand=c\n")
    assert list(by_id(plan)) == ["main", "g.main", "exeio-1"]
    assert keys(plan, "[program:b]") == keys(plan, "[program:exeio]") == {"name"}


def test_include(supervisord, tmp_path):
    """Relative to the file, sorted, with %(here)s of the file that says it; no includes of includes."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "b.ini").write_text("[program:b]\ncommand=%(here)s/b\n")
    (tmp_path / "conf.d" / "a.ini").write_text("[program:a]\ncommand=a\n[include]\nfiles=more.ini\n")
    (tmp_path / "more.ini").write_text("[program:never]\ncommand=x\n")
    plan = supervisord("[program:m]\ncommand=%(here)s/m\n[include]\nfiles = conf.d/*.ini none/*.ini\n  "
                       f"{tmp_path}/conf.d/b.ini\n")
    found = by_id(plan)
    assert {id: one["command"] for id, one in found.items()} == {
        "m": f"{tmp_path}/m", "a": "a", "b": f"{tmp_path}/conf.d/b"}
    assert [(one.key, one.reason) for one in plan.unmapped] == [("files", "there is no file 'none/*.ini'")]


@pytest.mark.parametrize(("lines", "fields"), [
    ("autorestart=true", {"auto_restart": True, "restart_policy": None, "max_restarts": 3, "min_uptime_seconds": 1}),
    ("autorestart=false", {"auto_restart": False, "max_restarts": None}),
    ("autorestart=unexpected\nexitcodes=0,2", {"restart_policy": "on-failure", "success_exit_codes": [0, 2]}),
    ("startsecs=0\nstartretries=7", {"min_uptime_seconds": 0, "max_restarts": 7}),
    ("startretries=0", {"max_restarts": 1}),
    ("stopwaitsecs=30\nstopsignal=USR1", {"stop_timeout_seconds": 30, "stop_signal": "USR1"}),
    ("stopasgroup=true", {"kill_mode": None}),
    ("stdout_logfile_maxbytes=0", {"log_max_bytes": 0}), ("stdout_logfile_maxbytes=2GB", {"log_max_bytes": 2 << 30}),
    ("stdout_logfile_maxbytes=100", {"log_max_bytes": 4096}), ("stdout_logfile_backups=0", {"log_backups": 0}),
    ("environment=A='x y',B=/a-b.c(d),C=\"k=v;w\"", {"env": {"A": "x y", "B": "/a-b.c(d)", "C": "k=v;w"}}),
])
def test_keys_of_a_program(supervisord, lines, fields):
    found = by_id(supervisord(f"[program:p]\ncommand=p\n{lines}\n"))["p"]
    assert {name: found.get(name) for name in fields} == fields


# Those that supervisor 4.2.5 reads in a [program:x]: ServerOptions._processes_from_section.
KEYS = {
    "command", "process_name", "numprocs", "numprocs_start", "directory", "umask", "priority", "autostart", "startsecs",
    "startretries", "autorestart", "exitcodes", "stopsignal", "stopwaitsecs", "stopasgroup", "killasgroup", "user",
    "redirect_stderr", "environment", "serverurl",
    *(f"{stream}_{key}" for stream in ("stdout", "stderr") for key in (
        "logfile", "logfile_maxbytes", "logfile_backups", "capture_maxbytes", "events_enabled", "syslog")),
}


def test_every_key_of_a_program_is_mapped_or_told(supervisord):
    assert import_supervisord._MAPPED | set(import_supervisord._OTHERS) == KEYS
    assert import_supervisord._MAPPED.isdisjoint(import_supervisord._OTHERS)
    plan = supervisord("[program:p]\ncommand=p\nstopsignals=INT\n")
    assert keys(plan, "[program:p]") == {"stopsignals"}


def test_autostart_false_is_added_and_not_started(supervisord):
    plan = supervisord("[program:p]\ncommand=p\nautostart=false\n")
    assert [one.start for one in plan.processes] == [False]


@pytest.mark.parametrize(("text", "words"), [
    ("[program:p]\n", "[program:p] has no command"),
    ("[program:p]\ncommand=a 'b\n", "[program:p]: command: No closing quotation"),
    ("[program:p]\ncommand=a %(nope)s\n", "[program:p] command: there is no %(nope)s here"),
    ("[program:p]\ncommand=a 5%\n", "write %% for a percent sign"),
    ("[program:p]\ncommand=a\nnumprocs=2\n", "process_name needs %(process_num)s"),
    ("[program:p]\ncommand=a\nnumprocs=x\n", "numprocs must be a whole number, not 'x'"),
    ("[program:p]\ncommand=a\nautorestart=maybe\n", "autorestart must be true, false or unexpected"),
    ("[program:p]\ncommand=a\nautostart=maybe\n", "autostart must be true or false"),
    ("[program:p]\ncommand=a\nstopsignal=NOPE\n", "[program:p]: stop_signal must be"),
    ("[program:p]\ncommand=a\nenvironment=A\n", 'environment must be NAME="value"'),
    ("[group:g]\nprograms=x\n", "there is no [program:x]"), ("[include]\n", "[include] has no files"),
    ("command=a\n", "no section headers"),
])
def test_what_supervisord_would_refuse_as_well(supervisord, text, words):
    with pytest.raises(ExeioError) as refused:
        supervisord(text)
    assert words in refused.value.message and "\n" not in refused.value.message


# Procfile


def test_a_procfile_with_env(tmp_path):
    (tmp_path / "Procfile").write_text(
        "# the processes\nweb: gunicorn app:main --log-file -\n\nworker:  QUEUE=mail bin/work $PORT\n"
        "clock: python clock.py 'every hour'\n")
    (tmp_path / ".env").write_text(
        "# settings\nPORT=3000\nexport NAME='a $b'\nTEXT=\"x\\ny \\\"z\\\"\"\nEMPTY=\nURL=http://h/?a=b#c\n")
    plan = import_procfile.read(str(tmp_path / "Procfile"))
    found = by_id(plan)
    assert [(one["command"], one["args"]) for one in found.values()] == [
        ("gunicorn", ["app:main", "--log-file", "-"]), ("/bin/sh", ["-c", "QUEUE=mail bin/work $PORT"]),
        ("python", ["clock.py", "every hour"])]
    assert found["web"]["env"] == {
        "PORT": "3000", "NAME": "a $b", "TEXT": 'x\ny "z"', "EMPTY": "", "URL": "http://h/?a=b#c"}
    assert [one["env"]["PORT"] for one in found.values()] == ["3000", "3100", "3200"]
    assert all(one["working_dir"] == str(tmp_path) and one["auto_restart"] for one in found.values())


@pytest.mark.parametrize(("procfile", "env", "words"), [
    ("web run\n", "", "line 1 is not `name: command`"), ("web: run\n", "A B\n", "line 1 is not NAME=value"),
    ("web: run\n", "PORT=x\n", "PORT must be a number"), ("web: a\nweb: b\n", "", "two processes named 'web'")])
def test_a_procfile_that_is_none(tmp_path, procfile, env, words):
    (tmp_path / "Procfile").write_text(procfile)
    (tmp_path / ".env").write_text(env)
    with pytest.raises(ExeioError, match=words.replace("(", "[(]")):
        import_procfile.read(str(tmp_path / "Procfile"))


# pm2

# As `pm2 init` and the page "Ecosystem File" have it, with what the table of its keys names.
ECOSYSTEM = {
    "apps": [
        {"name": "app", "script": "./app.js", "instances": 2, "exec_mode": "cluster", "autorestart": True,
         "watch": False, "max_memory_restart": "1G", "env": {"NODE_ENV": "development", "PORT": 3000, "DEBUG": True},
         "env_production": {"NODE_ENV": "production"}, "args": "--toto=heya coco -d 1", "node_args": ["--harmony"],
         "min_uptime": "200s", "max_restarts": 10, "kill_timeout": 3000, "restart_delay": 4000,
         "cron_restart": "1 0 * * *", "error_file": "err.log", "out_file": "out.log"},
        {"name": "npm", "script": "npm", "args": ["run", "start it"], "cwd": "/srv/app", "autorestart": False},
        {"script": "tools/job.py", "interpreter": "/opt/venv/bin/python", "stop_exit_codes": [0, 3], "treekill": False,
         "exp_backoff_restart_delay": 100, "uid": 1000},
        {"name": "binary", "script": "/usr/bin/server", "interpreter": "none"},
    ],
    "deploy": {"production": {}},
}


@pytest.fixture
def pm2(tmp_path):
    def read(content):
        path = tmp_path / "ecosystem.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return import_pm2.read(str(path))
    return read


def test_an_ecosystem_of_pm2(pm2, tmp_path):
    plan = pm2(ECOSYSTEM)
    found = by_id(plan)
    assert list(found) == ["app-0", "app-1", "npm", "job", "binary"]
    app = found["app-1"]
    assert (app["command"], app["args"]) == (
        "node", ["--harmony", f"{tmp_path}/app.js", "--toto=heya", "coco", "-d", "1"])
    assert app["env"] == {"NODE_ENV": "development", "PORT": "3000", "DEBUG": "true", "NODE_APP_INSTANCE": "1"}
    assert {name: app[name] for name in ("min_uptime_seconds", "max_restarts", "stop_timeout_seconds", "stop_signal",
                                         "restart_delay_seconds", "auto_restart", "working_dir")} == {
        "min_uptime_seconds": 200, "max_restarts": 10, "stop_timeout_seconds": 3, "stop_signal": "INT",
        "restart_delay_seconds": 4, "auto_restart": True, "working_dir": str(tmp_path)}
    npm = found["npm"]
    assert (npm["command"], npm["args"], npm["working_dir"]) == ("npm", ["run", "start it"], "/srv/app")
    assert npm["auto_restart"] is False
    job = found["job"]
    assert (job["command"], job["args"]) == ("/opt/venv/bin/python", [f"{tmp_path}/tools/job.py"])
    assert (job["success_exit_codes"], job["restart_policy"], job["kill_mode"]) == ([0, 3], "on-failure", "process")
    assert (job["restart_delay_seconds"], job["user"], job["max_restarts"]) == (0.1, "1000", 16)
    assert found["binary"]["command"] == "/usr/bin/server"
    assert keys(plan, "app app") == {"exec_mode", "watch", "max_memory_restart", "env_production", "cron_restart",
                                     "error_file", "out_file"}
    assert keys(plan, "the file") == {"deploy"}


@pytest.mark.parametrize("content", [
    [{"script": "a"}], {"apps": {"script": "a"}}, {"script": "a", "name": "a"}, {"pm2": [{"script": "a"}]}])
def test_other_shapes_of_an_ecosystem(pm2, content):
    assert list(by_id(pm2(content))) == ["a"]


@pytest.mark.parametrize(("content", "words"), [
    ("module.exports = {}", "is not JSON"), ("[" * 100000, "nested|not JSON"), ({"a": 1}, "no list `apps`"),
    ([1], "apps.0. must be an object"), ([{"name": "x"}], "apps.0. has no script"),
    ([{"script": "a", "instances": "many"}], "instances must be"),
    ([{"script": "a", "min_uptime": "soon"}], "min_uptime"),
    ([{"script": "a", "args": 5}], "args must be"), ([{"script": "a", "env": []}], "env must be an object"),
    ([{"script": "a", "max_restarts": -1}], "app a: max_restarts")])
def test_an_ecosystem_that_is_none(pm2, content, words):
    with pytest.raises(ExeioError, match=words):
        pm2(content)


def test_all_cores(pm2):
    assert len(pm2([{"script": "a", "instances": "max"}]).processes) == (os.cpu_count() or 1)


# The command

CONF = """
[program:web]
command=/bin/sleep 100
priority=5
environment=TOKEN="s"
[program:later]
command=/bin/sleep 100
autostart=false
[program:wrong]
command=/no/such/program
"""


def test_without_apply_it_needs_no_supervisor_and_changes_nothing(tmp_path):
    (tmp_path / "supervisord.conf").write_text(CONF)
    shown = run_exeio("import", "supervisord.conf", home=tmp_path)
    assert shown.returncode == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["web", "yes", "yes", "/bin/sleep", "100"] in rows and ["later", "no", "yes", "/bin/sleep", "100"] in rows
    assert "Not mapped:" in shown.stdout and "exeio starts and stops all processes at once" in shown.stdout
    listed = json.loads(shown.stdout[shown.stdout.index("\n[\n"):shown.stdout.rindex("]") + 1])
    assert [one.get("stopped") for one in listed] == [None, True, None], "as processes.json has it"
    assert "--apply" in shown.stdout.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [tmp_path / "supervisord.conf"]
    answer = json.loads(run_exeio("import", "supervisord.conf", "--json", home=tmp_path).stdout)
    assert (answer["processes"], answer["applied"]) == (listed, False)
    assert answer["unmapped"] == [
        {"where": "[program:web]", "key": "priority", "reason": "exeio starts and stops all processes at once"}]


def test_with_apply_it_adds_them_saved(server, tmp_path):
    path = tmp_path / "supervisord.conf"
    path.write_text(CONF)
    place = ["--config-dir", server.config_dir, "--data-dir", server.data_dir]
    done = run_exeio("import", path, "--apply", *place, home=tmp_path)
    assert done.returncode == 1, "one of them cannot be started"
    assert "Process 'web' added and started" in done.stdout and "exeio: wrong: command" in done.stderr
    assert {one["id"]: one["status"] for one in server.get("/list")} == {"web": "running", "later": "manually_stopped"}
    saved = json.loads((server.config_dir / "processes.json").read_text())
    assert [(one["id"], one.get("stopped", False)) for one in saved] == [("web", False), ("later", True)]
    again = run_exeio("import", path, "--apply", "--json", *place, home=tmp_path)
    answer = json.loads(again.stdout)
    assert again.returncode == 1 and [one["success"] for one in answer["results"]] == [False] * 3


@pytest.mark.parametrize(("name", "text", "kind"), [
    ("Procfile.dev", "web: a\n", "Procfile"), ("eco.json", '[{"script": "a"}]', "pm2"),
    ("x.ini", "[program:a]\ncommand=a\n", "supervisord"), ("plain", "[program:a]\ncommand=a\n", "supervisord")])
def test_the_kind_of_a_file_is_seen(tmp_path, name, text, kind):
    (tmp_path / name).write_text(text)
    shown = run_exeio("import", name, "--json", home=tmp_path)
    assert f"this {kind} file" in json.loads(shown.stdout)["message"], shown.stderr


@pytest.mark.parametrize(("words", "status", "said"), [
    (["nothing.conf"], 1, "cannot read nothing.conf: No such file"),
    (["plain"], 2, "--format supervisord|procfile|pm2"),
    (["plain", "--format", "x"], 2, "--format must be"), ([], 2, "import needs FILE"), (["bytes.ini"], 1, "not UTF-8")])
def test_what_cannot_be_read_is_one_line(tmp_path, words, status, said):
    (tmp_path / "plain").write_text("hello\n")
    (tmp_path / "bytes.ini").write_bytes(b"[program:\xff]\n")
    refused = run_exeio("import", *words, home=tmp_path)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (status, "", 1)
    assert said in refused.stderr


def test_a_format_that_is_said_counts(tmp_path):
    (tmp_path / "services.conf").write_text("web: run\n")
    shown = run_exeio("import", "services.conf", "--format", "procfile", "--json", home=tmp_path)
    assert [one["id"] for one in json.loads(shown.stdout)["processes"]] == ["web"]
