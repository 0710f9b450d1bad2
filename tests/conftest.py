"""Fixtures for all tests, and the rule that in CI a check is not skipped for want of a tool."""

import os
import signal

import pytest
from client_helpers import exeio, fake, home  # noqa: F401 - fixtures
from support import NOT_HERE, Server


@pytest.fixture
def servers():
    """Starts servers with options of their own, `servers("--no-echo", env={…})`; all are closed after it."""
    made = []

    def start(*options, env=None):
        server = Server(*options, env=env)
        made.append(server)
        return server.start()

    yield start
    failures = []
    for server in made:
        try:
            server.close()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture
def server(servers):
    """A server on a free port with fresh folders; nothing of it may be left when the test is over."""
    return servers()


def pytest_configure():
    # A shell starts what is in its background with SIGINT ignored; clients that a test interrupts would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _refuse_skip(report):
    """Where EXEIO_REQUIRE_TOOLS is set a skip is a failure, unless for this system or interpreter."""
    if not (os.environ.get("EXEIO_REQUIRE_TOOLS") and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.replace("Skipped: ", "", 1).startswith(NOT_HERE):
        report.outcome = "failed"
        report.longrepr = f"{reason}; with EXEIO_REQUIRE_TOOLS nothing is skipped for want of a tool"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    result = yield
    _refuse_skip(result.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report():
    result = yield
    _refuse_skip(result.get_result())


def pytest_collection_modifyitems(config, items):
    """Keep the part of the tests that EXEIO_TESTS_PART names, "0/2" or "1/2" (run.py)."""
    part, _, parts = os.environ.get("EXEIO_TESTS_PART", "0/1").partition("/")
    left_out = [item for number, item in enumerate(items) if number % int(parts) != int(part)]
    if left_out:
        items[:] = [item for number, item in enumerate(items) if number % int(parts) == int(part)]
        config.hook.pytest_deselected(items=left_out)
