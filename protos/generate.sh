#!/bin/sh
# Generates the modules of xilinx_fpga_dp/rpc/api, one for each file below, or checks that they are up to date:
# generate.sh PYTHON write|check
set -eu
apis="deviceplugin_v1beta1 dra_health_v1 dra_health_v1alpha1 dra_v1 pluginregistration_v1 podresources_v1"
python=$1
mode=$2
# protoc looks for the plugin protoc-gen-python_betterproto2 beside this interpreter.
PATH="$(dirname "$python"):$PATH"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
target=xilinx_fpga_dp/rpc/api
for api in $apis; do
    # One run an API: two APIs may have proto packages of the same name, which would overwrite each other.
    mkdir "$out/$api"
    "$python" -m grpc_tools.protoc -I protos --python_betterproto2_out="$out/$api" \
        --python_betterproto2_opt=server_generation=async \
        --python_betterproto2_opt=client_generation=async "$api.proto" 2>"$out/log" || { cat "$out/log"; exit 1; }
    # The compiler names a folder after the proto package; here the module is named after the API.
    find "$out/$api" -mindepth 2 -name __init__.py -size +0 -exec sed 's/^from \.\.*message_pool/from .message_pool/' {} + >"$out/$api.py"
    mv "$out/$api/message_pool.py" "$out/message_pool.py"
done
for file in message_pool.py $(printf '%s.py ' $apis); do
    if [ "$mode" = write ]; then
        cp "$out/$file" "$target/$file"
    elif ! diff -u "$target/$file" "$out/$file"; then
        echo "$target/$file differs from what protos/ generates: run 'make protos'" >&2
        exit 1
    fi
done
