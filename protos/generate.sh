#!/bin/sh
# Makes the stubs in xilinx_fpga_dp/kubelet from the files here, or checks that they are what it would make:
# generate.sh PYTHON write|check
set -eu
python=$1
mode=$2
# protoc looks for the plugin protoc-gen-python_betterproto2 beside this interpreter.
PATH="$(dirname "$python"):$PATH"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$python" -m grpc_tools.protoc -I protos --python_betterproto2_out="$out" \
    --python_betterproto2_opt=server_generation=async \
    --python_betterproto2_opt=client_generation=async api.proto podresources.proto 2>"$out.log" || { cat "$out.log"; exit 1; }
rm -f "$out.log"
target=xilinx_fpga_dp/kubelet
for file in message_pool.py v1/__init__.py v1beta1/__init__.py; do
    if [ "$mode" = write ]; then
        mkdir -p "$(dirname "$target/$file")"
        cp "$out/$file" "$target/$file"
    elif ! diff -u "$target/$file" "$out/$file"; then
        echo "$target/$file is not what protos/ gives: run 'make protos'" >&2
        exit 1
    fi
done
