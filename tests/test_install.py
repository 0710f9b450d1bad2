"""`install` and `uninstall`: units that systemd takes, a crontab that stays the user's, scripts that a shell takes."""

import json
import os
import shlex
import stat
import subprocess
import sys

import pytest
from build_pyz import build
from support import PROGRAM, clean_environment, need, run_exeio, wait_for

from exeio_core.errors import Invalid
from exeio_core.service_texts import Service, cron_line, openrc_script, system_unit, unit_word, user_unit


def install(home, *words, env=None):
    done = run_exeio("install", *words, home=home, env=env)
    assert "Traceback" not in done.stderr
    return done


def exec_start(unit):
    """The words of ExecStart=, as systemd.syntax(7) splits them (no word of these tests has a backslash)."""
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.partition("=")[2])]


# systemd


@pytest.mark.parametrize(("kind", "words"), [
    ("--system", []), ("--system", ["--run-as", "daemon"]), ("--user", []),
    ("--system", ["--", "--port", "0", "--unix-socket", "/run/e x/100%$s"])])
def test_systemd_takes_the_unit(tmp_path, kind, words):
    need("systemd-analyze")
    unit = install(tmp_path, kind, "--print", *words).stdout
    file = tmp_path / "exeio.service"
    file.write_text(unit)
    verified = subprocess.run(
        ["systemd-analyze", *(["--user"] if kind == "--user" else []), "verify", "--man=no", str(file)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=30, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    # The same check sees what is wrong; it would be worth nothing else.
    file.write_text(unit.replace("KillMode", "KillMood"))
    wrong = subprocess.run(["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True,
                           timeout=30, check=False)
    assert "KillMood" in wrong.stderr


def test_the_unit_says_what_a_supervisor_needs(tmp_path):
    unit = install(tmp_path, "--system", "--print").stdout
    for line in ("Type=notify", "NotifyAccess=main", "KillMode=mixed", "ExecReload=/bin/kill -HUP $MAINPID",
                 "Restart=on-failure", "LoadCredential=exeio-api-key:/etc/exeio/api-key", "OOMPolicy=continue",
                 "StateDirectory=exeio", "ConfigurationDirectory=exeio", "WantedBy=multi-user.target"):
        assert f"\n{line}\n" in unit
    assert exec_start(unit) == [
        sys.executable, str(PROGRAM), "serve", "--config-dir", "/etc/exeio", "--data-dir", "/var/lib/exeio"]
    other = install(tmp_path, "--system", "--print", "--run-as", "exeio").stdout
    assert "\nUser=exeio\n" in other and "--config-dir /var/lib/exeio/config" in other
    # Each of these, and what implies it, keeps a process from something that works without systemd.
    options = {line.partition("=")[0] for text in (unit, other) for line in text.splitlines() if line[:1] != "#"}
    assert not options & {
        "NoNewPrivileges", "PrivateTmp", "ProtectHome", "PrivateDevices", "MemoryDenyWriteExecute", "ProtectClock",
        "SystemCallFilter", "RestrictNamespaces", "RestrictSUIDSGID", "ProtectProc", "PrivateNetwork", "UMask"}


def test_the_unit_of_an_account(tmp_path):
    unit = install(tmp_path, "--user", "--print", "--data-dir", "d", "--", "--port", "3000").stdout
    assert exec_start(unit) == [
        sys.executable, str(PROGRAM), "serve", "--data-dir", str(tmp_path / "d"), "--port", "3000"]
    assert "\nWantedBy=default.target\n" in unit and "User=" not in unit
    variables = {"EXEIO_DATA_DIR": "/some/data", "EXEIO_CONFIG_DIR": "/some/config"}
    shown = install(tmp_path, "--user", "--print", env=variables).stdout
    assert "--config-dir /some/config --data-dir /some/data" in shown


@pytest.fixture
def systemctl(tmp_path):
    """A PATH on which systemd seems to be there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    (folder / "systemctl").chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_install_and_uninstall_for_an_account(tmp_path, systemctl):
    unit = tmp_path / ".config" / "systemd" / "user" / "exeio.service"
    first = install(tmp_path, "--user", env=systemctl)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"{unit} was written\nNext:\n  systemctl --user daemon-reload\n")
    assert "enable-linger" in first.stdout
    # The last line runs as it stands: exeio.py lies in no folder of PATH.
    asked = subprocess.run(
        ["sh", "-c", first.stdout.splitlines()[-1]], cwd=str(tmp_path), capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": str(tmp_path)})
    assert asked.returncode == 3 and "no supervisor runs on the folder" in asked.stderr
    assert unit.read_text() == install(tmp_path, "--user", "--print").stdout
    assert "is as it should be" in install(tmp_path, "--user", env=systemctl).stdout
    assert "was replaced" in install(tmp_path, "--user", "--", "--port", "1", env=systemctl).stdout
    link = unit.parent / "default.target.wants" / "exeio.service"
    link.parent.mkdir()
    link.symlink_to(unit)
    gone = run_exeio("uninstall", "--user", home=tmp_path, env=systemctl)
    assert gone.returncode == 0 and "systemctl --user stop exeio" in gone.stdout
    assert not unit.exists() and not link.is_symlink()
    assert "is not there" in run_exeio("uninstall", "--user", home=tmp_path).stdout


def test_what_exeio_did_not_write_stays(tmp_path, systemctl):
    unit = tmp_path / ".config" / "systemd" / "user" / "exeio.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/my/own\n")
    for command in ("install", "uninstall"):
        refused = run_exeio(command, "--user", home=tmp_path, env=systemctl)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert unit.read_text() == "[Service]\nExecStart=/my/own\n"


def test_the_service_of_the_machine_gets_a_key_and_keeps_it(tmp_path):
    image = tmp_path / "image"
    done = install(tmp_path, "--system", "--destdir", image, "--json")
    answer = json.loads(done.stdout)
    assert answer["success"] and answer["next"][:2] == ["systemctl daemon-reload", "systemctl enable --now exeio"]
    key = image / "etc" / "exeio" / "api-key"
    assert key.read_text().startswith("exeio_") and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (image / "etc" / "systemd" / "system" / "exeio.service").exists()
    before = key.read_text()
    assert "api-key stays" in install(tmp_path, "--system", "--destdir", image).stdout
    run_exeio("uninstall", "--system", "--destdir", image, home=tmp_path)
    assert key.read_text() == before
    assert not list(image.rglob("*.service"))


@pytest.mark.parametrize(("words", "status", "said"), [
    (["--user"], 1, "no systemd"), (["--openrc"], 1, "no OpenRC"), (["--cron"], 1, "no crontab command"),
    (["--user", "--cron"], 2, "choose one"), (["--cron", "--run-as", "me"], 2, "--run-as is for services"),
    (["--cron", "--destdir", "/x"], 2, "--destdir is for files"),
    (["--user", "--", "--port", "x"], 2, "--port must be"), (["--user", "--", "--daemon"], 2, "leave --daemon out"),
    (["--user", "--", "-k", "secret"], 2, "use --api-key-file"),
    (["--user", "word"], 2, "unrecognized arguments: word"),
    (["--user", "--", "--tls-cert", "c.pem"], 2, "--tls-cert c.pem: a service needs the whole path"),
])
def test_what_cannot_be_is_one_sentence(tmp_path, words, status, said):
    if os.path.exists("/sbin/openrc-run") and "--openrc" in words:
        return
    (tmp_path / "bin").mkdir()
    refused = install(tmp_path, *words, env={"PATH": str(tmp_path / "bin")})
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (status, "", 1)
    assert said in refused.stderr


@pytest.mark.parametrize(("word", "quoted"), [
    ("/usr/bin/python3", "/usr/bin/python3"), ("a b", '"a b"'), ("", '""'), ("100%", "100%%"), ("$HOME", "$$HOME"),
    ('say "x"', '"say \\"x\\""'), ("back\\slash", "back\\\\slash"), ("it's", '"it\'s"'), ("a;b", '"a;b"')])
def test_words_of_a_unit(word, quoted):
    assert unit_word(word) == quoted


def test_a_line_cannot_be_forged():
    forged = Service(["/usr/bin/python3", "/tmp/x\nExecStartPre=/bin/evil"], [])
    for make in (system_unit, user_unit):
        with pytest.raises(Invalid, match="not printable"):
            make(forged)
    with pytest.raises(Invalid):
        cron_line(forged, "/bin")


# Where exeio lies


def test_the_one_file_finds_itself(tmp_path):
    file = tmp_path / "sub dir" / "exeio.pyz"
    file.parent.mkdir()
    build(file)
    shown = subprocess.run(
        [sys.executable, "sub dir/exeio.pyz", "install", "--user", "--print"], cwd=str(tmp_path), capture_output=True,
        text=True, env=clean_environment(tmp_path), timeout=30, check=False)
    assert exec_start(shown.stdout)[:3] == [sys.executable, str(file), "serve"], shown.stderr


def test_a_command_made_by_pip_finds_itself(tmp_path):
    command = tmp_path / "exeio"
    command.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(PROGRAM.parent)!r})\n"
                       "from exeio_core.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    shown = subprocess.run(["exeio", "install", "--user", "--print"], cwd="/", capture_output=True, text=True,
                           env={**clean_environment(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=30,
                           check=False)
    assert exec_start(shown.stdout)[:3] == [sys.executable, str(command), "serve"], shown.stderr


def test_a_link_stays_a_link(tmp_path):
    """What it leads to may be another version tomorrow."""
    (tmp_path / "current").symlink_to(PROGRAM)
    shown = subprocess.run([sys.executable, "current", "install", "--user", "--print"], cwd=str(tmp_path), timeout=30,
                           capture_output=True, text=True, env=clean_environment(tmp_path), check=False)
    assert exec_start(shown.stdout)[1] == str(tmp_path / "current"), shown.stderr


# cron

CRONTAB = """#!/bin/sh
# As cron's: -l shows, - replaces.
table={table}
case "$1" in
-l) [ -f "$table" ] || {{ echo "no crontab for you" >&2; exit 1; }}; cat "$table" ;;
-) cat > "$table" ;;
esac
"""


@pytest.fixture
def crontab(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    table = tmp_path / "table"
    (folder / "crontab").write_text(CRONTAB.format(table=table))
    (folder / "crontab").chmod(0o755)
    return table, {"PATH": f"{folder}:/usr/bin:/bin"}


def test_a_crontab_gets_one_line_and_loses_it_again(tmp_path, crontab):
    table, env = crontab
    assert install(tmp_path, "--cron", env=env).returncode == 0
    line = table.read_text()
    assert line.startswith("@reboot PATH=") and line.count("\n") == 1
    own = "MAILTO=me\n0 5 * * * /usr/bin/python3 /opt/exeio/exeio.py list  # my own, of exeio\n"
    table.write_text(own + line + "# behind it")
    assert "already" in install(tmp_path, "--cron", env=env).stdout
    assert table.read_text() == own + line + "# behind it"
    changed = install(tmp_path, "--cron", "--", "--port", "3000", env=env)
    assert changed.returncode == 0
    assert table.read_text() == own + line.replace("serve --daemon", "serve --port 3000 --daemon") + "# behind it"
    assert "out of your crontab" in run_exeio("uninstall", "--cron", home=tmp_path, env=env).stdout
    assert table.read_text() == own + "# behind it"
    assert "no line of exeio" in run_exeio("uninstall", "--cron", home=tmp_path, env=env).stdout


def test_the_line_of_the_crontab_starts_exeio(tmp_path, crontab):
    table, env = crontab
    install(tmp_path, "--cron", "--data-dir", tmp_path / "100% data", "--", "--port", "0", env=env)
    command = table.read_text().partition(" ")[2].replace("\\%", "%")
    ran = subprocess.run(["/bin/sh", "-c", command], env={"HOME": str(tmp_path)}, capture_output=True, text=True,
                         timeout=30, check=False, cwd=str(tmp_path))
    client = ["--data-dir", tmp_path / "100% data"]
    try:
        assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
        added = run_exeio("add", "path", *client, "--", "sh", "-c", "echo $PATH", home=tmp_path)
        assert added.returncode == 0, added.stderr
        wait_for(lambda: env["PATH"] in run_exeio("logs", "path", *client, home=tmp_path).stdout, what="PATH")
    finally:
        assert run_exeio("shutdown", *client, home=tmp_path).returncode == 0


def test_a_crontab_that_fails_is_not_overwritten(tmp_path, crontab):
    table, env = crontab
    table.write_text("0 5 * * * mine\n")
    (tmp_path / "bin" / "crontab").write_text('#!/bin/sh\n[ "$1" = -l ] && { echo "you may not" >&2; exit 1; }\n'
                                              f"cat > {table}\n")
    refused = install(tmp_path, "--cron", env=env)
    assert refused.returncode == 1 and "crontab -l failed: you may not" in refused.stderr
    assert table.read_text() == "0 5 * * * mine\n"


# OpenRC

OPENRC = """
ebegin() { echo "ebegin $*"; }; eend() { return "$1"; }
need() { :; }; use() { echo "use $*"; }; after() { :; }
checkpath() { echo "checkpath $*"; }; start_stop_daemon() { echo "ssd $*"; }
"""


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_takes_the_openrc_script(tmp_path, shell):
    """With stand-ins for what openrc-run gives it."""
    words = ["--run-as", "exe io", "--", "--unix-socket", "/run/it's $HOME/s"]
    script = tmp_path / "exeio"
    script.write_text(install(tmp_path, "--openrc", "--print", *words).stdout)
    after = 'depend; start_pre; eval "set -- $command_args"; printf "%s\\n" "$command_user" "$command" "$@"\n'
    run = f"RC_SVCNAME=exeio; . {shlex.quote(str(script))}\n{after}"
    ran = subprocess.run([need(shell), "-eu", "-c", OPENRC + run],
                         capture_output=True, text=True, timeout=30, check=False)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "use net dns", *(f"checkpath -d -m 0700 -o exe io /var/lib/exeio{sub}" for sub in ("", "/config", "/data")),
        "exe io", sys.executable, str(PROGRAM), "serve", "--config-dir", "/var/lib/exeio/config", "--data-dir",
        "/var/lib/exeio/data", "--unix-socket", "/run/it's $HOME/s"]
    assert "\n\tstart-stop-daemon --signal HUP --pidfile" in openrc_script(Service(["/p", "/e"], []))


def test_the_openrc_script_is_installed_into_an_image(tmp_path):
    done = install(tmp_path, "--openrc", "--destdir", tmp_path)
    script = tmp_path / "etc" / "init.d" / "exeio"
    assert "rc-update add exeio default" in done.stdout and os.access(script, os.X_OK)
    (tmp_path / "etc" / "runlevels" / "default").mkdir(parents=True)
    (tmp_path / "etc" / "runlevels" / "default" / "exeio").symlink_to("/etc/init.d/exeio")
    run_exeio("uninstall", "--openrc", "--destdir", tmp_path, home=tmp_path)
    assert [path for path in (tmp_path / "etc").rglob("*") if not path.is_dir()] == []
