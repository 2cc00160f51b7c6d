"""Inference engine for PEPNet, the multi-domain multi-task ranking model."""
