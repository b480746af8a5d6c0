"""Operators beneath the models, each with several backends behind one function."""

from tstar.ops.attention import attention
from tstar.ops.conv import causal_conv1d
from tstar.ops.norm import rms_norm
from tstar.ops.scan import available_scan_backends, selective_scan
from tstar.ops.ssd import available_ssd_backends, ssd_scan
from tstar.ops.steps import causal_conv1d_step, selective_scan_step, ssd_step

__all__ = [
    "attention",
    "available_scan_backends",
    "available_ssd_backends",
    "causal_conv1d",
    "causal_conv1d_step",
    "rms_norm",
    "selective_scan",
    "selective_scan_step",
    "ssd_scan",
    "ssd_step",
]
