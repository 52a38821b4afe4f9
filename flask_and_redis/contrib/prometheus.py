"""Metrics for Prometheus."""

from __future__ import annotations

import collections.abc as cabc
import functools
import os
import re
import threading
import time
import typing as t
import weakref

from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_client import Counter
from prometheus_client import Gauge
from prometheus_client import Histogram
from prometheus_client import Metric
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily

from ..exceptions import ConfigError
from ..operate.health import count_pool
from ..operate.health import PoolStats
from ..registry import find_registry
from ..signals import command_finished
from ..signals import prefix_down
from ..signals import prefix_up

# The label of the app is not named "app": Kubernetes users give that to all metrics.
_LABELS = ("flask_app", "prefix")
_BY_COMMAND = (*_LABELS, "command")

# Seconds. A command on the same host takes 0.0001, and one that hangs about 10.
_BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

# Seconds between two times that the figures of a pool are written.
_PAUSE = 0.1

# How many names of commands, and of errors, have series of their own.
_MAX_NAMES = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,39}( [A-Z0-9._-]{1,40})?")

# What stands for all other names. No command is in lower case.
_OTHER = "other"
_PIPELINE = "pipeline"

_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

Mode = t.Literal["livesum", "livemostrecent"]


class RedisMetrics:
    """Export metrics about every Redis of an app: whether it is up, its pool, and its
    commands, with their errors, retries and durations.

    :param app: Call :meth:`init_app` on this app.
    :param registry: Where the metrics are registered. Objects with the same registry
        share its metrics. The default is the default registry of ``prometheus_client``.
    :raises ConfigError: If ``PROMETHEUS_MULTIPROC_DIR`` is not an existing directory.

    .. versionadded:: 2.0
    """

    def __init__(
        self, app: Flask | None = None, *, registry: CollectorRegistry = REGISTRY
    ) -> None:
        directory = os.environ.get(_MULTIPROCESS)

        if directory is not None and not os.path.isdir(directory):
            raise ConfigError(
                f"{_MULTIPROCESS!r} must be an existing directory. Create it before"
                " the app starts, or unset the variable."
            )

        if (metrics := _metrics_of.get(registry)) is None:
            metrics = _Metrics(registry, is_shared=directory is not None)
            _metrics_of[registry] = metrics

        self._metrics = metrics

        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Observe the commands of an app, and the outages and pools of its prefixes.
        They may be registered before or after this call.

        :param app: The app. Each metric has its name as the label ``flask_app``: apps
            with the same name share their figures.
        """
        # The app keeps the receivers alive, because signals refer to them weakly.
        app.extensions.setdefault("redis_metrics", set()).add(self._metrics)
        self._metrics.observe(app)


class _Figure(t.NamedTuple):
    """A metric about a prefix itself."""

    name: str
    help: str
    #: How the values of several processes are combined.
    mode: Mode
    #: How the values of several apps with the same name are combined.
    combine: cabc.Callable[[cabc.Iterable[float]], float]
    read: cabc.Callable[[PoolStats], float | None]

    def value(self, stats: cabc.Iterable[PoolStats]) -> float | None:
        """The value, or None if it is unknown."""
        values = [value for value in map(self.read, stats) if value is not None]
        return float(self.combine(values)) if values else None


_FIGURES = (
    _Figure(
        "flask_and_redis_up",
        "0 while commands fail because the prefix is down, otherwise 1.",
        # A process without commands does not notice that the server is back.
        "livemostrecent",
        min,
        lambda stats: not stats.down,
    ),
    _Figure(
        "flask_and_redis_clients",
        "Clients of the prefix: one for each process that has used it.",
        "livesum",
        sum,
        lambda stats: stats.created,
    ),
    _Figure(
        "flask_and_redis_pool_connections_in_use",
        "Connections of the pool that are in use.",
        "livesum",
        sum,
        lambda stats: stats.in_use,
    ),
    _Figure(
        "flask_and_redis_pool_connections_idle",
        "Connections of the pool that are connected and not in use.",
        "livesum",
        sum,
        lambda stats: stats.idle,
    ),
    _Figure(
        "flask_and_redis_pool_connections_max",
        "Connections that the pool may have. Absent without a limit.",
        "livesum",
        sum,
        lambda stats: stats.maximum,
    ),
)


class _Series(t.NamedTuple):
    """The metrics about one command of one prefix."""

    duration: Histogram
    attempts: Counter
    retries: Counter


class _Names:
    """The values of a label. An application that makes up names cannot add a series
    for each of them.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    def limit(self, name: str) -> str:
        """The name, or ``other`` if it is one name too many."""
        if name not in self._names:
            if len(self._names) >= _MAX_NAMES or not _NAME.fullmatch(name):
                return _OTHER

            self._names.add(name)

        return name


class _Metrics:
    """The metrics of one registry.

    :param registry: Where they are registered.
    :param is_shared: Whether several processes write to one directory, from which one
        of them is asked to read. It cannot ask the pools of the others, so each writes
        its figures after a command.
    """

    def __init__(self, registry: CollectorRegistry, is_shared: bool) -> None:
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        self._command_names = _Names()
        self._error_names = _Names()
        self._series: dict[tuple[str, str, str], _Series] = {}
        counter = functools.partial(Counter, registry=registry)
        self._commands = counter(
            "flask_and_redis_commands_total",
            "Commands, including each command of a pipeline.",
            _BY_COMMAND,
        )
        self._duration = Histogram(
            "flask_and_redis_command_duration_seconds",
            "How long a command or a pipeline took, with all attempts.",
            _BY_COMMAND,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._attempts = counter(
            "flask_and_redis_attempts_total",
            "Attempts at commands and pipelines. None while the prefix is down.",
            _BY_COMMAND,
        )
        self._retries = counter(
            "flask_and_redis_retries_total",
            "Attempts at commands and pipelines after the first one.",
            _BY_COMMAND,
        )
        self._errors = counter(
            "flask_and_redis_errors_total",
            "Commands and pipelines that failed, by the class of the exception.",
            (*_BY_COMMAND, "error"),
        )
        self._outages = counter(
            "flask_and_redis_outages_total",
            "How often the prefix went down, in each process.",
            _LABELS,
        )
        self._is_shared = is_shared
        self._gauges: dict[_Figure, Gauge] = {}
        # For each prefix: the process that wrote its figures last, and until when they
        # count as new. A fork must write them again, because it has files of its own.
        self._written: dict[tuple[str, str], tuple[int, float]] = {}
        # By process, because a fork may inherit a lock that another thread holds.
        self._locks: dict[int, threading.RLock] = {}

        if is_shared:
            self._add_gauges(registry)
        else:
            registry.register(self)

    def _add_gauges(self, registry: CollectorRegistry) -> None:
        for figure in _FIGURES:
            self._gauges[figure] = Gauge(
                figure.name,
                figure.help,
                _LABELS,
                registry=registry,
                multiprocess_mode=figure.mode,
            )

    def observe(self, app: Flask) -> None:
        """Receive the signals of an app. A second call has no effect."""
        self._apps.add(app)
        command_finished.connect(self._receive_command, sender=app)
        prefix_down.connect(self._receive_down, sender=app)
        prefix_up.connect(self._receive_up, sender=app)

    def _receive_command(
        self,
        app: Flask,
        prefix: str,
        commands: tuple[str, ...],
        seconds: float,
        tries: int,
        error: BaseException | None,
    ) -> None:
        names = [self._command_names.limit(command) for command in commands]

        for name in set(names):
            self._commands.labels(app.name, prefix, name).inc(names.count(name))

        key = (app.name, prefix, names[0] if len(names) == 1 else _PIPELINE)

        if (series := self._series.get(key)) is None:
            series = self._series[key] = self._make_series(key)

        series.duration.observe(seconds)
        series.attempts.inc(tries)

        if tries > 1:
            series.retries.inc(tries - 1)

        if error is not None:
            kind = self._error_names.limit(type(error).__name__)
            self._errors.labels(*key, kind).inc()

        if self._is_shared:
            self._write_soon(app.name, prefix)

    def _make_series(self, key: tuple[str, str, str]) -> _Series:
        # It shows 0 before the first outage, so that rate() sees the increase.
        self._outages.labels(*key[:2])
        return _Series(
            self._duration.labels(*key),
            self._attempts.labels(*key),
            self._retries.labels(*key),
        )

    def _receive_down(self, app: Flask, prefix: str, error: BaseException) -> None:
        self._outages.labels(app.name, prefix).inc()

        if self._is_shared:
            self._write(app.name, prefix)

    def _receive_up(self, app: Flask, prefix: str, seconds: float) -> None:
        if self._is_shared:
            self._write(app.name, prefix)

    def _stats(self, name: str, prefix: str) -> list[PoolStats]:
        """The figures of a prefix, for each app with this name."""
        registries = [find_registry(app) for app in self._apps if app.name == name]
        return [
            count_pool(registry, prefix)
            for registry in registries
            if registry is not None and prefix in registry
        ]

    def _write_soon(self, name: str, prefix: str) -> None:
        """Let other processes read the figures of a prefix, unless this process has
        written them a moment ago.
        """
        process, until = self._written.get((name, prefix), (0, 0.0))

        if process != os.getpid() or time.monotonic() >= until:
            self._write(name, prefix)

    def _write(self, name: str, prefix: str) -> None:
        process = os.getpid()

        with self._locks.setdefault(process, threading.RLock()):
            stats = self._stats(name, prefix)

            for figure, gauge in self._gauges.items():
                if (value := figure.value(stats)) is not None:
                    gauge.labels(name, prefix).set(value)

            # If connections are in use, the end of their commands is written at once,
            # because it may be long until the next one.
            pause = 0 if any(each.in_use for each in stats) else _PAUSE
            self._written[name, prefix] = (process, time.monotonic() + pause)

    def describe(self) -> list[Metric]:
        """The metrics of :meth:`collect`, for the registry."""
        return [GaugeMetricFamily(each.name, each.help) for each in _FIGURES]

    def collect(self) -> list[Metric]:
        """The figures of all prefixes at this moment."""
        keys = {
            (app.name, prefix)
            for app in self._apps
            for prefix in list(find_registry(app) or ())
        }
        figures = {key: self._stats(*key) for key in sorted(keys)}
        families: list[Metric] = []

        for figure in _FIGURES:
            family = GaugeMetricFamily(figure.name, figure.help, labels=_LABELS)

            for key, stats in figures.items():
                if (value := figure.value(stats)) is not None:
                    family.add_metric(key, value)

            families.append(family)

        return families


_metrics_of: weakref.WeakKeyDictionary[CollectorRegistry, _Metrics] = (
    weakref.WeakKeyDictionary()
)
