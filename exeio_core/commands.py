"""The table of the client's commands: help, completion and manual page are made from it."""

from __future__ import annotations

from typing import Dict, NamedTuple, Optional


class Command(NamedTuple):
    """A command of the client. `words`: what it takes beside options, as the help shows it.

    In `example` and `more`, `EXEIO ` stands for the program's name.
    """

    name: str
    words: str
    least: int
    most: Optional[int]
    help: str
    example: str
    dashes: bool = False  # takes `-- COMMAND [ARG …]`
    also: str = ""  # another form of it, for the line of usage
    more: str = ""  # what the help says beyond its one line


_PATTERNS = "An ID may be a pattern, such as 'web-*'; quote it, or the shell looks for files."


def _on_ids(name: str, help: str, example: str, words: str = "ID …") -> Command:
    return Command(name, words, words.count(" "), None, help, example, more=_PATTERNS)


def _alone(name: str, help: str) -> Command:
    return Command(name, "", 0, 0, help, f"EXEIO {name}")


COMMANDS: Dict[str, Command] = {
    command.name: command
    for command in (
        Command("list", "", 0, 0, "show all processes", "EXEIO list\n  EXEIO list --json"),
        _on_ids("status", "show processes in full", "EXEIO status web\n  EXEIO status 'web-*' --json"),
        Command(
            "add", "ID [options] -- COMMAND [ARG …]", 0, 1, "add a process and start it",
            "EXEIO add web --auto-restart -- python3 -m http.server 8000\n"
            "  EXEIO add backup --periodic --period-seconds 3600 --env LEVEL=9 -- /scripts/backup.sh\n"
            "  EXEIO add -f processes.json --save-for-next-run\n"
            "  EXEIO config web --secrets | EXEIO add web-2 -f - --env PORT=8001",
            dashes=True, also="[ID] [options] -f FILE",
            more="A FILE holds a JSON object as config prints it, or a list of them as in processes.json; options\n"
            "given as well hold for all of them.",
        ),
        Command(
            "update", "ID [options] [-- COMMAND [ARG …]]", 1, 1, "change fields of a process",
            "EXEIO update web --env PORT=8001 --stop-timeout-seconds 30\n"
            "  EXEIO update web --reset max_restarts",
            dashes=True,
        ),
        Command(
            "edit", "ID", 1, 1, "change a process's definition in your editor",
            "EXEIO edit web\n  VISUAL=nano EXEIO edit web",
            more="The editor is $VISUAL, $EDITOR or what this system has. The text has the values of env in it; the\n"
            "file is readable for you alone. What you changed is applied when the editor ends; a field that you\n"
            "took out gets its default.",
        ),
        Command("config", "ID", 1, 1, "show a process's definition, as JSON", "EXEIO config web --secrets"),
        _on_ids("start", "start processes that are not running", "EXEIO start web worker\n  EXEIO start 'web-*'"),
        _on_ids("stop", "stop processes, until they are started again", "EXEIO stop web\n  EXEIO stop 'web-*'"),
        _on_ids(
            "restart", "stop processes if needed, and start them, one after the other",
            "EXEIO restart web --wait-seconds 2\n  EXEIO restart 'web-*'"),
        _on_ids("run", "run periodic processes once now; the schedule stays", "EXEIO run backup"),
        _on_ids("remove", "stop processes and forget them", "EXEIO remove web --purge"),
        _on_ids(
            "signal", "send a signal to processes", "EXEIO signal web HUP\n  EXEIO signal 'web-*' USR1", "ID … NAME"),
        Command(
            "input", "ID [TEXT]", 1, 2, "send a line of text to the stdin of a process",
            "EXEIO input game 'say hello'\n  EXEIO input filter --eof",
        ),
        Command(
            "wait", "ID … --for STATUS", 1, None, "wait until processes have a status",
            "EXEIO wait web --for running --timeout 10\n  EXEIO wait job --for ended && echo over\n"
            "  EXEIO wait 'web-*' --for stopped,manually_stopped",
            more="STATUS is one of those that list shows, several with commas between them, or `ended` (stopped,\n"
            "failed or manually_stopped). A status that lasts for less than a second can be missed. Exit status\n"
            "1: not within the time. " + _PATTERNS,
        ),
        Command(
            "logs", "[ID …]", 0, None, "show the last lines of logs, oldest first",
            "EXEIO logs web -n 200\n  EXEIO logs web -f --stream stderr\n  EXEIO logs 'web-*' --since 10m\n"
            "  EXEIO logs -f --contains error",
            more="Without an ID: of all processes. " + _PATTERNS,
        ),
        _on_ids("clear-log", "empty the logs of processes", "EXEIO clear-log web"),
        _alone("restart-all", "restart all processes"),
        _alone("stop-all", "stop all processes, until they are started again"),
        _alone("reload", "apply an edited processes.json"),
        _alone("info", "show what the supervisor says about itself (needs no key)"),
        _alone("shutdown", "stop all processes and the supervisor"),
        Command(
            "import", "FILE", 1, 1, "read the file of another supervisor, and show what it would add",
            "EXEIO import /etc/supervisor/supervisord.conf\n  EXEIO import Procfile --apply\n"
            "  EXEIO import ecosystem.json --json",
            more="FILE is a supervisord.conf with what it includes, a Procfile with the .env beside it, or an\n"
            "ecosystem file of pm2 in JSON. What cannot be mapped is listed with the reason.",
        ),
        Command(
            "install", "[options] [-- SERVE OPTIONS]", 0, None, "make exeio a service that starts with the machine",
            "EXEIO install                       a systemd unit: of the system for root, else of your account\n"
            "  EXEIO install --print               only show it\n"
            "  EXEIO install --run-as exeio -- --port 3000 --unix-socket /run/exeio.sock\n"
            "  EXEIO install --cron                without systemd: a line in your crontab",
            more="What stands behind -- are options of serve. Nothing is started; it says what is next.",
        ),
        Command(
            "uninstall", "[options]", 0, 0, "remove what install has written",
            "EXEIO uninstall\n  EXEIO uninstall --cron",
            more="Saved processes, logs and the key stay.",
        ),
        Command(
            "completion", "SHELL", 1, 1, "print a script that completes commands, options and ids in a shell",
            "source <(EXEIO completion bash)          in ~/.bashrc\n"
            "  source <(EXEIO completion zsh)           in ~/.zshrc, behind compinit\n"
            "  EXEIO completion fish | source           in ~/.config/fish/config.fish",
            more="SHELL is bash, zsh or fish. It completes for the names exeio, exeio.py and exeio.pyz.",
        ),
        Command(
            "man", "", 0, 0, "print the manual page",
            "EXEIO man | man -l -\n  EXEIO man > /usr/local/share/man/man1/exeio.1"),
    )
}
