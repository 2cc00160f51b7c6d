"""What a model costs by its config alone."""

from __future__ import annotations

import math

from pepnet_infer.schema.network_config import ModelConfig


def multiply_adds(config: ModelConfig, tasks: int) -> int:
    """Returns the multiply-adds of one row in all matrix products: every number of every matrix is used once a row.

    The sums over gates and experts, which are below 1 % of it, are not counted. PEPNet only (SchemaError).
    """
    shapes = config.tensor_shapes(tasks)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.rsplit(".", 1)[1].startswith("w"))
