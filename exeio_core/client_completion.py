"""The command `completion`: scripts that complete commands, options and ids, from the tables of both."""

from __future__ import annotations

import os
import shlex
from typing import Callable, Dict, Iterable, List, Set

from exeio_core.client import find_client
from exeio_core.client_many import ids
from exeio_core.client_options import Call
from exeio_core.client_table import COMMON, SHELLS, Option, options_of, words_of
from exeio_core.commands import COMMANDS
from exeio_core.errors import ExeioError
from exeio_core.options import UsageError, program

NAMES = ("exeio", "exeio.py", "exeio.pyz")
_PATIENCE = 2.0  # seconds that somebody who has pressed Tab waits for the ids


def complete(call: Call) -> int:
    """Print the script for a shell; with the word `ids`, which the scripts use, the ids of all processes."""
    wanted = call.words[0]
    if wanted == "ids":
        try:
            client = find_client(call.connection, os.environ, key_needed=True)
            print(end="".join(f"{id}\n" for id in ids(client, _PATIENCE)))
        except ExeioError:
            return 1  # nothing is said into the line that somebody is typing
        return 0
    if wanted not in _SCRIPTS:
        raise UsageError(f"completion takes {' or '.join(SHELLS)}, not {wanted!r}")
    print(end=_SCRIPTS[wanted]())
    return 0


def _tables() -> Dict[str, List[Option]]:
    """The options of each command; those before a command are of serve and of every client's."""
    tables = {name: options_of(name) for name in COMMANDS}
    serve = options_of("serve")
    known = {name for option in serve for name in option.names}
    common = [option for option in tables["list"] if option.group == COMMON and not known & set(option.names)]
    return {"": serve + common, "serve": serve, **tables}


def _takes_ids(name: str) -> bool:
    command = COMMANDS.get(name)
    return command is not None and "ID" in command.words and name != "add"


def _with_value(tables: Dict[str, List[Option]]) -> List[str]:
    """Patterns of `command:option` for the options that take the next word; the same name may be a flag elsewhere."""
    takes: Dict[str, Set[str]] = {}
    flags: Set[str] = set()
    for command, options in tables.items():
        for option in options:
            for name in option.names:
                if option.takes_next:
                    takes.setdefault(name, set()).add(command)
                else:
                    flags.add(name)
    found = []
    for name, commands in takes.items():
        found += [f"{command}:{name}" for command in sorted(commands)] if name in flags else [f"*:{name}"]
    return found


def _values(options: Iterable[Option], act: Callable[[str, str], str]) -> Dict[str, str]:
    """For each set of option names, as a pattern, the code that completes what they take."""
    found: Dict[str, str] = {}
    for option in options:
        if not option.takes_next:
            continue
        kind = "files" if option.files else "folders" if option.folders else "words" if option.words else "nothing"
        code = act(kind, " ".join(option.words))
        found[code] = "|".join(filter(None, (found.get(code), *option.names)))
    return {names: code for code, names in found.items()}


def _case(indent: str, tables: Dict[str, List[Option]], act: Callable[[str, str], str], end: str) -> str:
    """A shell's `case` of commands, in each one of the options whose value is to be completed."""
    lines = []
    for command, options in tables.items():
        lines.append(f"{indent}{command or chr(39) * 2})")
        lines.append(f"{indent}    case $prev in")
        lines += [f"{indent}        {names}) {code} ;;" for names, code in _values(options, act).items()]
        lines += [f"{indent}    esac", indent + "    " + end.format(command=command), f"{indent}    ;;"]
    return "\n".join(lines)


def _names(options: Iterable[Option]) -> str:
    return " ".join(name for option in options for name in option.names)


def _all_names() -> str:
    return " ".join(map(shlex.quote, dict.fromkeys((*NAMES, program()))))


# bash

_BASH = r"""# Completion of exeio for bash; it goes into ~/.bashrc as: source <(exeio completion bash)

_exeio_add() {
    local line
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen "$@" -- "$cur" 2> /dev/null)
}

_exeio_files() {
    compopt -o filenames 2> /dev/null
    _exeio_add "$1"
}

_exeio_words() { _exeio_add -W "$1"; }

_exeio_ids() { _exeio_words "$("${program/#\~\//$HOME/}" completion ids 2> /dev/null)"; }

_exeio() {
    local program=$1 cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local command='' options='' tail=0 word i
    COMPREPLY=()
    # readline splits --option=value into three words.
    if [[ $cur == = ]]; then
        cur=''
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == -- ]]; then
            tail=$((COMP_CWORD - i))
            break
        fi
        case "$command:$word" in
            %WITH_VALUE%) [[ ${COMP_WORDS[i + 1]} == = ]] || i=$((i + 1)) ;;
            *:=) i=$((i + 1)) ;;
            *:-*) ;;
            *) [[ -n $command ]] || command=$word ;;
        esac
    done
    if ((tail > 0)); then
        case $command in
            add|update) if ((tail == 1)); then _exeio_add -c; else _exeio_files -f; fi ;;
        esac
        return
    fi
    case $command in
%CASE%
    esac
    if [[ $cur == -* ]]; then
        _exeio_words "$options"
        return
    fi
    case $command in
        '') _exeio_words '%COMMANDS%' ;;
%WORDS%
    esac
}

complete -F _exeio %NAMES%
"""


def _bash() -> str:
    tables = _tables()

    def act(kind: str, words: str) -> str:
        return {"files": "_exeio_files -f; return", "folders": "_exeio_files -d; return", "nothing": "return",
                "words": f"_exeio_words '{words}'; return"}[kind]

    lines = _case("        ", tables, act, "options=%{command}%")
    for command, options in tables.items():
        lines = lines.replace(f"options=%{command}%", f"options='{_names(options)}'")
    words = []
    for name in COMMANDS:
        code = ["_exeio_ids"] * _takes_ids(name) + [f"_exeio_words '{' '.join(words_of(name))}'"] * bool(words_of(name))
        if code:
            words.append(f"        {name}) {'; '.join(code)} ;;")
    return _filled(_BASH, WITH_VALUE="|".join(_with_value(tables)), CASE=lines, WORDS="\n".join(words),
                   COMMANDS=" ".join(("serve", *COMMANDS)), NAMES=_all_names())


def _filled(text: str, **parts: str) -> str:
    for name, part in parts.items():
        text = text.replace(f"%{name}%", part)
    return text


# zsh

_ZSH = r"""#compdef %NAMES%
# Completion of exeio for zsh; it goes into ~/.zshrc, behind compinit, as: source <(exeio completion zsh)

_exeio_ids() {
    local program=${(Q)words[1]}
    local -a found
    found=(${(f)"$("${program/#\~\//$HOME/}" completion ids 2> /dev/null)"})
    compadd -- $found
}

_exeio() {
    local cur=${words[CURRENT]} prev=${words[CURRENT - 1]} command='' word
    local -a options commands
    integer tail=0 i
    for ((i = 2; i < CURRENT; i++)); do
        word=${words[i]}
        if [[ $word == -- ]]; then
            tail=$((CURRENT - i))
            break
        fi
        case "$command:$word" in
            (%WITH_VALUE%) i=$((i + 1)) ;;
            (*:-*) ;;
            (*) [[ -n $command ]] || command=$word ;;
        esac
    done
    if ((tail > 0)); then
        case $command in
            (add|update) if ((tail == 1)); then _command_names -e; else _files; fi ;;
        esac
        return
    fi
    if [[ $cur == --*=* ]]; then
        prev=${cur%%=*}
        compset -P '*='
        cur=''
    fi
    case $command in
%CASE%
    esac
    if [[ $cur == -* ]]; then
        _describe -o option options
        return
    fi
    case $command in
        ('')
            commands=(
%COMMANDS%
            )
            _describe command commands
            ;;
%WORDS%
    esac
}

if [[ ${funcstack[1]} == _exeio ]]; then
    _exeio "$@"
else
    compdef _exeio %NAMES%
fi
"""


def _zsh() -> str:
    tables = _tables()

    def act(kind: str, words: str) -> str:
        return {"files": "_files; return", "folders": "_files -/; return", "nothing": "return",
                "words": f"compadd -- {words}; return"}[kind]

    lines = _case("        ", tables, act, "options=(%{command}%)")
    for command, options in tables.items():
        described = " ".join(_described(name, option.help) for option in options for name in option.names)
        lines = lines.replace(f"options=(%{command}%)", f"options=({described})")
    words = []
    for name in COMMANDS:
        code = ["_exeio_ids"] * _takes_ids(name) + [f"compadd -- {' '.join(words_of(name))}"] * bool(words_of(name))
        if code:
            words.append(f"        ({name}) {'; '.join(code)} ;;")
    known = [("serve", "run the supervisor"), *((each.name, each.help) for each in COMMANDS.values())]
    commands = "\n".join(f"                {_described(name, help)}" for name, help in known)
    return _filled(_ZSH, WITH_VALUE="|".join(_with_value(tables)), CASE=lines, WORDS="\n".join(words),
                   COMMANDS=commands, NAMES=_all_names())


def _described(name: str, help: str) -> str:
    return shlex.quote(f"{name}:{help}")


# fish

_FISH = r"""# Completion of exeio for fish; it goes into config.fish as: exeio completion fish | source

function __exeio_ids
    set -l words (commandline -opc)
    set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
    $program completion ids 2> /dev/null
end

function __exeio_tail
    contains -- -- (commandline -opc)
end

for program in %NAMES%
    complete -c $program -f
%LINES%
    complete -c $program -n '__fish_seen_subcommand_from add update; and __exeio_tail' -F
end
"""


def _fish() -> str:
    lines = []
    first = f"not __fish_seen_subcommand_from serve {' '.join(COMMANDS)}"
    known = [("serve", "run the supervisor"), *((each.name, each.help) for each in COMMANDS.values())]
    for name, help in known:
        lines.append(f"-n {shlex.quote(first)} -a {name} -d {_fish_quoted(help)}")
    for name, options in _tables().items():
        when = shlex.quote(f"__fish_seen_subcommand_from {name}" if name else first)
        if _takes_ids(name):
            lines.append(f"-n {when} -a '(__exeio_ids)'")
        if words_of(name):
            lines.append(f"-n {when} -a '{' '.join(words_of(name))}'")
        lines += [f"-n {when} {_fish_option(option)} -d {_fish_quoted(option.help)}" for option in options]
    text = "\n".join(f"    complete -c $program {line}" for line in lines)
    return _filled(_FISH, LINES=text, NAMES=_all_names())


def _fish_option(option: Option) -> str:
    parts = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.takes_next:
        if option.files:
            parts.append("-r -F")
        elif option.folders:
            parts.append("-x -a '(__fish_complete_directories)'")
        else:
            parts.append(f"-x -a '{' '.join(option.words)}'" if option.words else "-x")
    return " ".join(parts)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SCRIPTS: Dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
