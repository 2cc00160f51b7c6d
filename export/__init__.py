"""Everything that needs torch: the reference model and baselines, data, training, ONNX export and bundle writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pepnet_infer.lazy_names import lazily

if TYPE_CHECKING:
    from pepnet_infer.bundle.checkpoint import Checkpoint
    from pepnet_infer.export.bundle.presets import make_preset
    from pepnet_infer.export.bundle.write_bundle import write_bundle
    from pepnet_infer.export.model.pepnet import EPNet, PEPNet, PPNet
    from pepnet_infer.export.model.plug_and_play import EPNetEmbedding, GatedNetwork
    from pepnet_infer.export.publish.publisher import Publisher
    from pepnet_infer.export.publish.push_policy import PushPolicy
    from pepnet_infer.export.run_config import RunConfig
    from pepnet_infer.export.train.online import OnlineTrainer

__all__ = [
    "Checkpoint",
    "EPNet",
    "EPNetEmbedding",
    "GatedNetwork",
    "OnlineTrainer",
    "PEPNet",
    "PPNet",
    "Publisher",
    "PushPolicy",
    "RunConfig",
    "make_preset",
    "write_bundle",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "pepnet_infer.bundle.checkpoint": ("Checkpoint",),
        "pepnet_infer.export.bundle.presets": ("make_preset",),
        "pepnet_infer.export.bundle.write_bundle": ("write_bundle",),
        "pepnet_infer.export.model.pepnet": ("EPNet", "PEPNet", "PPNet"),
        "pepnet_infer.export.model.plug_and_play": ("EPNetEmbedding", "GatedNetwork"),
        "pepnet_infer.export.publish.publisher": ("Publisher",),
        "pepnet_infer.export.publish.push_policy": ("PushPolicy",),
        "pepnet_infer.export.run_config": ("RunConfig",),
        "pepnet_infer.export.train.online": ("OnlineTrainer",),
    },
)
