"""Kubernetes device plugin for Xilinx/AMD FPGA cards."""

__version__ = "0.1.0"
