"""Everything that needs torch: the reference model and baselines, data, training, ONNX export and bundle writing."""
