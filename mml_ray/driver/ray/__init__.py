"""The driver on Ray. What Ray reads from the environment when it is imported is set here, before any module of the package imports it."""

import os

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a command without GPU must not see any
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# variables that a submitted job sets are passed on, not refused as set twice
os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
