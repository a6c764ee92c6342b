"""Connecting to Ray: a local one of this process's own, which nobody else on the machine can use, or a cluster that is running already.

Whoever can talk to Ray runs code as its owner. So a local Ray listens on loopback only, demands a token that is new for each session, and
keeps its files where other users cannot reach them (:mod:`mml_ray.driver.ray.session_folders`). The token is known to this process and to those
that Ray starts; it stands in no file. A cluster is joined with the token that the environment names, as Ray reads it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray._private import ray_constants

from mml_ray.driver import sigterm
from mml_ray.driver.ray import session_folders
from mml_ray.driver.ray.reaper import MARK, Reaper, remove_folder
from mml_ray.driver.ray.translate import first_line, node_of
from mml_ray.driver.resources import Node
from mml_ray.errors import EXIT_FAILED, MMLError, MMLMisconfigurationException


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How to reach Ray. With an empty ``address`` a local Ray is started, which ends with this process."""

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
        session_folders.remove_stale()
        self._folder = session_folders.create()
        cpus = options.num_cpus if options.num_cpus is not None else len(os.sched_getaffinity(0))
        ray_folder = str(session_folders.ray_folder(self._folder))
        try:
            with sigterm.held_back(), _on_loopback():
                self._reaper = Reaper(self._folder)
                # Ray's processes inherit these; a token of the user's is for a cluster, and known to others who use it
                with _variables(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=new_token(), **{MARK: str(self._folder)}):
                    _read_authentication()
                    context = _init(
                        "local", num_cpus=cpus, num_gpus=options.num_gpus, include_dashboard=False, _temp_dir=ray_folder
                    )
        except BaseException:
            self.close()
            raise
        self.address = str(context.address_info["gcs_address"])

    def _join(self, given: str) -> None:
        if "://" in given:
            raise MMLMisconfigurationException(
                f"sys.address must name a cluster as host:port, got {given}: a driver runs on the cluster it joins. Submit it "
                "(ray job submit -- mml-ray ...), or give the address of the cluster there (host:6379)."
            )
        address = given
        try:
            address = _default_address() if given == "auto" else given
            with _prepared_to_join(address):
                _init(address)
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
        """Make sure that the processes which a local Ray cannot do without still run; Ray itself would end this process a minute later.

        Raises:
            MMLError: one of them has ended.
        """
        node = ray._private.worker._global_node if self.own else None
        dead = [kind for kind, _ in node.dead_processes() if kind in ("gcs_server", "raylet")] if node is not None else []
        if dead:
            self._broken = True
            raise MMLError(
                f"Ray's process {dead[0]} has ended: it was killed, or the machine ran out of memory. What has committed is safe."
            )

    def close(self) -> None:
        """Disconnect; a local Ray ends with all its processes. Harmless when repeated."""
        atexit.unregister(self.close)
        if not self.own:
            return
        self.own = False
        if self._broken:  # Ray's shutdown would wait long for processes that have ended, or crash
            atexit.register(_exit_without_ray)
        else:
            with contextlib.suppress(Exception):
                node = ray._private.worker._global_node
                if node is not None:  # Ray would first send its processes SIGTERM, which they hold back, and wait
                    node.kill_all_processes = lambda **_: type(node).kill_all_processes(node, check_alive=False)
                ray.shutdown()
        if self._reaper is not None:
            self._reaper.close()
        if self._folder is not None:
            remove_folder(self._folder)


def new_token() -> str:
    """The secret of one local Ray."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Set variables of the environment for the block; afterwards it is as it was."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _read_authentication() -> None:
    """Let Ray read mode and token from the environment again: it keeps those that it found first in a process. (Ray 2.60 does the same
    in its own tests; with a parameter of ``ray.init`` for the token this would not be needed.)
    """
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    ray._raylet.Config.initialize("")


def _init(address: str, **options: Any) -> Any:
    """``ray.init``. From here on SIGTERM acts as Ctrl-C does, until the run handles it: Ray would exit with a code of its own."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(("MML_", "KAGGLE_"))}
    options |= {"runtime_env": {"env_vars": {**variables, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}}}
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    original, ray._private.utils.set_sigterm_handler = ray._private.utils.set_sigterm_handler, lambda _: None
    try:
        return ray.init(address=address, namespace="mml-ray", log_to_driver=False, configure_logging=False, **options)
    finally:
        ray._private.utils.set_sigterm_handler = original


def _exit_without_ray() -> None:
    """End this process without what Ray does at exit."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(EXIT_FAILED)


# -- joining a cluster -------------------------------------------------------------------------------------------------
def _default_address() -> str:
    """The cluster that ``auto`` means: ``RAY_ADDRESS``, or what ``ray start`` started last on this machine. Ray itself would take any Ray
    that it finds among the processes, also the private one of another run.

    Raises:
        ConnectionError: there is neither.
    """
    address = os.environ.get("RAY_ADDRESS") or ray._private.utils.read_ray_address()
    if not address or address == "auto":
        raise ConnectionError("none was started on this machine, and RAY_ADDRESS is not set")
    return address


@contextlib.contextmanager
def _prepared_to_join(address: str) -> Iterator[None]:
    """Fail at once where nothing answers or the token is refused, for Ray would try for minutes; and stay on loopback where the cluster
    does, for Ray puts the address of the network card in the place of 127.0.0.1.

    Raises:
        ConnectionError: nothing listens at a ``host:port``, or it is not a Ray.
        MMLMisconfigurationException: the cluster refuses this process's token.
    """
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        if host and port.isdigit() and "/" not in host:
            _connect(host, int(port))  # first: a client of Ray tries a port where nobody listens for 40 s
            _check_token(address)
            if host in ("localhost", "127.0.0.1", "::1"):
                try:
                    _connect(ray.util.get_node_ip_address(), int(port))
                except ConnectionError:
                    stack.enter_context(_on_loopback())
        yield


def _connect(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"{error.strerror or error}") from error


def _check_token(address: str) -> None:
    reason = _refusal(address)
    if reason:
        raise MMLMisconfigurationException(
            f"The Ray cluster at '{address}' cannot be joined: {reason}. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token "
            "or RAY_AUTH_TOKEN_PATH to a file that holds it (default: ~/.ray/auth_token)."
        )


def _refusal(address: str) -> str:
    """Why the cluster would refuse this process; empty if it accepts it. ``ray.init`` would repeat a refused call for 20 s, and then not say
    why it failed.
    """
    _read_authentication()
    sends_token = ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.TOKEN
    try:
        if sends_token and not ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            return "RAY_AUTH_MODE is 'token', but no token is set"  # a client of Ray without one would end the process
    except ray_errors.AuthenticationError as error:
        return str(error).partition(". ")[0]
    try:
        ray._raylet.GcsClient(address=address).internal_kv_keys(b"", namespace=b"fun", timeout=3)
    except ray_errors.AuthenticationError:
        mode = f"'{os.environ['RAY_AUTH_MODE']}'" if os.environ.get("RAY_AUTH_MODE") else "not set"
        return "it does not accept the token given" if sends_token else f"it demands a token, but RAY_AUTH_MODE is {mode}"
    except ray_errors.RayError as error:
        raise ConnectionError(first_line(error)) from error
    return ""


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Bind every socket of a Ray that is started in the block to 127.0.0.1. Ray has this switch for Windows and macOS, where it is the
    default; asked for by address, it would take the address of the network card instead and listen on all of them.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # read from the variable at Ray's import
    try:
        with _variables(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0"):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
