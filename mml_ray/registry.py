"""One registry for everything that is chosen by name.

Packages and plugins fill it through the same call::

    from mml_ray.registry import registry

    @registry.register_model("my_net")            # a kind of the model contract
    class MyNet(BaseModel): ...

    registry.add("loader", "dicom", DicomLoader)  # any kind
    registry.lookup("loader", "dcm")              # UnknownNameError: ... Did you mean: dicom?

State is kept per process: workers load the plugins first (:mod:`mml_ray.plugins`). The first look-up of a kind imports the
modules that fill it (:data:`PROVIDERS`), so nothing heavy is loaded before it is needed.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mml_ray.errors import UnknownNameError

T = TypeVar("T")
_MISSING: Any = object()

#: kind -> modules whose import registers its entries; plugins add theirs with :meth:`Registry.provide`
PROVIDERS: dict[str, tuple[str, ...]] = {
    "dset_creator": ("mml_ray.prepare.ready.builtin",),
    "task_creator": ("mml_ray.prepare.ready.builtin",),
    "tag": ("mml_ray.tasks.tags",),
    "archive_extractor": ("mml_ray.prepare.archives",),
    "image_backend": ("mml_ray.imaging.backends",),
    "verifier": ("mml_ray.prepare.task",),
    "loader": ("mml_ray.data.loaders",),
    "augmentation": ("mml_ray.data.augment",),
    "model": ("mml_ray.models.multi_task",),
    "architecture": ("mml_ray.models.architectures",),
    "head": ("mml_ray.models.heads",),
    "loss": ("mml_ray.models.losses",),
    "metric": ("mml_ray.metrics.classification", "mml_ray.metrics.regression", "mml_ray.metrics.segmentation"),
    "codec": ("mml_ray.store.predictions",),
    "optimizer": ("mml_ray.models.optimizers",),
    "scheduler": ("mml_ray.models.optimizers",),
    "callback": ("mml_ray.training.callbacks",),
}

#: kinds with a ``register_<kind>`` decorator and a ``get_<kind>_class`` getter of the model contract
CONTRACT_KINDS = (
    "trainer builder callback metric torchmetric loss pooler fusion model processor optimizer scheduler "
    "transformer_backend transformer_head test_reporter decoder encoder datamodule iteration_strategy architecture head"
).split()


class Registry:
    """Names to objects, by kind, plus the free ``state`` of the model contract."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Any]] = {}
        self._bases: dict[str, type] = {}
        self._loaded: set[str] = set()
        self._loading: set[str] = set()
        self._lock = threading.RLock()
        self.state: dict[str, Any] = {}

    # -- kinds -----------------------------------------------------------------------------------------------
    def add(self, kind: str, name: str, obj: T, *, force: bool = False) -> T:
        """Register ``obj`` as ``name`` of ``kind``; warns when another object held the name (``force`` mutes it)."""
        base = self._bases.get(kind)
        if base is not None and not (isinstance(obj, type) and issubclass(obj, base)):
            raise AssertionError(f"A registered {kind} must inherit {base.__name__}, got {obj!r}.")
        held = self._entries.setdefault(kind, {}).get(name)
        if held is not None and not force and _qualified(held) != _qualified(obj):
            warnings.warn(f"{kind} '{name}' was registered as {held!r} and is now {obj!r}.", UserWarning, stacklevel=2)
        self._entries[kind][name] = obj
        return obj

    def require_base(self, kind: str, base: type) -> None:
        """Only subclasses of ``base`` may be registered as ``kind`` from now on."""
        self._bases[kind] = base

    def names(self, kind: str) -> list[str]:
        """All names of ``kind``, sorted."""
        self._provide(kind)
        return sorted(self._entries.get(kind, {}))

    def find(self, kind: str, name: str) -> Any | None:
        """The entry, or ``None``."""
        self._provide(kind)
        return self._entries.get(kind, {}).get(name)

    def lookup(self, kind: str, name: str, hint: str = "") -> Any:
        """The entry; raises :class:`UnknownNameError` (a ``KeyError``) that lists the close names."""
        entry = self.find(kind, name)
        if entry is None:
            raise UnknownNameError.of(kind.replace("_", " "), name, self.names(kind), hint)
        return entry

    def provide(self, kind: str, module: str) -> None:
        """``module`` fills ``kind``, too: it is imported when the kind is asked for, not before (a plugin that registers losses
        need not import torch at every start). Harmless when repeated."""
        known = PROVIDERS.get(kind, ())
        if module in known:
            return
        PROVIDERS[kind] = (*known, module)
        if kind in self._loaded:
            importlib.import_module(module)

    def remove(self, kind: str, name: str) -> Any | None:
        """Forget an entry; returns it, or ``None``."""
        return self._entries.get(kind, {}).pop(name, None)

    def _provide(self, kind: str) -> None:
        if kind in self._loaded:
            return
        with self._lock:  # other threads wait until all entries are there; this one may ask while it imports
            if kind in self._loaded or kind in self._loading:
                return
            self._loading.add(kind)
            try:
                for module in PROVIDERS.get(kind, ()):
                    importlib.import_module(module)
                self._loaded.add(kind)
            finally:
                self._loading.discard(kind)

    # -- the model contract (names and behaviour: spec of BaseModel) --------------------------------------------
    def register(self, name: str, obj: Any = _MISSING) -> Any:
        """With ``obj``: store it in the dotted ``state``. Without: a class decorator routed by its base class."""
        if obj is _MISSING:
            return lambda cls: self.add(self._kind_of(cls), name, cls)
        target: Any = self.state
        *parents, leaf = name.split(".")
        for part in parents:
            target = target.setdefault(part, {})
        target[leaf] = obj
        return None

    def get(self, name: str, default: Any = None, no_warning: bool = False) -> Any:
        """The value at the dotted path ``name`` of the state, else ``default``."""
        value: Any = self.state
        for part in name.split("."):
            if not isinstance(value, Mapping) and not hasattr(value, "get"):
                raise AttributeError(f"'{name}': '{part}' is looked up in {type(value).__name__}, which has no entries.")
            value = value.get(part, _MISSING)
            if value is _MISSING:
                return default
        return value

    def unregister(self, name: str) -> Any | None:
        """Remove a top-level name of the state; returns its value, or ``None``."""
        return self.state.pop(name, None)

    def _kind_of(self, cls: type) -> str:
        for parent in cls.__mro__ if isinstance(cls, type) else ():  # a model is a module, too: the most specific base wins
            for kind, base in self._bases.items():
                if parent is base:
                    return kind
        raise TypeError(
            f"{cls!r} is not a subclass of any base that says its kind. "
            f"Use one of {', '.join('register_' + kind for kind in CONTRACT_KINDS)}."
        )

    def __getattr__(self, attribute: str) -> Any:
        for kind in CONTRACT_KINDS:
            if attribute == f"register_{kind}":
                return self._decorator(kind)
            if attribute == f"get_{kind}_class":
                return lambda name, kind=kind: self.find(kind, name)
        raise AttributeError(attribute)

    def _decorator(self, kind: str) -> Callable[..., Callable[[T], T]]:
        def register(name: str, *, force: bool = False) -> Callable[[T], T]:
            return lambda cls: self.add(kind, name, cls, force=force)

        return register


def _qualified(obj: Any) -> str:
    return f"{getattr(obj, '__module__', '')}.{getattr(obj, '__qualname__', repr(obj))}"


registry = Registry()
