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

__getattr__ = lazily(
    __name__,
    {
        "Checkpoint": "pepnet_infer.bundle.checkpoint",
        "EPNet": "pepnet_infer.export.model.pepnet",
        "EPNetEmbedding": "pepnet_infer.export.model.plug_and_play",
        "GatedNetwork": "pepnet_infer.export.model.plug_and_play",
        "OnlineTrainer": "pepnet_infer.export.train.online",
        "PEPNet": "pepnet_infer.export.model.pepnet",
        "PPNet": "pepnet_infer.export.model.pepnet",
        "Publisher": "pepnet_infer.export.publish.publisher",
        "PushPolicy": "pepnet_infer.export.publish.push_policy",
        "RunConfig": "pepnet_infer.export.run_config",
        "make_preset": "pepnet_infer.export.bundle.presets",
        "write_bundle": "pepnet_infer.export.bundle.write_bundle",
    },
)


def __dir__() -> list[str]:
    return __all__
