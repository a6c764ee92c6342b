"""Who may use a local Ray: this process and those it starts, and no other user of the machine; and how joining a cluster is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mml_ray.driver.ray import session_folders
from tests.patience import GUARD, promised

pytestmark = pytest.mark.ray
#: reads and writes Ray's key-value store as the user ``nobody``: with no token, with a wrong one, and with the token read from stdin
_INTRUDER = """
import json, os, sys
from ray import exceptions
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient
address, folder = sys.argv[1:]
token = sys.stdin.read()
os.setgroups([]), os.setgid(65534), os.setuid(65534)
os.environ["HOME"] = "/nonexistent"

def attempt(call, *args):
    try:
        return call(*args)
    except (exceptions.RayError, OSError) as error:
        return type(error).__name__

def attack():
    AuthenticationTokenLoader.instance().reset_cache(), Config.initialize("")
    client = attempt(lambda: GcsClient(address=address))
    if isinstance(client, str):
        return [client]
    space = b"test"
    return [
        attempt(lambda: client.internal_kv_put(b"intruder", b"was here", True, namespace=space, timeout=10)),
        attempt(lambda: client.internal_kv_keys(b"", namespace=space, timeout=10) == [b"intruder"]),
    ]

found = {"folders": [attempt(os.listdir, path) for path in (folder, folder + "/r")], "none": attack()}
os.environ["RAY_AUTH_MODE"] = "token"
for name, value in {"wrong": "0" * 64, "right": token}.items():
    os.environ["RAY_AUTH_TOKEN"] = value
    found[name] = attack()
print(json.dumps(found))
"""
#: what joining says where no token is sent, none is set, none can be read, and where it is wrong; and how many seconds that took
_JOINING = """
import json, os, sys, time
from mml_ray.driver.ray.cluster import RayOptions, RaySession
from mml_ray.errors import MMLMisconfigurationException
said = []
for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN_PATH", "/nope"), ("RAY_AUTH_TOKEN", "0" * 64)):
    os.environ[name] = value
    began = time.monotonic()
    try:
        RaySession(RayOptions(address=sys.argv[1]))
    except MMLMisconfigurationException as error:
        said.append((str(error), time.monotonic() - began))
print(json.dumps(said))
"""
#: two local Rays, one after the other, each of which runs something
_TWICE = """
import json, os
import ray
from mml_ray.driver.ray.cluster import RayOptions, RaySession
before = dict(os.environ)
for number in range(2):
    session = RaySession(RayOptions(num_cpus=1))
    assert ray.get(ray.remote(lambda: number).remote()) == number
    print("folder", session._folder, session._reaper._process.pid, flush=True)
    {between}
    session.close()
    # Ray itself sets variables of its own in ray.init
    assert not {name for name in set(os.environ) ^ set(before) if name.startswith(("RAY_AUTH", "RAY_ENABLE", "MML"))}, os.environ
    assert all(os.environ[name] == value for name, value in before.items())
print("done")
"""


def _run(code: str, *arguments: str, given: str = "") -> str:
    """What a process of its own prints, in the environment of a user who has no token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = "/nonexistent"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=given, env=environment, capture_output=True, text=True, timeout=GUARD
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture
def token(shared_ray: Any) -> str:
    """The secret of the shared Ray, which this process knows."""
    import ray

    secret: str = ray._raylet.AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
    assert len(secret) == 64
    return secret


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_machine_can_use_neither_ray_nor_its_files(shared_ray: Any, token: str) -> None:
    found = json.loads(_run(_INTRUDER, shared_ray.address, str(shared_ray._folder), given=token))
    assert found["folders"] == ["PermissionError"] * 2
    assert found["none"] == found["wrong"] == ["AuthenticationError"], "neither a read nor a write"
    assert found["right"] == [1, True], "the calls themselves are in order"


def test_the_token_stands_in_no_file_and_on_no_command_line(shared_ray: Any, token: str) -> None:
    assert token not in os.environ.values(), "what hooks of the user start in the driver need not know it"
    files = [path for path in Path(shared_ray._folder).rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if token.encode() in path.read_bytes()]
    for command_line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert token.encode() not in command_line.read_bytes()
        except OSError:
            continue  # it has ended


def test_a_cluster_that_refuses_the_token_says_so_at_once(shared_ray: Any) -> None:
    said = json.loads(_run(_JOINING, shared_ray.address))
    reasons = [
        "it demands a token, but RAY_AUTH_MODE is 'disabled'",
        "RAY_AUTH_MODE is 'token', but no token is set",
        "RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /nope",
        "it does not accept the token given",
    ]
    for (message, _), reason in zip(said, reasons, strict=True):
        assert message.startswith(
            f"The Ray cluster at '{shared_ray.address}' cannot be joined: {reason}. Set RAY_AUTH_MODE=token,"
        )
    assert all(seconds < promised(5) for _, seconds in said), "Ray itself would try for 20 s"


@pytest.mark.slow
def test_a_driver_killed_with_its_reaper_leaves_a_folder_that_the_next_local_ray_removes() -> None:
    """Also: two local Rays in one process, one after the other, which leave the environment as it was."""
    killed = subprocess.Popen(
        [sys.executable, "-c", _TWICE.replace("{between}", "import time; time.sleep(600)")], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    _, left, reaper = killed.stdout.readline().split()
    for pid in (int(reaper), killed.pid):
        os.kill(pid, 9)
    killed.wait()
    killed.stdout.close()
    assert (Path(left) / "r").is_dir() and len(left) <= 40
    time.sleep(3)  # Ray's processes see that the driver has gone, and write their last
    assert _run(_TWICE.replace("{between}", "pass")) == "done"
    assert not Path(left).exists()
    mine = [path for path in session_folders.parent().glob(f"{session_folders._PREFIX}*") if path.stat().st_uid == os.getuid()]
    assert all((path / session_folders._OWNER).exists() for path in mine)
