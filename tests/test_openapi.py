"""/openapi.json: complete against the table of routes and the table of fields, and true on a real server."""

import json
import re
import socket

import pytest
from schema_check import faults, resolve, undescribed
from support import ROOT, Server

from exeio_core.errors import Invalid
from exeio_core.examples import BODIES, REFUSALS
from exeio_core.openapi import document, operation_id, statuses
from exeio_core.routes import ROUTES
from exeio_core.spec import FIELDS, ProcessSpec

DOCUMENT = json.loads(json.dumps(document(ROUTES)))
SCHEMAS = DOCUMENT["components"]["schemas"]
READ_ONLY = "a-key-that-may-only-read"


def name_of(route):
    return f"{route.method} {route.path}"


def operation(route):
    return DOCUMENT["paths"][route.path][route.method.lower()]


def response(route, status):
    """What is described for a status of a route, with references resolved."""
    found = operation(route)["responses"][str(status)]
    return resolve(DOCUMENT, found["$ref"]) if "$ref" in found else found


def everything(part):
    """All objects in a part of the document."""
    if isinstance(part, dict):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from everything(each)


@pytest.fixture(scope="module")
def api():
    one = Server("--read-only-key", READ_ONLY).start()
    yield one
    one.close()


# Complete


def test_the_description_has_each_route_and_no_other():
    described = {f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items()
                 for method in item if method != "parameters"}
    assert described == {name_of(route) for route in ROUTES}
    ids = [operation(route)["operationId"] for route in ROUTES]
    assert len(set(ids)) == len(ids) and DOCUMENT["openapi"].startswith("3.1.")


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_an_operation_has_its_parameters_its_body_and_its_statuses(route):
    described = operation(route)
    parameters = {one["name"]: one for one in described.get("parameters", []) if one["in"] == "query"}
    assert list(parameters) == route.parameters
    assert all(one["description"] and one["schema"] for one in parameters.values())
    ids = DOCUMENT["paths"][route.path].get("parameters", [])
    assert [resolve(DOCUMENT, one["$ref"])["name"] for one in ids] == re.findall(r"\{(\w+)\}", route.path)
    assert ("requestBody" in described) == (route.body is not None)
    assert {int(status) for status in described["responses"]} == statuses(route)
    assert statuses(route) >= {200, 400, 500, 503, *route.fails}
    assert described.get("security", DOCUMENT["security"]) == (
        [{"key": []}] if not route.open else [{}, {"key": []}] if route.path == "/info" else [])


def test_each_schema_and_each_content_has_an_example_that_is_valid():
    contents = [each for part in everything(DOCUMENT["paths"]) for each in part.get("content", {}).values()]
    contents += [each for part in everything(DOCUMENT["components"]["responses"])
                 for each in part.get("content", {}).values()]
    assert len(contents) > 2 * len(ROUTES)
    for content in contents:
        assert faults(content["example"], content["schema"], DOCUMENT) == []
    for name, schema in SCHEMAS.items():
        assert schema["examples"] and faults(schema["examples"][0], schema, DOCUMENT) == [], name
    for part in everything(DOCUMENT):
        if part.get("in") in ("path", "query") and "schema" in part:
            schema = part["schema"]
            shown = [part["example"]] if "example" in part else schema.get("examples", [schema.get("default")])
            known = schema.get("enum", [schema["const"]] if "const" in schema else shown)
            assert not any(faults(one, schema, DOCUMENT) for one in known if one is not None), part["name"]


def test_each_schema_and_each_refusal_is_used_and_all_references_lead_somewhere():
    used = {part["$ref"] for part in everything(DOCUMENT) if "$ref" in part}
    for reference in used:
        assert resolve(DOCUMENT, reference), reference
    assert used == {f"#/components/{kind}/{name}" for kind in ("schemas", "responses", "parameters")
                    for name in DOCUMENT["components"][kind]}


def test_each_field_is_there_as_it_is_checked_and_explained():
    for name in ("NewProcess", "Changes", "Definition"):
        properties = SCHEMAS[name]["properties"]
        assert {field.name for field in FIELDS} <= set(properties)
        for field in FIELDS:
            assert properties[field.name]["description"] == field.help
            for limit in field.kind.schema().items():
                nullable = limit[0] == "type" or "anyOf" in properties[field.name]
                assert nullable or limit in properties[field.name].items(), (name, field.name)
    assert SCHEMAS["NewProcess"]["required"] == ["id", "command"]
    assert "required" not in SCHEMAS["Changes"]
    assert SCHEMAS["Definition"]["required"] == [field.name for field in FIELDS]


# Right: what the schema lets through is what the checks let through.

VALUES = (
    None, True, False, 0, 1, -1, 5.0, 0.5, 4096, 4095, 99, 100_000, 10**18, "", "x", "TERM", "sigint", "15", "027",
    "0888", "-7", "tree", "on-failure", "exeio",
    "a b", "\0", [], ["a"], ["a", "\0"], [1], [0, 255], [256], [0.5], {}, {"A": "1"},
    {"A": None}, {"A=": "1"}, {"A": 1}, {"EXEIO_RUN": "x"}, {"A": "\0"}, {"": "x"},
)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_the_schema_of_a_field_takes_what_its_check_takes(field):
    took = refused = 0
    for value in VALUES:
        if field.name == "stop_signal" and value in ("x", "tree", "exeio", "027"):
            continue  # which signals there are is the system's affair
        body = {"id": "a", "command": "b", "period_seconds": 1, "restart_delay_seconds": 0, field.name: value}
        try:
            ProcessSpec.from_json(body)
        except Invalid as error:
            if error.field != field.name:
                continue
            right = False
        else:
            right = True
        found = faults(body, SCHEMAS["NewProcess"], DOCUMENT)
        assert (found == []) == right, (value, found)
        took, refused = took + right, refused + (not right)
    assert took and refused


# True


def check(api, method, path, body=None, key=None, **more):
    """One request; what comes back, which must be as described."""
    status, answer = api.call(method, path, body, key=key, **more)
    bare = path.partition("?")[0].replace("/worker", "/{id}").replace("/tick", "/{id}")
    route = next(route for route in ROUTES if (route.method, route.path) == (method, bare))
    assert status in statuses(route), (status, answer)
    content = response(route, status)["content"]
    kind = "application/json" if not isinstance(answer, str) else "text/plain"
    schema = content[kind]["schema"]
    assert faults(answer, schema, DOCUMENT) == [], answer
    assert undescribed(answer, schema, DOCUMENT) == [], answer
    return status, answer, content[kind]["example"]


def messages(answer):
    found = [part["message"] for part in everything(answer) if isinstance(part.get("message"), str)]
    return [re.sub(r"(pid|group) \d+", r"\1 N", text) for text in found]


def test_each_example_is_accepted_and_answered_as_shown(servers):
    """In an order in which each can succeed; what is text by itself or differs from run to run is not compared."""
    server = servers()
    order = ("info", "health", "openapi", "add", "config", "status", "list", "logs", "raw_log", "metrics", "signal",
             "input", "update", "stop", "start", "restart", "restart_all", "stop_all", "run", "clear_log", "reload",
             "remove", "shutdown")
    streams = {operation_id(route) for route in ROUTES if route.stream or route.answer == "Events"}
    assert set(order) | streams == {operation_id(route) for route in ROUTES}
    for name in order:
        route = next(route for route in ROUTES if operation_id(route) == name)
        if name == "run":
            server.post("/update/worker", {"periodic": True, "period_seconds": 3600})
        if name == "reload":
            file = server.config_dir / "processes.json"
            saved = json.loads(file.read_text())
            file.write_text(json.dumps([*saved, {"id": "web", "command": "sleep", "args": ["3600"]}]))
        path = route.path.replace("{id}", "worker")
        status, answer, example = check(server, route.method, path, BODIES.get(name))
        assert status == 200, (name, answer)
        if isinstance(example, dict):
            assert set(answer) == set(example), name
        if name == "openapi":
            assert answer == DOCUMENT
        elif name == "config":
            assert answer == example
        else:
            assert messages(answer) == messages(example)
    assert server.process.wait(10) == 0


def test_what_a_parameter_asks_for_is_answered_as_described(api):
    api.add("worker", "cat")
    api.add("tick", "true", periodic=True, period_seconds=3600)
    api.wait_status("tick", "waiting")
    assert "history" in check(api, "GET", "/status/tick")[1]
    api.post("/input/worker", {"input": "begun ", "newline": False})
    for query in ("?page=1&page_size=1&order=asc&stream=system&contains=started", "?since=2025-01-01&until=2999-01-01"):
        assert check(api, "GET", f"/logs/worker{query}")[0] == 200
    assert check(api, "GET", "/logs/worker/raw?tail_bytes=10")[0] == 200
    assert check(api, "GET", "/config/worker?secrets=true")[0] == 200
    status, answer, example = check(api, "POST", "/stop/worker?wait=false")
    assert (status, messages(answer)) == (202, messages(example))
    assert check(api, "POST", "/remove/worker?purge=true")[0] == 200
    assert check(api, "GET", "/info", key="")[0] == 200


def test_a_failure_of_one_of_all_is_answered_as_described(servers):
    server = servers()
    server.add("worker", "true", working_dir=str(server.folder))
    server.add("gone", "true")
    folder = server.folder / "folder"
    folder.mkdir()
    server.post("/update/gone", {"working_dir": str(folder)})
    folder.rmdir()
    status, answer, _ = check(server, "POST", "/restart-all")
    assert (status, len(answer["results"])) == (500, 2)


def provoked(api):
    """A request for each refusal that a client can have at once."""
    head = f"Host: x\r\nexeio-api-key: {api.key}\r\n"
    return {
        400: f"POST /add HTTP/1.1\r\n{head}Content-Length: 11\r\n\r\n" + '{"id": "x"}',
        401: "GET /list HTTP/1.1\r\nHost: x\r\n\r\n",
        403: f"POST /add HTTP/1.1\r\nHost: x\r\nexeio-api-key: {READ_ONLY}\r\n\r\n",
        404: f"GET /status/worker HTTP/1.1\r\n{head}\r\n",
        405: f"PUT /list HTTP/1.1\r\n{head}\r\n",
        413: f"POST /add HTTP/1.1\r\n{head}Content-Length: 1048577\r\n\r\n",
        414: f"GET /{'x' * 8192} HTTP/1.1\r\n{head}\r\n",
        415: f"POST /add HTTP/1.1\r\n{head}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}",
        417: f"GET /list HTTP/1.1\r\n{head}Expect: tea\r\n\r\n",
        431: f"GET /list HTTP/1.1\r\n{head}{'a: b' * 1}\r\n" + "a: b\r\n" * 100 + "\r\n",
        501: f"POST /add HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n",
        505: f"GET /list HTTP/2.0\r\n{head}\r\n",
    }


@pytest.fixture(scope="module")
def without_worker():
    one = Server("--read-only-key", READ_ONLY).start()
    yield one
    one.close()


SAID_ELSEWHERE = {
    408: "http_connection.py", 409: "supervisor.py", 500: "removing.py", 503: "http_server.py"}


@pytest.mark.parametrize("status", sorted(REFUSALS))
def test_a_refusal_says_what_its_example_shows(without_worker, status):
    name, message = REFUSALS[status].name, REFUSALS[status].message
    described = DOCUMENT["components"]["responses"][name]
    if status in SAID_ELSEWHERE:
        # It takes a while, or a machine without room: at least the sentence is there.
        source = (ROOT / "exeio_core" / SAID_ELSEWHERE[status]).read_text("utf-8")
        words = re.split(r"'worker'|: Read-only.*", message)
        assert max(words, key=len).strip() in source
        return
    api = without_worker
    with socket.create_connection((api.host, api.port), timeout=10) as client:
        client.sendall(provoked(api)[status].encode())
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.split(" ", 2)[1] == str(status), answer
    assert json.loads(body) == described["content"]["application/json"]["example"]
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    for field, about in described.get("headers", {}).items():
        assert not about.get("required") or faults(fields[field], about["schema"], DOCUMENT) == []


def test_the_description_needs_a_key_of_which_either_will_do(api):
    assert api.call("GET", "/openapi.json", key="")[0] == 401
    for key in (api.key, READ_ONLY):
        status, answer = api.call("GET", "/openapi.json", key=key)
        assert (status, answer) == (200, DOCUMENT)


def test_the_checker_of_these_tests_refuses_what_is_wrong():
    wrong = [
        (1, {"type": "string"}), (True, {"type": "integer"}), (1.5, {"type": "integer"}), ("b", {"enum": ["a"]}),
        (1, {"const": True}), ("a\n", {"pattern": "^a$"}), ("", {"minLength": 1}), (1, {"minimum": 2}),
        (3, {"maximum": 2}), ([], {"minItems": 1}), ({"a": 1}, {"properties": {"a": {"type": "null"}}}),
        ({}, {"required": ["a"]}), ({"a": 1}, {"type": "object", "additionalProperties": False}),
        ({"a": 1}, {"type": "object", "additionalProperties": {"type": "string"}}),
        ({"a": 1}, {"propertyNames": {"minLength": 2}}), ([1], {"items": {"type": "string"}}),
        (1, {"anyOf": [{"type": "null"}, {"type": "string"}]}), (1, {"not": {"const": 1}}),
        (1, {"if": {"type": "integer"}, "then": {"minimum": 2}}), ({}, {"$ref": "#/components/schemas/Done"}),
    ]
    assert [one for one in wrong if not faults(*one, DOCUMENT)] == []
    assert faults(1, {"type": ["string", "integer"]}, DOCUMENT) == []
    with pytest.raises(AssertionError, match="oneOf is not known"):
        faults(1, {"oneOf": []}, DOCUMENT)
    more = [{"success": True, "message": "", "more": 1}]
    assert undescribed(more, {"items": SCHEMAS["Done"]}, DOCUMENT) == ["$[].more"]
