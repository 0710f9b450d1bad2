"""The README of the Rust program, word for word: its requests, pasted into a shell, do here what it says.

The programs that it starts are stand-ins on the server's PATH. Its texts are kept as they are but for the port, the
key, and the folders, which would have to be made in the root of this machine.
"""

import json
import os
import re
import subprocess

import pytest
from support import Server, clean_environment, need, wait_for

KEY = "exeio_philo1a2b3c4d5e6f"

# Quick start, 2 and 3.
QUICK_START = r"""
# Add a simple web server
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: exeio_philo1a2b3c4d5e6f" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "web-server",
    "command": "python3",
    "args": ["-m", "http.server", "8000"],
    "working_dir": "/var/www/html",
    "auto_restart": true,
    "save_for_next_run": true
  }'
# List all processes
curl -H "exeio-api-key: exeio_philo1a2b3c4d5e6f" \
  http://localhost:8080/list

# View process logs
curl -H "exeio-api-key: exeio_philo1a2b3c4d5e6f" \
  "http://localhost:8080/logs/web-server?page=1&page_size=50"
"""

# Example 1: Web Development Environment
EXAMPLE_1 = r"""
# Start multiple development servers
API_KEY="your-api-key"

# Backend API server
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "api-server",
    "command": "npm",
    "args": ["run", "dev"],
    "working_dir": "/projects/api",
    "auto_restart": true,
    "save_for_next_run": true
  }'

# Frontend development server
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "frontend",
    "command": "npm",
    "args": ["run", "serve"],
    "working_dir": "/projects/frontend",
    "auto_restart": true,
    "save_for_next_run": true
  }'

# Database
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "database",
    "command": "docker",
    "args": ["run", "--rm", "-p", "5432:5432", "-e", "POSTGRES_PASSWORD=dev", "postgres:13"],
    "auto_restart": true,
    "save_for_next_run": false
  }'
"""

# Example 2: Periodic Data Processing
EXAMPLE_2 = r"""
# Schedule a data backup every hour
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "hourly-backup",
    "command": "/scripts/backup.sh",
    "args": ["--incremental"],
    "working_dir": "/var/backups",
    "periodic": true,
    "period_seconds": 3600,
    "save_for_next_run": true
  }'

# Log processing every 5 minutes
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "log-processor",
    "command": "python3",
    "args": ["process_logs.py"],
    "working_dir": "/opt/log-processor",
    "periodic": true,
    "period_seconds": 300,
    "save_for_next_run": true
  }'
"""

# Example 3: Microservices Management
EXAMPLE_3 = r"""
# Service discovery
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "consul",
    "command": "consul",
    "args": ["agent", "-dev"],
    "auto_restart": true,
    "save_for_next_run": true
  }'

# User service
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "user-service",
    "command": "java",
    "args": ["-jar", "user-service.jar"],
    "working_dir": "/services/user",
    "auto_restart": true,
    "save_for_next_run": true
  }'

# Order service
curl -X POST http://localhost:8080/add \
  -H "exeio-api-key: $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "id": "order-service",
    "command": "node",
    "args": ["index.js"],
    "working_dir": "/services/order",
    "auto_restart": true,
    "save_for_next_run": true
  }'
"""

# Troubleshooting, 3 and 4.
TROUBLE = r"""
# Check process logs
curl -H "exeio-api-key: your-key" \
  "http://localhost:8080/logs/process-id"
# Verify API key in headers
curl -v -H "exeio-api-key: wrong-key" \
  http://localhost:8080/list
"""

# What is said there about each process: what the stand-in is to print, and its schedule.
LONG = {
    "web-server": "python3 -m http.server 8000", "api-server": "npm run dev", "frontend": "npm run serve",
    "database": "docker run --rm -p 5432:5432 -e POSTGRES_PASSWORD=dev postgres:13", "consul": "consul agent -dev",
    "user-service": "java -jar user-service.jar", "order-service": "node index.js",
}
PERIODIC = {"hourly-backup": ("backup.sh --incremental", 3600), "log-processor": ("python3 process_logs.py", 300)}
FOLDERS = {"web-server": "/var/www/html", "api-server": "/projects/api", "frontend": "/projects/frontend",
           "hourly-backup": "/var/backups", "log-processor": "/opt/log-processor", "user-service": "/services/user",
           "order-service": "/services/order"}
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*"
echo "Warning: deprecated API usage" >&2
case "$*" in *process_logs.py|*--incremental) exit 0; esac
exec sleep 600
"""


@pytest.fixture
def rust():
    """A server with the README's key, and stand-ins for the programs and folders of its examples."""
    server = Server("--api-key", KEY)
    tools = server.folder / "tools"
    for path in [*(tools / name for name in ("npm", "node", "docker", "consul", "java", "python3")),
                 server.folder / "scripts" / "backup.sh"]:
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN)
        path.chmod(0o755)
    for folder in FOLDERS.values():
        (server.folder / folder[1:]).mkdir(parents=True)
    server.env["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    try:
        yield server.start()
    finally:
        server.close()


def paste(server, text):
    """Paste text of the README into a shell; the answers of its curls as (status, JSON)."""
    text = text.replace("localhost:8080", f"localhost:{server.port}").replace("your-api-key", KEY)
    text = text.replace('"working_dir": "/', f'"working_dir": "{server.folder}/')
    text = text.replace('"command": "/', f'"command": "{server.folder}/')
    wrapper = f'curl() {{ {need("curl")} --silent --noproxy "*" --write-out "\\n%{{http_code}}\\n" "$@"; }}\n'
    result = subprocess.run(
        ["sh", "-c", f"API_KEY={KEY}\n{wrapper}{text}"], capture_output=True, text=True, timeout=30,
        env=clean_environment(server.folder), check=False)
    assert result.returncode == 0, result
    lines = result.stdout.splitlines()
    return [(int(status), json.loads(answer)) for answer, status in zip(lines[::2], lines[1::2])]


def test_the_quick_start_and_the_three_examples(rust):
    added, (_, listed), (_, logs) = paste(rust, QUICK_START)
    assert added == (200, {"success": True, "message": "Process 'web-server' added and started", "id": "web-server"})
    assert [(shown["id"], shown["status"]) for shown in listed] == [("web-server", "running")]
    assert logs["success"] is True and (logs["page"], logs["page_size"]) == (1, 50)
    assert 1 <= logs["total_lines"] <= 3 and len(logs["logs"]) == logs["total_lines"] and logs["total_pages"] == 1

    answers = paste(rust, EXAMPLE_1) + paste(rust, EXAMPLE_2) + paste(rust, EXAMPLE_3)
    assert [(status, answer["success"]) for status, answer in answers] == [(200, True)] * 8
    for id in PERIODIC:
        rust.wait_status(id, "waiting")
    shown = {one["id"]: one for one in rust.get("/list")}
    assert set(shown) == {*LONG, *PERIODIC}
    assert all(one["is_running"] for one in shown.values())
    for id, line in LONG.items():
        assert (shown[id]["status"], shown[id]["auto_restart"], shown[id]["periodic"]) == ("running", True, False)
        wait_for(lambda id=id, line=line: f"] STDOUT: {line}\n" in rust.log(id), what=f"the output of {id}")
    for id, (line, period) in PERIODIC.items():
        assert (shown[id]["periodic"], shown[id]["period_seconds"], shown[id]["run_count"]) == (True, period, 1)
        assert f"] RUN#1 STDOUT: {line}\n" in rust.log(id)
    for id, folder in FOLDERS.items():
        assert shown[id]["working_dir"] == f"{rust.folder}{folder}"
    saved = {entry["id"] for entry in json.loads((rust.config_dir / "processes.json").read_text())}
    assert saved == {*LONG, *PERIODIC} - {"database"}

    stamp = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "
    place = rf"SYSTEM 127\.0\.0\.1:{rust.port}: "
    wait_for(lambda: re.fullmatch(
        rf"{stamp}{place}started with pid \d+\n"
        rf"(?:{stamp}(?:STDOUT: npm run dev|STDERR: Warning: deprecated API usage)\n){{2}}", rust.log("api-server")),
        what="the README's format")
    assert re.match(rf"{stamp}{place}exeio process supervisor started\n", rust.log("exeio"))
    rust.post("/stop/api-server")
    wait_for(lambda: re.search(rf"{stamp}{place}Process stopped manually\n$", rust.log("api-server")))

    rust.stop()
    rust.start()
    for id in PERIODIC:
        rust.wait_status(id, "waiting")
    words = {**{id: "running" for id in LONG if id != "database"}, **dict.fromkeys(PERIODIC, "waiting"),
             "api-server": "manually_stopped"}
    wait_for(lambda: {one["id"]: one["status"] for one in rust.get("/list")} == words)


def test_the_requests_of_the_reference(rust):
    """Method, path and body as the reference has them, in an order that makes sense."""
    body = """{
  "id": "my-process",
  "command": "node",
  "args": ["server.js"],
  "working_dir": "/app",
  "auto_restart": true,
  "save_for_next_run": true,
  "periodic": false,
  "period_seconds": null
}"""
    (rust.folder / "app").mkdir()
    whole = """{
  "id": "unique-process-id",
  "command": "executable-name",
  "args": ["arg1", "arg2"],
  "working_dir": "/optional/working/directory",
  "auto_restart": true,
  "save_for_next_run": true,
  "periodic": false,
  "period_seconds": 60
}"""
    (rust.folder / "optional/working/directory").mkdir(parents=True)
    (rust.folder / "tools" / "node").rename(rust.folder / "tools" / "executable-name")
    (rust.folder / "tools" / "node").write_text("#!/bin/sh\necho \"$*\"\nexec cat\n")
    (rust.folder / "tools" / "node").chmod(0o755)

    def there(text):
        return text.replace('"working_dir": "', f'"working_dir": "{rust.folder}').encode()

    for method, path, given in (
            ("POST", "/add", there(body)), ("POST", "/add", there(whole)), ("POST", "/restart/my-process", None),
            ("POST", "/input/my-process", b'{\n  "input": "command to send to process stdin"\n}'),
            ("POST", "/clear-log/unique-process-id", None), ("POST", "/stop/my-process", None),
            ("POST", "/restart-all", None), ("POST", "/stop-all", None), ("POST", "/remove/my-process", None)):
        status, answer = rust.call(method, path, given)
        assert (status, answer["success"]) == (200, True), (path, answer)
        assert isinstance(answer["message"], str) and answer["message"]
        if "/input" in path:
            wait_for(lambda: "] STDOUT: command to send to process stdin\n" in rust.log("my-process"))
    assert "] STDOUT: server.js\n" in rust.log("my-process")
    assert [shown["id"] for shown in rust.get("/list")] == ["unique-process-id"]
    assert rust.get("/logs/unique-process-id?page=1&page_size=50")["success"] is True
    status, answer = rust.call("GET", "/info", key="")
    assert status == 200 and answer["name"] == "exeio"
    assert rust.call("POST", "/shutdown") == (200, {"success": True, "message": "exeio is shutting down"})
    assert rust.process.wait(10) == 0


def test_the_requests_of_the_troubleshooting(rust):
    """They are refused, as they are to be: a key that is not this server's."""
    (first, _), (second, answer) = paste(rust, TROUBLE)
    assert (first, second) == (401, 401)
    assert answer["success"] is False and "exeio-api-key" in answer["message"]
