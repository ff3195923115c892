{{- define "fpga.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "fpga.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "fpga.name" .) .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "fpga.name" .) | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "fpga.namespace" -}}
{{ default .Release.Namespace .Values.namespace }}
{{- end }}

{{/* Not empty if the pod calls the API server. */}}
{{- define "fpga.callsApi" -}}
{{- if or .Values.events .Values.nodeCondition .Values.startupTaint (eq .Values.mode "dra") }}true{{ end -}}
{{- end }}

{{/* Not empty if the chart makes a service account. */}}
{{- define "fpga.makesServiceAccount" -}}
{{- if and (not .Values.serviceAccountName) (or .Values.openshift.enabled (include "fpga.callsApi" .)) }}true{{ end -}}
{{- end }}

{{/* Empty: the namespace's default account. */}}
{{- define "fpga.serviceAccountName" -}}
{{ default (ternary (include "fpga.fullname" .) "" (include "fpga.makesServiceAccount" . | eq "true")) .Values.serviceAccountName }}
{{- end }}

{{/* The account as the API server names it. */}}
{{- define "fpga.user" -}}
system:serviceaccount:{{ include "fpga.namespace" . }}:{{ include "fpga.serviceAccountName" . }}
{{- end }}

{{- define "fpga.selector" -}}
app.kubernetes.io/name: {{ include "fpga.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fpga.labels" -}}
{{ include "fpga.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Arguments, as a list: the root context, a suffix of the name, more labels. */}}
{{- define "fpga.metadata" -}}
{{- $root := first . -}}
name: {{ include "fpga.fullname" $root }}{{ index . 1 }}
namespace: {{ include "fpga.namespace" $root }}
labels:
  {{- include "fpga.labels" $root | nindent 2 }}
  {{- with index . 2 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "fpga.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end -}}
{{- end }}

{{/* All settings as JSON, including those that the chart sets itself. */}}
{{- define "fpga.settings" -}}
{{- $own := dict "SYSFS_ROOT" "/host/sys" "DEV_ROOT" "/host/dev" -}}
{{- if ne .Values.kubeletDir "/var/lib/kubelet" -}}
{{- $_ := set $own "SOCKET_DIR" (printf "%s/device-plugins" .Values.kubeletDir) -}}
{{- $_ := set $own "PLUGINS_DIR" (printf "%s/plugins" .Values.kubeletDir) -}}
{{- $_ := set $own "POD_RESOURCES_SOCKET" (printf "%s/pod-resources/kubelet.sock" .Values.kubeletDir) -}}
{{- end -}}
{{- if not (has (toString .Values.settings.EXTRA_MOUNTS) (list "" "[]" "none" "<nil>")) -}}
{{- $_ := set $own "HOST_ROOT" "/host/root" -}}
{{- end -}}
{{- if .Values.resourceRenames -}}
{{- $_ := set $own "RESOURCE_RENAMES" "/etc/xilinx-fpga-dp/renames.yaml" -}}
{{- end -}}
{{- range .Values.deviceRules -}}
{{- if .mounts -}}
{{- $_ := set $own "HOST_ROOT" "/host/root" -}}
{{- end -}}
{{- end -}}
{{- if ne .Values.dra.driverName "fpga.xilinx.com" -}}
{{- $_ := set $own "DRA_DRIVER_NAME" .Values.dra.driverName -}}
{{- end -}}
{{- if eq .Values.mode "dra" -}}
{{- $_ := set $own "MODE" "dra" -}}
{{- if .Values.dra.evictOn -}}
{{- $_ := set $own "DRA_EVICT_ON" (join "," .Values.dra.evictOn) -}}
{{- end -}}
{{- if not .Values.dra.metadata -}}
{{- $_ := set $own "DRA_METADATA" "false" -}}
{{- end -}}
{{- if ne .Values.kubeletDir "/var/lib/kubelet" -}}
{{- $_ := set $own "PLUGINS_REGISTRY_DIR" (printf "%s/plugins_registry" .Values.kubeletDir) -}}
{{- end -}}
{{- end -}}
{{- if .Values.events -}}
{{- $_ := set $own "EVENTS" "true" -}}
{{- end -}}
{{- if .Values.nodeCondition -}}
{{- $_ := set $own "NODE_CONDITION" "true" -}}
{{- end -}}
{{- if .Values.startupTaint -}}
{{- $_ := set $own "STARTUP_TAINT" .Values.startupTaint -}}
{{- end -}}
{{- if .Values.deviceRules -}}
{{- $_ := set $own "DEVICE_RULES" "/etc/xilinx-fpga-dp-devices/device-rules.yaml" -}}
{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- if kindIs "slice" $value -}}
{{- $_ := set $own $name (join "," $value) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $own $name (toString $value) -}}
{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end }}
