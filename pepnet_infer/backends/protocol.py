"""The protocol of a backend, which runs the dense part of the model, and the settings that it is made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from msgspec import Meta

from pepnet_infer.checked import Options, check_option, kinds_of
from pepnet_infer.errors import ConfigError
from pepnet_infer.quoting import quote

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pepnet_infer.schema.inputs import Inputs


#: More is a mistake (a count of rows, say), and would be threads started for nothing.
MAX_THREADS = 1024


_Options = TypeVar("_Options", bound=Options)


class Backend(Protocol):
    """Runs the dense part: three matrices in, one score per row and task out. Safe to call from many threads."""

    name: str

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Returns scores float32 [B, T] for general [B, ·], domain [B, ·] and prior [B, ·]; B may be 0."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns backend, provider, precision, threads and why it was chosen, as plain JSON values."""
        ...


class Settings(Options, frozen=True):
    """What the caller asked of a backend. None means that the backend decides, and says so in `describe()`.

    Raises ConfigError for what no backend takes.
    """

    precision: str = "fp32"
    threads: Annotated[int, Meta(ge=1, le=MAX_THREADS)] | None = None
    provider: str | None = None
    options: Mapping[str, Any] = {}  # the backend's own; an unknown one is an error
    why: str = "asked for"
    auto: bool = False  # "auto" chose backend and provider, and `why` says so


def read_options(backend: str, kind: type[_Options], given: Mapping[str, Any]) -> _Options:
    """Returns a backend's own options. Raises ConfigError for one that it does not have or that cannot have a value."""
    lacking = lacks(backend, kind, given)
    if lacking is not None:
        raise ConfigError(lacking)
    kinds = kinds_of(kind)
    return kind(**{name: check_option(f"options.{name}", value, kinds[name]) for name, value in given.items()})


def lacks(backend: str, kind: type[Options], given: Mapping[str, Any]) -> str | None:
    """Returns which of the options that were given a backend does not have, None when it has all of them."""
    there = kind.__struct_fields__
    return next((f"options: {backend} has {', '.join(there)}, got {quote(n)}" for n in given if n not in there), None)


#: Backend name → the precisions it has, whatever the bundle and the machine.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "native": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32",),
    "cuda": ("fp32", "bf16"),
}
