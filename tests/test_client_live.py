"""The client against the real supervisor: each command, in the order in which a person meets them."""

from __future__ import annotations

import json

import pytest
from support import run_exeio, wait_for

from exeio_core.cli import main


@pytest.fixture
def exeio(server, capsys, monkeypatch):
    """Runs a command that finds server and key by itself: (status, stdout, stderr)."""
    monkeypatch.delenv("EXEIO_URL", raising=False)
    monkeypatch.delenv("EXEIO_API_KEY", raising=False)
    monkeypatch.setenv("EXEIO_CONFIG_DIR", str(server.config_dir))
    monkeypatch.setenv("EXEIO_DATA_DIR", str(server.data_dir))

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def done(result):
    status, out, err = result
    assert (status, err) == (0, ""), result
    return out


def test_the_life_of_a_process(exeio, server):
    echo = "echo ready; while read line; do echo got $line $LEVEL; done"
    assert "web" in done(exeio("add", "web", "--env", "LEVEL=9", "--save-for-next-run", "--", "sh", "-c", echo))
    titles, line = done(exeio("list")).splitlines()
    assert titles.split()[:3] == ["ID", "STATUS", "PID"]
    assert line.split()[:2] == ["web", "running"] and line.endswith(f"sh -c '{echo}'")
    status = json.loads(done(exeio("status", "web", "--json")))
    assert status["pid"] == int(line.split()[2])

    done(exeio("input", "web", "hello"))
    logged = wait_for(lambda: [line for line in done(exeio("logs", "web")).splitlines() if "got hello 9" in line])
    assert "STDOUT: got hello 9" in logged[0]
    lines = done(exeio("logs", "web", "--stream", "stdout")).splitlines()
    assert [line.split("STDOUT: ")[1] for line in lines] == ["ready", "got hello 9"], "oldest first"
    assert done(exeio("logs", "web", "-n", "1")).splitlines() == lines[-1:]

    done(exeio("update", "web", "--env", "MORE=1", "--max-restarts", "3"))
    config = json.loads(done(exeio("config", "web", "--secrets")))
    assert (config["env"], config["max_restarts"]) == ({"LEVEL": "9", "MORE": "1"}, 3)
    assert json.loads(done(exeio("config", "web")))["env"] == {"LEVEL": "***", "MORE": "***"}
    done(exeio("update", "web", "--reset", "env"))
    assert json.loads(done(exeio("config", "web")))["env"] == {}

    done(exeio("restart", "web", "--wait-seconds", "0.1"))
    done(exeio("signal", "web", "KILL"))
    assert server.wait_status("web", "failed")["exit_signal"] == "SIGKILL"
    done(exeio("start", "web"))
    done(exeio("clear-log", "web"))
    assert "ready" not in done(exeio("logs", "web", "--contains", "got"))
    done(exeio("stop", "web"))
    assert server.get("/status/web")["status"] == "manually_stopped"
    done(exeio("remove", "web", "--purge"))
    assert done(exeio("list")) == ""
    assert not (server.logs / "web.log").exists()


def test_a_periodic_process(exeio, server):
    done(exeio("add", "tick", "--periodic", "--period-seconds", "3600", "--", "echo", "tick"))
    server.wait_status("tick", "waiting")
    done(exeio("run", "tick"))
    wait_for(lambda: server.get("/status/tick")["run_count"] == 2)
    server.wait_status("tick", "waiting")
    assert "in 59m" in done(exeio("list"))


def test_several_and_all(exeio, server):
    for id in "abc":
        done(exeio("add", id, "--save-for-next-run", "--", "sleep", "60"))
    assert len(done(exeio("stop", "a", "b")).splitlines()) == 2
    table = done(exeio("restart-all"))
    assert [line.split()[1] for line in table.splitlines()[1:4]] == ["done", "done", "done"]
    results = json.loads(done(exeio("stop-all", "--json")))["results"]
    assert sorted(result["id"] for result in results) == ["a", "b", "c"]
    saved = json.loads((server.config_dir / "processes.json").read_text())
    (server.config_dir / "processes.json").write_text(json.dumps(saved[:2]))
    done(exeio("reload"))
    assert [each["id"] for each in json.loads(done(exeio("list", "--json")))] == ["a", "b"]


def test_refusals(exeio):
    status, out, err = exeio("add", "web", "--", "no-such-command-here")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "no-such-command-here" in err
    assert exeio("stop", "web")[0] == 1
    status, _, err = exeio("list", "-k", "a-key-that-is-wrong")
    assert status == 1 and "refused the key from --api-key" in err
    assert "exeio" in done(exeio("info", "-k", "a-key-that-is-wrong"))


def test_more_lines_than_one_answer_holds(exeio, server):
    server.sh("many", "i=0; while [ $i -lt 12000 ]; do i=$((i+1)); echo $i; done")
    server.wait_status("many", "stopped")
    lines = done(exeio("logs", "many", "--stream", "stdout", "-n", "11000")).splitlines()
    assert [int(line.split("STDOUT: ")[1]) for line in lines] == list(range(1001, 12001))


def test_as_a_program_of_its_own(server):
    folders = {"EXEIO_CONFIG_DIR": str(server.config_dir), "EXEIO_DATA_DIR": str(server.data_dir)}
    result = run_exeio("list", "--json", home=server.folder, env=folders)
    assert (result.returncode, json.loads(result.stdout), result.stderr) == (0, [], "")
    result = run_exeio("--config-dir", server.config_dir, "list", "--url", server.url, home=server.folder)
    assert (result.returncode, result.stderr) == (0, "")
    result = run_exeio("shutdown", home=server.folder, env=folders)
    assert (result.returncode, result.stderr) == (0, "")
    wait_for(lambda: server.process.poll() is not None)
    result = run_exeio("list", home=server.folder, env=folders)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (3, "", 1)
