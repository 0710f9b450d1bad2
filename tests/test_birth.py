"""A clean birth whatever exeio itself was given, also through the shell that keeps the limit of descriptors, and
what an exeio without root may not do."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nasty
import pytest
from support import GLIBC_SIGNALS, NOT_HERE, PROGRAM, ROOT, Server, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason=NOT_HERE + "/proc")
root = pytest.mark.skipif(os.geteuid() != 0, reason=NOT_HERE + "root")

NOBODY = 64998  # an account that nobody has
# Runs the server's command after what it is told to do first, like a rude parent.
RUDE = "import os, resource, signal, sys\n{}\nos.execv(sys.argv[1], sys.argv[1:])"


class Rude(Server):
    """A server that is started by a parent with habits of its own."""

    def __init__(self, habits, *options, env=None):
        super().__init__(*options, env=env)
        self.habits = habits

    def command(self):
        return [sys.executable, "-c", RUDE.format(self.habits), *super().command()]


@pytest.fixture
def rude():
    made = []

    def start(habits, *options, env=None):
        made.append(Rude(habits, *options, env=env))
        return made[-1].start()

    yield start
    for server in made:
        server.close()


BAD_HABITS = """
for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN + 3):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
for fd in (5, 17, 90):
    os.dup2(os.open("/dev/null", os.O_RDWR), fd, inheritable=True)
pair = os.pipe()
os.set_inheritable(pair[1], True)
"""


def facts(pid):
    """What /proc says of a process's birth."""
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return {name: int(fields[name], 16) & ~GLIBC_SIGNALS for name in ("SigBlk", "SigIgn", "SigCgt")}, fields


def check_birth(server, id):
    pid = server.get(f"/status/{id}")["pid"]
    wait_for(lambda: Path(f"/proc/{pid}/comm").read_text() in ("sleep\n", "cat\n"), what="the shell to be done")
    signals, fields = facts(pid)
    assert signals == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    # The loader of the program has one open for a moment.
    wait_for(lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"], what="no other descriptor")
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    assert (int(stat[2]), int(stat[3]), int(stat[4])) == (pid, pid, 0), "group, session, terminal"
    return fields


@pytest.mark.parametrize("limit", [None, 120], ids=["plain", "through the shell"])
def test_nothing_of_what_exeio_inherited_is_handed_on(rude, limit):
    habits = BAD_HABITS
    if limit:
        habits += f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, 4000))\n"
    server = rude(habits, env={"EXEIO_API_KEY": "a-key-for-exeio-alone", "NOTIFY_SOCKET": "/nowhere"})
    for number in range(22 if limit else 1):
        server.add(f"p{number}", "sleep", "1000")
    if limit:
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (4000, 4000), "exeio needs more for itself"
    server.add("last", "sleep", "1000", umask="027", nice=5)
    wait_for(lambda: os.getpriority(os.PRIO_PROCESS, server.get("/status/last")["pid"]) == 5)
    fields = check_birth(server, "last")
    assert fields["Umask"].strip() == "0027"
    pid = server.get("/status/last")["pid"]
    expected = (limit, 4000) if limit else resource.getrlimit(resource.RLIMIT_NOFILE)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == expected
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"a-key-for" not in environment and b"NOTIFY_SOCKET" not in environment
    # An exit status that is read with SIGCHLD ignored is always 0.
    server.sh("seven", "exit 7")
    assert server.wait_status("seven", "failed")["exit_code"] == 7


def test_exeio_without_standard_streams(rude):
    """Its own files get their numbers; a child's streams must be what they should all the same."""
    server = Rude("os.close(0)")
    try:
        server.start()
        server.sh("cat", "echo out; echo err >&2; exec cat")
        check_birth(server, "cat")
        server.post("/input/cat", {"input": "through stdin"})
        wait_for(lambda: all(f"STD{line}" in server.log("cat") for line in ("OUT: out", "ERR: err")))
        wait_for(lambda: "STDOUT: through stdin" in server.log("cat"))
    finally:
        server.close()


def test_what_the_locale_cannot_say_is_400_and_no_traceback(rude):
    server = rude("os.environ.update(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')")
    body = {"id": "job", "command": "sleep", "args": ["600"], "env": {}}
    for fields in ({"command": "schl\u00e4fer"}, {"args": ["\u00e4"]}, {"env": {"A": "\u00e4"}}, {"user": "\u00e4"},
                   {"working_dir": "/\u00e4"}):
        status, answer = server.call("POST", "/add", {**body, **fields})
        assert status == 400 and "'\u00e4'" in answer["message"] and "UTF-8" in answer["message"], answer
    server.post("/add", body)
    status, answer = server.call("POST", "/update/job", {"working_dir": "/\u00e4"})
    assert status == 400 and "'\u00e4'" in answer["message"], answer


@root
def test_the_groups_of_a_user(server):
    import grp
    import pwd
    account = next((pwd.getpwnam(name) for group in grp.getgrall() for name in group.gr_mem if known(pwd, name)),
                   pwd.getpwnam("nobody"))
    server.add("own", "sleep", "1000", user=account.pw_name, working_dir="/")
    pid = server.get("/status/own")["pid"]
    fields = check_birth(server, "own")
    wait_for(Path(f"/proc/{pid}/environ").read_bytes, what="its exec to be over")
    assert {int(one) for one in fields["Groups"].split()} == set(os.getgrouplist(account.pw_name, account.pw_gid))
    assert set(fields["Uid"].split()) == {str(account.pw_uid)} and set(fields["Gid"].split()) == {str(account.pw_gid)}
    environment = dict(one.split(b"=", 1) for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if one)
    assert environment[b"HOME"] == os.fsencode(account.pw_dir)
    assert environment[b"USER"] == environment[b"LOGNAME"] == os.fsencode(account.pw_name)


@root
def test_a_folder_that_is_closed_to_the_user_is_refused(server):
    """It was entered before the user was changed, and the process ran in a folder that it could not even list."""
    closed, open_ = server.folder / "closed", server.folder / "open"
    for folder in (closed / "inner", open_):
        folder.mkdir(parents=True)
    for folder, mode in ((server.folder, 0o711), (closed, 0o700), (closed / "inner", 0o755), (open_, 0o711)):
        folder.chmod(mode)
    fields = {"id": "job", "command": "sleep", "args": ["1000"], "user": "nobody"}
    for folder in (closed, closed / "inner"):
        status, answer = server.call("POST", "/add", {**fields, "working_dir": str(folder)})
        assert (status, answer["message"]) == (400, f"working_dir '{folder}': Permission denied for user 'nobody'")
    server.post("/add", {**fields, "working_dir": str(open_)})
    pid = server.get("/status/job")["pid"]
    status, answer = server.call("POST", "/update/job", {"working_dir": str(closed)})
    assert (status, server.get("/status/job")["pid"]) == (400, pid), answer
    assert os.readlink(f"/proc/{pid}/cwd") == str(open_)
    wait_for(lambda: nasty.zombies(server.pid) == [])


def known(pwd, name):
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


@root
def test_without_root_another_user_is_refused():
    """A real exeio of another account."""
    python = next((one for one in (sys.executable, "/usr/bin/python3") if may_run(one)), None)
    if python is None:
        pytest.skip(NOT_HERE + "a Python that another account may run")
    server = Rude(f"os.setgroups([4]); os.setgid({NOBODY}); os.setuid({NOBODY})")
    os.chown(server.folder, NOBODY, NOBODY)
    shutil.copy2(PROGRAM, server.folder)
    shutil.copytree(ROOT / "exeio_core", server.folder / "exeio_core", ignore=shutil.ignore_patterns("__pycache__"))
    plain = server.command
    places = {str(PROGRAM): str(server.folder / "exeio.py")}
    server.command = lambda: [*plain()[:3], python, *(places.get(part, part) for part in plain()[4:])]
    try:
        server.start()
        for fields, words in (({"user": "root"}, "user 'root': only root can change to it"),
                              ({"user": "nobody"}, "user 'nobody': only root can change to it"),
                              ({"group": "root"}, "group 'root': only root can change to it"),
                              ({"group": "4"}, "group '4': only root can change to it"),  # though it is in it
                              ({"nice": -5}, "nice -5: lower than exeio's own takes root")):
            status, answer = server.call("POST", "/add", {"id": "job", "command": "sleep", "args": ["1"], **fields})
            assert status == 400 and words in answer["message"], answer
        server.add("own", "sleep", "1000")
        assert nasty.stat(server.get("/status/own")["pid"])[1] == server.pid
    finally:
        server.close()


def may_run(python):
    """Whether another account may run this interpreter, and it is new enough."""
    script = f"import os, sys\nos.setuid({NOBODY})\nos.execv(sys.argv[1], sys.argv[1:])"
    new_enough = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 9))"]
    command = [sys.executable, "-c", script, *new_enough]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_a_signal_of_every_kind_reaches_a_child_as_it_was_sent(server):
    """Handlers of exeio's own are not in the way, and none is ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGPIPE, signal.SIGALRM):
        name = signal.Signals(number).name
        server.sh(name, "exec sleep 1000")
        server.post(f"/signal/{name}", {"signal": name})
        assert server.wait_status(name, "failed")["exit_signal"] == name
