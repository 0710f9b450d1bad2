"""What makes exeio a service, as text: a systemd unit, an OpenRC script, a crontab line. Nothing is written in here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import List, Optional

from exeio_core.errors import Invalid

#: What is in every text, so that `uninstall` takes away what `install` wrote and nothing else.
MARK = "written by `exeio install`"

CONFIG_DIR = "/etc/exeio"
STATE_DIR = "/var/lib/exeio"
KEY_FILE = CONFIG_DIR + "/api-key"

# Powers over the kernel itself. What exeio runs can still use sudo, other setuid programs and all devices, which the
# options that imply NoNewPrivileges= or DevicePolicy= would keep it from.
_KERNEL_POWERS = "CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYSLOG CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_AUDIT_CONTROL CAP_BPF"


@dataclass(frozen=True)
class Service:
    """What is to run: the command up to `serve`, its options, the account, the folders; None for the usual."""

    command: List[str]
    options: List[str]
    account: Optional[str] = None
    config_dir: Optional[str] = None
    data_dir: Optional[str] = None

    def with_folders(self) -> List[str]:
        """The whole command line, with the folders as options."""
        folders = (("--config-dir", self.config_dir), ("--data-dir", self.data_dir))
        named = [word for option, folder in folders if folder is not None for word in (option, folder)]
        return [*self.command, "serve", *named, *self.options]


def system_folders(account: Optional[str]) -> List[str]:
    """The config and the data folder of a service of the whole machine."""
    # What systemd makes in /etc belongs to root, whatever account the unit has.
    return [CONFIG_DIR, STATE_DIR] if account is None else [STATE_DIR + "/config", STATE_DIR + "/data"]


def system_unit(service: Service) -> str:
    """A unit of the system's manager; its folders are made by systemd, its key is a credential."""
    sandbox = [
        "# Not for what services need: sudo, setuid programs, devices, /tmp and home folders stay as they are.",
        "ProtectControlGroups=yes",
        f"CapabilityBoundingSet=~{_KERNEL_POWERS}",
    ]
    if service.account is not None:
        sandbox.append("ProtectSystem=full")
    lines = [
        *_head("systemctl edit exeio"),
        "After=network-online.target", "Wants=network-online.target", "",
        *_service(service),
        *([f"User={service.account}"] if service.account is not None else []),
        "StateDirectory=exeio", "StateDirectoryMode=0700", "ConfigurationDirectory=exeio",
        "ConfigurationDirectoryMode=0700",
        f"LoadCredential=exeio-api-key:{KEY_FILE}", "",
        *sandbox, *_closer("PrivateTmp=yes", "ProtectHome=read-only"), "",
        "[Install]", "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def user_unit(service: Service) -> str:
    """A unit of an account's own manager."""
    lines = [
        *_head("systemctl --user edit exeio"), "", *_service(service), *_closer(), "",
        "[Install]", "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _head(edit: str) -> List[str]:
    return [
        f"# This file was {MARK}, and `exeio uninstall` removes it. Your own changes: {edit}",
        "[Unit]", "Description=exeio process supervisor",
    ]


def _service(service: Service) -> List[str]:
    return [
        "[Service]",
        "Type=notify", "NotifyAccess=main",
        "ExecStart=" + " ".join(unit_word(word) for word in service.with_folders()),
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure", "RestartSec=5", "# A wrong option is not better the next time.",
        "RestartPreventExitStatus=2",
        "WatchdogSec=60",
        "# exeio stops its processes itself, each in its own way, and says how long that may take.",
        "KillMode=mixed", "TimeoutStopSec=90",
        "# One process that the kernel kills for want of memory does not end all others.",
        "OOMPolicy=continue", "TasksMax=infinity",
    ]


def _closer(*more: str) -> List[str]:
    return ["# Closes more, where no process needs sudo or another setuid program:",
            *(f"#{option}" for option in ("NoNewPrivileges=yes", *more))]


def unit_word(word: str) -> str:
    """A word of ExecStart= as systemd.service(5) quotes it. Raises Invalid for what cannot stand in a unit."""
    if not word.isprintable():
        raise Invalid(f"{word!r} cannot stand in a unit: it holds a character that is not printable")
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return text if text and not set(text) & set(" '\";") else f'"{text}"'


def cron_line(service: Service, path: str) -> str:
    """A line of a crontab that starts exeio when the machine starts, with `path` as PATH. Raises Invalid."""
    # cron has a PATH of two folders; what was found when exeio was installed is to be found after a reboot, too.
    words = [f"PATH={shlex.quote(path)}", *map(shlex.quote, [*service.with_folders(), "--daemon"]), ">/dev/null"]
    line = " ".join(words)
    if not line.isprintable():
        raise Invalid("the command or PATH holds a character that cannot stand in a crontab")
    return "@reboot " + line.replace("%", "\\%") + f"  # {MARK}"


def openrc_script(service: Service) -> str:
    """An OpenRC script, openrc-run(8)."""
    command, *arguments = service.with_folders()
    folders = [folder for folder in (service.config_dir, service.data_dir) if folder is not None]
    owner = [] if service.account is None else ["-o", service.account]
    made = " ".join(map(shlex.quote, ["checkpath", "-d", "-m", "0700", *owner]))
    lines = [
        "#!/sbin/openrc-run",
        f"# This file was {MARK}, and `exeio uninstall --openrc` removes it.",
        "",
        'name="exeio"',
        'description="exeio process supervisor"',
        f"command={shlex.quote(command)}",
        f"command_args={shlex.quote(' '.join(map(shlex.quote, arguments)))}",
        *([f"command_user={shlex.quote(service.account)}"] if service.account is not None else []),
        "command_background=yes",
        'pidfile="/run/${RC_SVCNAME}.pid"',
        "# exeio stops its processes itself, each in its own way; what is left after that time is killed.",
        'retry="TERM/90/KILL/5"',
        'extra_started_commands="reload"',
        "",
        "depend() {",
        "\tuse net dns",
        "\tafter firewall",
        "}",
        "",
        "start_pre() {",
        *([f"\t{made} {shlex.quote(STATE_DIR)}"] if owner else []),
        *(f"\t{made} {shlex.quote(folder)}" for folder in folders),
        "}",
        "",
        "reload() {",
        '\tebegin "Reloading ${name}"',
        '\tstart-stop-daemon --signal HUP --pidfile "${pidfile}"',
        "\teend $?",
        "}",
    ]
    return "\n".join(lines) + "\n"
