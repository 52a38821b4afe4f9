"""Signals, of the kind that Flask has. The sender is the app."""

from __future__ import annotations

from blinker import Namespace
from blinker import Signal

_signals = Namespace()

#: Sent when a prefix goes down: a command has used up its deadline because of the
#: server. ``prefix`` is the prefix, and ``error`` the last error of the command.
#: A cluster is down when the first of its shards is.
#:
#: .. versionadded:: 2.0
prefix_down: Signal = _signals.signal("prefix-down")

#: Sent when a prefix that was down answers again. ``prefix`` is the prefix, and
#: ``seconds`` how long it was down. A cluster is up when all of its shards are.
#:
#: .. versionadded:: 2.0
prefix_up: Signal = _signals.signal("prefix-up")

#: Sent after each command, and after each execution of a pipeline.
#:
#: -   ``prefix``: the prefix
#: -   ``commands``: a tuple with the name of the command, or the names of all commands
#:     of a pipeline, without arguments and keys
#: -   ``seconds``: how long it took, with all tries and the pauses between them
#: -   ``tries``: how often it was tried. 0 if it failed at once because the prefix is
#:     down.
#: -   ``error``: the exception that was raised, or None
#:
#: .. versionadded:: 2.0
command_finished: Signal = _signals.signal("command-finished")
