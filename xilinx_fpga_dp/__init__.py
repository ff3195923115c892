"""Kubernetes device plugin for Xilinx/AMD FPGA cards."""

__version__ = "0.2.0"
