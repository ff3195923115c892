"""The resource names of three boards with the default settings."""

U200 = "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320"
U250 = "xilinx.com/fpga-xilinx_u250_xdma_201830_2-1561656294"
U55C = "xilinx.com/fpga-xilinx_u55c_gen3x16_xdma_base_3-0"
