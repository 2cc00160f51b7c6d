"""The operations of a network, as a bundle's manifest has them (docs/network.md).

Every struct here is one operation: its fields are the keys of the document. What they mean together (that a name is
defined before it is used, which shapes follow) is checked by the extension, which has one reader for both lowerings.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, structs

from pepnet_infer import _kernels
from pepnet_infer.errors import BundleError
from pepnet_infer.schema.feature_schema import InputName
from pepnet_infer.validation import Count, Finite, Options, Positive

#: Of an operation, which is also that of the value it makes, and of a tensor.
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]

#: An activation: one of `FUNCTIONS`, which the extension has a table of.
Function = Name
HeadKind = Literal["probability", "identity", "exp", "softmax"]
#: What the outputs of a head lie in.
RANGES: dict[HeadKind, tuple[float, float]] = {
    "probability": (0.0, 1.0),
    "identity": (float("-inf"), float("inf")),
    "exp": (0.0, float("inf")),
    "softmax": (0.0, 1.0),
}


class Operation(Options, frozen=True, kw_only=True):
    """Base of all operations. `name` is that of the value it makes."""

    refusal = BundleError
    op: ClassVar[str]

    name: Name

    def to_json(self) -> dict[str, Any]:
        """Returns the operation as plain JSON values, without the fields that have their defaults."""
        return {"op": self.op} | _values(self)


class Part(Options, frozen=True, rename={"source": "from"}):
    """Columns [begin, end) of a value; `end` None is its width."""

    refusal = BundleError

    source: Name
    begin: Count = 0
    end: Size | None = None


class Activated(Operation, frozen=True, kw_only=True):
    """What ends with an activation. alpha: of leaky_relu and elu. slope: the tensor of prelu, [width]."""

    activation: Function = "identity"
    alpha: Finite | None = None
    slope: Name | None = None


class Concat(Operation, frozen=True, kw_only=True):
    """Columns of several values one after the other: [G, N_i] → [G, Σ N_i]."""

    op = "concat"
    of: Annotated[tuple[Part, ...], Meta(min_length=1)]


class Stack(Operation, frozen=True, kw_only=True):
    """Groups of several values one after the other: [G_i, N] → [Σ G_i, N]."""

    op = "stack"
    of: Annotated[tuple[Name, ...], Meta(min_length=1)]


class Split(Operation, frozen=True, kw_only=True):
    """Columns as groups: [1, G·N] → [G, N], group 0 first."""

    op = "split"
    x: Name
    groups: Size


class Flatten(Operation, frozen=True, kw_only=True):
    """Groups as columns: [G, N] → [1, G·N], group 0 first."""

    op = "flatten"
    x: Name


class Pick(Operation, frozen=True, kw_only=True):
    """Some groups of a value, in this order: [G, N] → [len(groups), N]."""

    op = "pick"
    x: Name
    groups: Annotated[tuple[Count, ...], Meta(min_length=1)]


class Product(Activated, frozen=True, kw_only=True):
    """activation(x·w + b). groups None: w [N, width] for every group of x; else w [groups, N, width], b alike."""

    op = "product"
    x: Name
    w: Name
    b: Name | None = None
    width: Size
    groups: Size | None = None


class Activate(Activated, frozen=True, kw_only=True):
    """activation(x), element by element."""

    op = "activate"
    x: Name


class Gate(Operation, frozen=True, kw_only=True):
    """γ·σ(x), element by element: a factor in (0, γ)."""

    op = "gate"
    x: Name
    gamma: Positive = 2.0


class Multiply(Operation, frozen=True, kw_only=True):
    """x ⊙ y; of one group or one column there may be more on the other side."""

    op = "multiply"
    x: Name
    y: Name


class Add(Operation, frozen=True, kw_only=True):
    """x + y; of one group or one column there may be more on the other side."""

    op = "add"
    x: Name
    y: Name


class Affine(Operation, frozen=True, kw_only=True):
    """x ⊙ w + b with tensors w, b [width]; x has as many columns, or one."""

    op = "affine"
    x: Name
    w: Name
    b: Name | None = None
    width: Size


class Mix(Operation, frozen=True, kw_only=True):
    """Σ_e softmax(z)_e · h_e for each group of z: z [T, E], h [G, N] → [T, N].

    choices: for each group of z the groups of h that it weighs, in the order of its columns; None: all of them.
    """

    op = "mix"
    z: Name
    h: Name
    choices: tuple[tuple[Count, ...], ...] | None = None


class Cross(Operation, frozen=True, kw_only=True):
    """x0 ⊙ (x·w + b) + x, the cross layer of DCN-v2. With rank: x0 ⊙ ((x·u)·w + b) + x, u [N, rank], w [rank, N]."""

    op = "cross"
    x0: Name
    x: Name
    w: Name
    b: Name | None = None
    u: Name | None = None
    rank: Size | None = None


class Fm(Operation, frozen=True, kw_only=True):
    """½((Σ v_i)² - Σ v_i²) over vectors v_i of `width`: the groups of `v`, and x_j·w_j for each column of `x`.

    v [G, width], x [1, N] with w [N, width]; either may be left out. Result [1, width].
    """

    op = "fm"
    v: Name | None = None
    x: Name | None = None
    w: Name | None = None
    width: Size


class Reduce(Operation, frozen=True, kw_only=True):
    """Sum, mean or maximum over groups [G, N] → [1, N], or over columns → [G, 1]."""

    op = "reduce"
    x: Name
    by: Literal["sum", "mean", "max"]
    over: Literal["groups", "columns"]


class LayerNorm(Operation, frozen=True, kw_only=True):
    """(x - mean) / sqrt(variance + eps) ⊙ w + b over the columns of each group; w, b [N] may be left out."""

    op = "layer_norm"
    x: Name
    w: Name | None = None
    b: Name | None = None
    eps: Positive = 1e-5


class Select(Operation, frozen=True, kw_only=True):
    """The group of x whose number stands in a column of an input: [G, N] → [1, N]. NaN where there is no such group."""

    op = "select"
    x: Name
    by: InputName
    column: Count


class Pairs(Operation, frozen=True, kw_only=True):
    """The dot product of each pair of groups, (1, 0), (2, 0), (2, 1), …: [G, N] → [1, G(G - 1)/2]."""

    op = "pairs"
    x: Name


class Head(Options, frozen=True, rename={"kind": "as"}):
    """What becomes of a value [G, N] to be G·N columns of the scores. A softmax is one of each group."""

    refusal = BundleError

    of: Name
    kind: HeadKind


OPERATIONS: dict[str, type[Operation]] = {
    kind.op: kind
    for kind in (
        *(Concat, Stack, Split, Flatten, Pick, Product, Activate, Gate, Multiply, Add, Affine, Mix, Cross, Fm),
        *(Reduce, LayerNorm, Select, Pairs),
    )
}
FUNCTIONS: tuple[Function, ...] = tuple(_kernels.activations())


@cache
def _fields_of(kind: type[Options]) -> tuple[tuple[str, str, Any], ...]:
    """Attribute, key and default of each field: msgspec finds them anew for every call."""
    return tuple((f.name, f.encode_name, f.default) for f in structs.fields(kind))


def _values(one: Options) -> dict[str, Any]:
    """The fields that do not have their defaults, by their keys."""
    fields = ((key, getattr(one, name), default) for name, key, default in _fields_of(type(one)))
    return {key: _plain(value) for key, value, default in fields if value != default}


def _plain(value: Any) -> Any:
    if isinstance(value, Options):
        return _values(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
