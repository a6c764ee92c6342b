"""The executor on Ray: every attempt is one remote task; Ray's own retries are off, since they would run a command twice at once."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a command without GPU must not see any
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# variables that a submitted job sets are passed on, not refused as set twice
os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")

import ray
from ray import exceptions as ray_errors

from mml_ray.driver import sigterm
from mml_ray.driver.command import CommandSpec, Outcome, Status, Workload
from mml_ray.driver.ray import session_folders
from mml_ray.driver.ray.reaper import MARK, Reaper
from mml_ray.driver.ray.translate import first_line, node_of, oom_message
from mml_ray.driver.ray.worker import attempt_here
from mml_ray.driver.resources import Node, Resources, slots
from mml_ray.driver.worker import AttemptContext
from mml_ray.errors import EXIT_FAILED, MMLError, MMLMisconfigurationException
from mml_ray.journal.actor import StoreClient
from mml_ray.store.manager import MMLFileManager

#: variable by which Ray tells pools of worker processes apart
_POOL = "MML_RAY_POOL"
#: commands beyond the slots that are handed to Ray at once, so that a free worker never waits for the driver
_QUEUE = 48
#: seconds that finished commands may wait for others, so that they are committed together
_GATHER = 0.02


# -- connecting ----------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RayOptions:
    """How to reach Ray. ``address`` empty: an own local Ray, on loopback, gone with this process."""

    address: str = ""
    num_cpus: int | None = None
    num_gpus: int | None = None


class RaySession:
    """A connection to Ray; ``own`` says whether this process started it (and ends it in :meth:`close`)."""

    def __init__(self, options: RayOptions) -> None:
        self.own = not options.address and not ray.is_initialized()
        self._folder: Path | None = None
        self._reaper: Reaper | None = None
        self._broken = False
        if ray.is_initialized():
            self.address = "shared"
        elif self.own:
            self._start_local(options)
        else:
            self._join(options.address)
        atexit.register(self.close)

    def _start_local(self, options: RayOptions) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # without it Ray writes a token to the user's home
        _stay_on_loopback()
        session_folders.remove_stale()
        self._folder = session_folders.make()
        try:
            with sigterm.held_back():
                self._start_processes(options, self._folder)
        except BaseException:
            self.close()
            raise

    def _start_processes(self, options: RayOptions, folder: Path) -> None:
        self._reaper = Reaper(folder) if sys.platform == "linux" else None
        cpus = options.num_cpus if options.num_cpus is not None else len(os.sched_getaffinity(0))
        os.environ[MARK] = str(folder)  # Ray's own processes carry it too
        try:
            context = _init(
                address="local",
                num_cpus=cpus,
                num_gpus=options.num_gpus,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                _temp_dir=str(folder),
                namespace="mml-ray",
                runtime_env=_runtime_env({MARK: str(folder)}),
            )
        finally:
            del os.environ[MARK]
        self.address = str(context.address_info["gcs_address"])

    def _join(self, given: str) -> None:
        if "://" in given:
            raise MMLMisconfigurationException(
                f"sys.address={given}: a driver runs on the cluster it joins. Submit it (ray job submit -- mml-ray ...), or give the address "
                "of the cluster there (host:6379)."
            )
        address = given
        try:
            address = _started_here() if given == "auto" else given
            _prepare_to_join(address)
            _init(address=address, log_to_driver=False, configure_logging=False, namespace="mml-ray", runtime_env=_runtime_env())
        except ConnectionError as error:
            raise MMLMisconfigurationException(
                f"No Ray cluster answers at '{address}': {error}. Start one (ray start --head), or leave sys.address and RAY_ADDRESS empty "
                "for a local Ray."
            ) from error
        self.address = address

    def nodes(self) -> list[Node]:
        """The living nodes and what they have in all (not what is free)."""
        return [node_of(entry) for entry in ray.nodes() if entry["Alive"]]

    def check(self) -> None:
        """Whether the processes that an own Ray cannot do without are there; Ray itself ends this process a minute later.

        Raises:
            MMLError: one of them is gone.
        """
        node = ray._private.worker._global_node if self.own else None
        dead = [kind for kind, _ in node.dead_processes() if kind in ("gcs_server", "raylet")] if node is not None else []
        if dead:
            self._broken = True
            raise MMLError(
                f"Ray's process {dead[0]} has ended: it was killed, or the machine ran out of memory. What has committed is safe."
            )

    def close(self) -> None:
        """Disconnect; an own Ray ends with all its processes. Harmless when repeated."""
        atexit.unregister(self.close)
        if not self.own:
            return
        self.own = False
        if self._broken:  # nobody is there to say goodbye to, and Ray would try for long, or crash
            atexit.register(_leave)
        else:
            with contextlib.suppress(Exception):
                _end_at_once()
                ray.shutdown()
        if self._reaper is not None:
            self._reaper.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _init(**options: Any) -> Any:
    """``ray.init``. SIGTERM is from here on what Ctrl-C is, until the run answers it: Ray would exit with a code of its own."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    theirs, ray._private.utils.set_sigterm_handler = ray._private.utils.set_sigterm_handler, lambda _: None
    try:
        return ray.init(**options)
    finally:
        ray._private.utils.set_sigterm_handler = theirs


def _end_at_once() -> None:
    """Let Ray kill its processes at its shutdown. It would first send each of them SIGTERM, which they hold back, and wait."""
    node = ray._private.worker._global_node
    if node is not None:
        node.kill_all_processes = lambda **_: type(node).kill_all_processes(node, check_alive=False)


def _leave() -> None:
    """End this process without what Ray does at the end."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(EXIT_FAILED)


def _started_here() -> str:
    """What ``auto`` means: ``RAY_ADDRESS``, or what ``ray start`` started last on this machine. Ray itself would take any Ray that it finds
    among the processes, also the private one of another run.

    Raises:
        ConnectionError: there is neither.
    """
    address = os.environ.get("RAY_ADDRESS") or ray._private.utils.read_ray_address()
    if not address or address == "auto":
        raise ConnectionError("none was started on this machine, and RAY_ADDRESS is not set")
    return address


def _prepare_to_join(address: str) -> None:
    """Fail at once where nothing answers, for Ray would try for minutes; and stay on loopback where the cluster does, for Ray
    puts the address of the network card in the place of 127.0.0.1.

    Raises:
        ConnectionError: nothing listens at a ``host:port``.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    _connect(host, int(port))
    if host in ("localhost", "127.0.0.1", "::1"):
        try:
            _connect(ray.util.get_node_ip_address(), int(port))
        except ConnectionError:
            _stay_on_loopback()


def _connect(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"{error.strerror or error}") from error


def _stay_on_loopback() -> None:
    """Every socket of a local Ray is bound to 127.0.0.1. Ray has this switch for Windows and macOS, where it is the default;
    asked for by address, it would take the address of the network card instead and listen on all of them.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # read from the variable when ray was imported


def _runtime_env(more: Mapping[str, str] | None = None) -> dict[str, Any]:
    variables = {name: value for name, value in os.environ.items() if name.startswith(("MML_", "KAGGLE_"))}
    return {"env_vars": {**variables, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", **(more or {})}}


# -- the executor ----------------------------------------------------------------------------------------------------------------------
class RayExecutor:
    """Attempts as remote tasks. A worker's file manager is made like ``manager``."""

    def __init__(
        self,
        workload: Workload,
        client: StoreClient,
        *,
        manager: MMLFileManager,
        context: AttemptContext,
        nodes: list[Node],
        requests: list[Resources],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.node = ""  # each outcome says where it ran
        self._check = client.check = check
        self._slots = max((slots(nodes, request) for request in requests), default=1)
        self.share = _QUEUE + self._slots
        self.window = self.share * max(1, len(set(requests)))
        self._workload, self._manager, self._context, self._client = workload, manager, context, client
        self._flying: dict[Any, tuple[CommandSpec, int, int]] = {}
        self._stalled: set[str] = set()
        self._forced = False

    @functools.cached_property
    def _remote(self) -> Any:
        """The remote function, made for the first command: what the preparation of the run set on the workload travels with it."""
        bundle = (self._manager.arguments(), self._context, self._client, ray.cloudpickle.dumps(self._workload))
        tag = f"{os.getpid()}-{id(self)}-{time.time_ns()}"
        # no num_gpus in the decorator: Ray would then start a new process for each GPU task
        return ray.remote(max_retries=0, retry_exceptions=False)(_attempts_of([ray.put(bundle)], tag))

    def submit(self, spec: CommandSpec, attempt: int) -> None:
        """One remote task for the attempt."""
        self._submit(spec, attempt, pool=0)

    def _submit(self, spec: CommandSpec, attempt: int, *, pool: int) -> None:
        """``pool``: commands with GPUs have worker processes of their own, and further ones where those hold on to other GPUs."""
        ask = spec.resources
        options: dict[str, Any] = {"num_cpus": ask.num_cpus, "num_gpus": ask.num_gpus, "name": spec.key}
        if ask.memory:
            options["memory"] = ask.memory
        if ask.custom:
            options["resources"] = dict(ask.custom)
        if ask.label_selector:
            options["label_selector"] = dict(ask.label_selector)
        if ask.num_gpus or pool:
            options["runtime_env"] = {"env_vars": {_POOL: str(pool)}}
        reference = self._remote.options(**options).remote(_lean(spec), attempt)
        self._flying[reference] = (spec, attempt, pool)

    def wait(self, timeout: float) -> list[Outcome]:
        """Everything that ended, after at most ``timeout`` seconds; raises what ``check`` does."""
        self._check()
        if not self._flying:
            time.sleep(timeout)
            return []
        references = list(self._flying)
        ready, rest = ray.wait(references, num_returns=1, timeout=timeout)
        if ready and rest:
            queued = len(rest) - self._slots  # while others are queued, a moment more makes one commit out of many
            many, moment = (queued // 2, _GATHER) if queued > 1 else (len(rest), 0.0)
            more, _ = ray.wait(rest, num_returns=many, timeout=moment)
            ready += more
        outcomes = (self._outcome(reference) for reference in ready)
        return [outcome for outcome in outcomes if outcome is not None]

    def _outcome(self, reference: Any) -> Outcome | None:
        """``None``: it has not begun, and was sent to another process."""
        spec, attempt, pool = self._flying.pop(reference)
        try:
            outcome: Outcome | None = ray.get(reference)
            if outcome is None:
                self._submit(spec, attempt, pool=pool + 1)
            return outcome
        except ray_errors.OutOfMemoryError as error:
            return self._lost(spec, attempt, "oom", oom_message(spec, error))
        except ray_errors.TaskCancelledError as error:
            if spec.key in self._stalled:  # ended by cancelling it: its process is on another node
                self._stalled.discard(spec.key)
                return self._lost(spec, attempt, "stalled", "it gave no sign of life and was ended")
            return self._lost(spec, attempt, "interrupted", f"cancelled: {error}".rstrip(": "))
        except ray_errors.RayTaskError as error:  # raised around the command: a plugin that cannot be loaded, say
            described = {"type": type(error.cause).__name__, "message": str(error.cause), "traceback": str(error)}
            return Outcome(spec.key, attempt, "failed", error=described)
        except ray_errors.RayError as error:
            status: Status = "stalled" if spec.key in self._stalled else "interrupted" if self._forced else "lost"
            self._stalled.discard(spec.key)
            return self._lost(spec, attempt, status, first_line(error))

    @staticmethod
    def _lost(spec: CommandSpec, attempt: int, status: Status, message: str) -> Outcome:
        return Outcome(spec.key, attempt, status, error={"type": status, "message": message, "traceback": ""})

    def stop(self, *, force: bool) -> None:
        """Polite: queued attempts are cancelled, running ones see the store's stop request. Forced: all processes end."""
        self._forced = self._forced or force
        progress = {} if force else self._client.progress()
        for reference, (spec, *_) in list(self._flying.items()):
            if force or spec.key not in progress:
                ray.cancel(reference, force=force)

    def abort(self, key: str) -> str:
        """Kill the worker of one command after its stacks were written to its log."""
        said = self._client.progress().get(key, {})
        pid = said.get("pid")
        self._stalled.add(key)
        if pid and Path(f"/proc/{pid}").exists() and said.get("host") == os.uname().nodename:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGUSR1)  # faulthandler: all stacks into the command's log
                time.sleep(0.5)
                os.kill(int(pid), signal.SIGKILL)
            return f"The stacks of process {pid} are in its log."
        for reference, (spec, *_) in list(self._flying.items()):
            if spec.key == key:
                ray.cancel(reference, force=True)
        return ""

    def close(self) -> None:
        """End what still runs."""
        try:
            self._check()
        except MMLError:  # there is nobody to ask
            self._flying.clear()
        for reference in list(self._flying):
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)
        self._flying.clear()


def _lean(spec: CommandSpec) -> CommandSpec:
    """Without its edges, which a worker has no use for: a barrier plan of n commands would carry n keys each."""
    return replace(spec, needs=()) if spec.needs else spec


def _attempts_of(bundle: list[Any], tag: str) -> Callable[[CommandSpec, int], Outcome | None]:
    """The remote function of one run. A worker reads it once, with the reference it holds; as an argument of each task the
    reference alone would cost a tenth of a no-op command."""

    def attempt(spec: CommandSpec, number: int) -> Outcome | None:
        return attempt_here(bundle, tag, spec, number, unpickle=ray.cloudpickle.loads)

    return attempt
