"""Operators beneath the models, each with several backends behind one function."""

from tstar.ops.conv import causal_conv1d
from tstar.ops.scan import available_scan_backends, selective_scan

__all__ = ["available_scan_backends", "causal_conv1d", "selective_scan"]
