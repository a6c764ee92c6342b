"""The state of a journal: a pure replay of its operations. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from mml_ray.errors import JournalError


class State:
    """What a journal says; :meth:`apply` is the only thing that changes it.

    The first operation of a journal is ``<kind>_opened``, and each further owner adds one; ``<kind>_finished`` ends it. A subclass
    adds its own operations as methods ``_on_<operation>``. They read the fields they know and ignore any others, so that a
    later version may add fields.
    """

    #: what the journal is of, as its operations and messages call it
    kind: ClassVar[str]

    def __init__(self) -> None:
        self.id = ""
        self.opened = 0.0
        self.manifest: dict[str, Any] = {}
        self.roots: dict[str, str] = {}
        self.token = 0
        self.owner: dict[str, Any] = {}
        self.status = "open"
        self.ended = 0.0

    @classmethod
    def replay(cls, operations: Iterable[Mapping[str, Any]], *, source: object = "the journal") -> Self:
        """The state after ``operations``; ``source`` is for messages.

        Raises:
            JournalError: an operation that this version does not know.
        """
        state = cls()
        try:
            state.apply(*operations)
        except JournalError as error:
            raise JournalError(f"{source}: {error}") from error
        return state

    def apply(self, *operations: Mapping[str, Any]) -> None:
        """Apply operations as the journal returns them."""
        for operation in operations:
            method = getattr(self, f"_on_{operation['op'].removeprefix(f'{self.kind}_')}", None)
            if method is None:
                raise JournalError(
                    f"operation {operation.get('seq')} is '{operation['op']}', which this version of mml-ray does not know. Update "
                    f"it to continue this {self.kind}."
                )
            method(operation)

    def _on_opened(self, op: Mapping[str, Any]) -> None:
        if not self.id:
            self.id, self.opened, self.manifest = op[self.kind], op["at"], op["manifest"]
        self.token, self.owner, self.roots = op["token"], op["owner"], op["roots"]
        self.status = "open"

    def _on_finished(self, op: Mapping[str, Any]) -> None:
        self.status, self.ended = op["status"], op["at"]
