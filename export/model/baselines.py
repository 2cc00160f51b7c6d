"""The networks PEPNet is compared with, on the same features: DeepFM, DCN-v2, shared bottom, MMoE and PLE.

All of them read x = [general ; domain], so that none is denied the page a row was shown on. `prior` repeats fields
that general already holds and would add nothing; it is accepted and left unread. All have one ReLU tower per task
(`config.towers`) as PEPNet has, and all differ only in what lies below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.model.pepnet import GroupedLinear, Mix, Network, Stacks, xavier
from pepnet_infer.schema.baseline_flags import DcnExtra, DeepFmExtra, NoExtra, PleExtra, read_extra
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.network_config import ModelConfig


class Baseline(Network):
    """A network over x = [general ; domain], `width` columns."""

    def __init__(self, config: ModelConfig, tasks: int) -> None:
        super().__init__()
        self.config, self.tasks = config, tasks
        self.width = config.inputs.general + config.inputs.domain

    def logits(self, general: Tensor, domain: Tensor, prior: Tensor) -> Tensor:
        """General [B, D], domain [B, ·], prior [B, ·] (unread) → logits [B, T]."""
        return self.score(torch.cat([general, domain], 1))

    def score(self, x: Tensor) -> Tensor:
        """x [B, width] → logits [B, T]."""
        raise TypeError(f"{type(self).__name__} has no score of its own")


class SharedBottom(Baseline):
    """logit_t = tower_t(bottom(x)): one ReLU stack of `layers` for all tasks (Caruana, Multitask Learning, 1997)."""

    def __init__(self, config: ModelConfig, tasks: int) -> None:
        super().__init__(config, tasks)
        read_extra(config, NoExtra)
        self.bottom = Stacks(1, self.width, config.layers)
        self.towers = Stacks(tasks, config.layers[-1], config.towers, scores=True)

    def score(self, x: Tensor) -> Tensor:
        """x [B, width] → logits [B, T]."""
        return cast(Tensor, self.towers(self.bottom(x).squeeze(1)))


class MMoE(Baseline):
    """logit_t = tower_t( Σ_e softmax(x·V_t + c_t)_e · f_e(x) ); Ma et al., KDD 2018, section "MMoE".

    `experts` ReLU stacks f_e of `layers`; every task's gate reads the input x, as in the paper.
    """

    def __init__(self, config: ModelConfig, tasks: int) -> None:
        super().__init__(config, tasks)
        read_extra(config, NoExtra)
        self.experts = Stacks(config.experts, self.width, config.layers)
        self.mix = Mix(self.width, tasks, config.experts)
        self.towers = Stacks(tasks, config.layers[-1], config.towers, scores=True)

    def score(self, x: Tensor) -> Tensor:
        """x [B, width] → logits [B, T]."""
        return cast(Tensor, self.towers(self.mix(x, self.experts(x))))


class CGC(nn.Module):
    """One extraction level of PLE: experts of each task, shared experts, and a softmax gate per task over both.

    Task k: m_k = softmax(x_k·V_k + c_k) over [its `specific` experts on x_k ; the `shared` experts on x_s].
    With `pass_on`, the shared path gets m_s = softmax(x_s·V_s + c_s) over all experts, for the next level.
    Tang et al., "Progressive Layered Extraction", RecSys 2020, sections "CGC" and "PLE".
    """

    def __init__(self, into: int, widths: tuple[int, ...], tasks: int, specific: int, shared: int, pass_on: bool):
        super().__init__()
        self.tasks, self.specific, self.width = tasks, specific, widths[-1]
        self.task_experts = Stacks(tasks * specific, into, widths)
        self.shared_experts = Stacks(shared, into, widths)
        self.task_gates = GroupedLinear(tasks, into, specific + shared)
        self.shared_gate = GroupedLinear(1, into, tasks * specific + shared) if pass_on else None

    def forward(self, x: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, in] (all tasks) or [B, T, in], common [B, in] → m [B, T, width], m_s [B, width].

        Without `pass_on` there is no m_s, and `common` comes back as it was.
        """
        into = (
            x if x.dim() == 2 else torch.cat([x] * self.specific, 2).reshape(-1, self.tasks * self.specific, x.shape[2])
        )
        own, shared = self.task_experts(into), self.shared_experts(common)
        weights = torch.softmax(self.task_gates(x), 2)
        by_task = own.reshape(-1, self.tasks, self.specific, self.width)
        m = (weights[:, :, None, : self.specific] @ by_task).squeeze(2) + weights[:, :, self.specific :] @ shared
        if self.shared_gate is not None:
            common = (torch.softmax(self.shared_gate(common), 2) @ torch.cat([own, shared], 1)).squeeze(1)
        return m, common


class PLE(Baseline):
    """Progressive Layered Extraction: `levels` of CGC, then the towers; Tang et al., RecSys 2020.

    The experts of every level are ReLU stacks of `layers`; `extra` is a `PleExtra`.
    """

    def __init__(self, config: ModelConfig, tasks: int) -> None:
        super().__init__(config, tasks)
        extra = read_extra(config, PleExtra)
        into = (self.width, *[config.layers[-1]] * (extra.levels - 1))
        self.levels = nn.ModuleList(
            CGC(width, config.layers, tasks, extra.specific, extra.shared, pass_on=level < extra.levels - 1)
            for level, width in enumerate(into)
        )
        self.towers = Stacks(tasks, config.layers[-1], config.towers, scores=True)

    def score(self, x: Tensor) -> Tensor:
        """x [B, width] → logits [B, T]."""
        m, common = x, x
        for level in self.levels:
            m, common = level(m, common)
        return cast(Tensor, self.towers(m))


class Cross(nn.Module):
    """x_{l+1} = x_0 ⊙ (x_l·W_l + b_l) + x_l; Wang et al., "DCN V2", WWW 2021, equation 1.

    With a rank, W_l = U_l·V_l with U_l [width, rank], V_l [rank, width] (the paper's low-rank form, equation 2).
    """

    def __init__(self, width: int, layers: int, rank: int | None) -> None:
        super().__init__()
        self.u = nn.ParameterList(xavier(width, rank or width) for _ in range(layers))
        self.v = nn.ParameterList(xavier(rank, width) for _ in range(layers)) if rank else None
        self.b = nn.ParameterList(torch.zeros(width) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """x_0 [B, width] → x_L [B, width]."""
        x = x0
        for l, (u, b) in enumerate(zip(self.u, self.b, strict=True)):
            y = x @ u if self.v is None else (x @ u) @ self.v[l]
            x = x0 * (y + b) + x
        return x


class DCNv2(Baseline):
    """Cross network beside a ReLU stack of `layers`, both into the towers (the paper's parallel structure)."""

    def __init__(self, config: ModelConfig, tasks: int) -> None:
        super().__init__(config, tasks)
        extra = read_extra(config, DcnExtra)
        self.cross = Cross(self.width, extra.cross_layers, extra.rank)
        self.deep = Stacks(1, self.width, config.layers)
        self.towers = Stacks(tasks, self.width + config.layers[-1], config.towers, scores=True)

    def score(self, x: Tensor) -> Tensor:
        """x [B, width] → logits [B, T]."""
        return cast(Tensor, self.towers(torch.cat([self.cross(x), self.deep(x).squeeze(1)], 1)))


class DeepFM(Baseline):
    """logit_t = x·w_t + s_t·FM(x) + tower_t(deep(x)); Guo et al., IJCAI 2017, equations 1 and 2.

    FM(x) = Σ_{i<j} ⟨v_i, v_j⟩ = ½ Σ_k ((Σ_i v_i)² - Σ_i v_i²)_k. The vectors v_i, all `field_width` wide, are the
    leading slots of general, one for each field's embedding (a slot of another width through a learned matrix, since
    the paper's fields are all of one width), and z_j·V_j with a learned V_j for every other column z_j of x (dense
    fields, domain). s_t starts at 1: with one task that is the paper's sum.
    `extra` is a `DeepFmExtra`, which `DeepFM.slots` makes of a schema.
    """

    def __init__(self, config: ModelConfig, tasks: int) -> None:
        super().__init__(config, tasks)
        extra = read_extra(config, DeepFmExtra)
        k = self.field_width = extra.field_width
        self.slot_widths = extra.slots
        self.embedded = sum(self.slot_widths)
        if self.embedded > config.inputs.general:
            raise SchemaError(
                f"config.extra: expected slots of at most {config.inputs.general} columns together (the general width),"
                f" got {self.embedded}"
            )
        self.project = nn.ParameterDict({str(i): xavier(w, k) for i, w in enumerate(self.slot_widths) if w != k})
        self.rest = xavier(self.width - self.embedded, k)
        self.linear, self.bias = xavier(self.width, tasks), nn.Parameter(torch.zeros(tasks))
        self.scale = nn.Parameter(torch.ones(tasks))
        self.deep = Stacks(1, self.width, config.layers)
        self.towers = Stacks(tasks, config.layers[-1], config.towers, scores=True)

    @staticmethod
    def slots(schema: FeatureSchema) -> dict[str, Any]:
        """Returns `extra` for a schema: its id and bag fields of general. Raises SchemaError when it has none."""
        widths = [slot.width for slot in schema.layout["general"] if slot.field.kind != "dense"]
        if not widths:
            raise SchemaError("deepfm: expected at least one id or bag field in general, got none")
        return {"field_width": max(widths), "slots": widths}

    def interactions(self, x: Tensor) -> Tensor:
        """FM(x): x [B, width] → [B, 1]."""
        rest = x[:, self.embedded :]
        total, squares = rest @ self.rest, (rest * rest) @ (self.rest * self.rest)
        start = 0
        for i, width in enumerate(self.slot_widths):
            v = x[:, start : start + width]
            if width != self.field_width:
                v = v @ self.project[str(i)]
            total, squares, start = total + v, squares + v * v, start + width
        return 0.5 * (total * total - squares).sum(1, keepdim=True)

    def score(self, x: Tensor) -> Tensor:
        """x [B, width] → logits [B, T]."""
        deep: Tensor = self.towers(self.deep(x).squeeze(1))
        return x @ self.linear + self.bias + self.scale * self.interactions(x) + deep


BASELINE_NETWORKS: Mapping[str, Callable[[ModelConfig, int], Baseline]] = {
    "deepfm": DeepFM,
    "dcnv2": DCNv2,
    "shared_bottom": SharedBottom,
    "mmoe": MMoE,
    "ple": PLE,
}
