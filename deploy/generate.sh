#!/bin/sh
# Generates the plain manifests from the chart, or checks that they are up to date:
# generate.sh HELM write|check
set -eu
helm=$1
mode=$2
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' ../xilinx_fpga_dp/__init__.py)
chart=helm/xilinx-fpga-dp
sed -e "s/^version: .*/version: $version/" -e "s/^appVersion: .*/appVersion: \"$version\"/" $chart/Chart.yaml >"$out/Chart.yaml"
[ "$mode" = check ] || cp "$out/Chart.yaml" $chart/Chart.yaml

render() { # TEMPLATE [VALUE...]
    template=$1
    shift
    "$helm" template xilinx-fpga-dp $chart --kube-version 1.37.0 --show-only "templates/$template.yaml" "$@" >"$out/raw"
    sed -e '1{/^---$/d;}' -e '3,${/^# Source: /d;}' -e "s|^# Source: .*|# Made from deploy/$chart by 'make manifests'.|" \
        -e 's/ *$//' "$out/raw" >"$out/$template.yaml"
}
for template in daemonset serviceaccount rights admissionpolicies deviceclasses; do
    render $template --set mode=dra
    mv "$out/$template.yaml" "$out/dra-$template.yaml"
done
render daemonset
render podmonitor --set podMonitor.enabled=true
render prometheusrule --set prometheusRule.enabled=true
for template in serviceaccount rights admissionpolicies; do
    render $template --set events=true,nodeCondition=true,startupTaint=fpga.xilinx.com/starting
done
while read -r made target; do
    if [ "$mode" = write ]; then
        cp "$out/$made" "$target"
    elif ! diff -u "$target" "$out/$made"; then
        echo "deploy/$target differs from the chart: run 'make manifests'" >&2
        exit 1
    fi
done <<END
Chart.yaml $chart/Chart.yaml
daemonset.yaml fpga-device-plugin.yml
daemonset.yaml kustomize/base/daemonset.yaml
podmonitor.yaml kustomize/overlays/prometheus-operator/podmonitor.yaml
prometheusrule.yaml kustomize/overlays/prometheus-operator/prometheusrule.yaml
serviceaccount.yaml kustomize/components/node-reports/serviceaccount.yaml
rights.yaml kustomize/components/node-reports/rights.yaml
admissionpolicies.yaml kustomize/components/node-reports/admissionpolicies.yaml
dra-daemonset.yaml kustomize/overlays/dra/daemonset.yaml
dra-serviceaccount.yaml kustomize/overlays/dra/serviceaccount.yaml
dra-rights.yaml kustomize/overlays/dra/rights.yaml
dra-admissionpolicies.yaml kustomize/overlays/dra/admissionpolicies.yaml
dra-deviceclasses.yaml kustomize/overlays/dra/deviceclasses.yaml
END
