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

{{/* The modes that have a DaemonSet, as JSON. */}}
{{- define "fpga.modes" -}}
{{- if and (ne .Values.mode "device-plugin") (semverCompare "<1.34-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "mode: %s needs Kubernetes 1.34, this is %s" .Values.mode .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- toJson (eq .Values.mode "by-label" | ternary (list "device-plugin" "dra") (list .Values.mode)) -}}
{{- end }}

{{/* Not empty if there is a DaemonSet of the DRA driver. */}}
{{- define "fpga.hasDra" -}}
{{- if has "dra" (include "fpga.modes" . | fromJsonArray) }}true{{ end -}}
{{- end }}

{{/* Not empty if the pod of a mode calls the API server. Arguments, as a list: the root context, the mode. */}}
{{- define "fpga.callsApi" -}}
{{- $values := (first .).Values -}}
{{- if or (eq (last .) "dra") $values.events $values.nodeCondition $values.startupTaint }}true{{ end -}}
{{- end }}

{{/* Not empty if any pod calls the API server. */}}
{{- define "fpga.anyCallsApi" -}}
{{- include "fpga.callsApi" (list . (include "fpga.modes" . | fromJsonArray | last)) -}}
{{- end }}

{{/* Not empty if the pod needs an account that is bound to something. */}}
{{- define "fpga.needsServiceAccount" -}}
{{- if or .Values.openshift.enabled (include "fpga.anyCallsApi" .) }}true{{ end -}}
{{- end }}

{{/* As JSON. 'helm upgrade --reuse-values' from a chart that did not know it leaves it out. */}}
{{- define "fpga.account" -}}
{{- .Values.serviceAccount | default (dict "create" true "name" "") | toJson -}}
{{- end }}

{{/* Not empty if the policies of MODE=dra are wanted: also if --reuse-values leaves them out. */}}
{{- define "fpga.hasDraPolicies" -}}
{{- if and .Values.admissionPolicy (ne (toString .Values.dra.admissionPolicy) "false") }}true{{ end -}}
{{- end }}

{{/* Not empty if the chart makes a service account. */}}
{{- define "fpga.makesServiceAccount" -}}
{{- $account := include "fpga.account" . | fromJson -}}
{{- if and $account.create (not .Values.serviceAccountName) (or $account.name (include "fpga.needsServiceAccount" .)) }}true{{ end -}}
{{- end }}

{{/* Empty: the namespace's default account. */}}
{{- define "fpga.serviceAccountName" -}}
{{- $account := include "fpga.account" . | fromJson -}}
{{- if and $account.name .Values.serviceAccountName -}}
{{- fail "set serviceAccount.name or serviceAccountName, not both" -}}
{{- end -}}
{{- $name := default .Values.serviceAccountName $account.name -}}
{{- if and (not $name) (include "fpga.needsServiceAccount" .) -}}
{{- if not $account.create -}}
{{- fail "serviceAccount.create: false needs serviceAccount.name: the pod's rights are bound to an account of its own" -}}
{{- end -}}
{{- $name = include "fpga.fullname" . -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* The account as the API server names it. */}}
{{- define "fpga.user" -}}
system:serviceaccount:{{ include "fpga.namespace" . }}:{{ include "fpga.serviceAccountName" . }}
{{- end }}

{{- define "fpga.selector" -}}
app.kubernetes.io/name: {{ include "fpga.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/*
The selector of a mode's DaemonSet: those of the two must not overlap, and the plugin's can't be changed.
Arguments, as a list: the root context, the mode.
*/}}
{{- define "fpga.selectorOf" -}}
{{ include "fpga.selector" (first .) }}{{ if eq (last .) "dra" }}-dra{{ end }}
{{- end }}

{{/* The nodes of a mode. Arguments, as a list: the root context, the mode. */}}
{{- define "fpga.nodeSelector" -}}
{{- $values := (first .).Values -}}
{{- $labels := deepCopy $values.nodeSelector -}}
{{- if and (eq $values.mode "by-label") (eq (last .) "dra") -}}
{{- $_ := set $labels "fpga.xilinx.com/mode" "dra" -}}
{{- end -}}
{{- toYaml $labels -}}
{{- end }}

{{- define "fpga.affinity" -}}
{{- $values := (first .).Values -}}
{{- $affinity := deepCopy $values.affinity -}}
{{- if and (eq $values.mode "by-label") (ne (last .) "dra") -}}
{{- $required := "requiredDuringSchedulingIgnoredDuringExecution" -}}
{{- $nodes := get $affinity "nodeAffinity" | default dict -}}
{{- $terms := list -}}
{{- range (get $nodes $required | default dict).nodeSelectorTerms | default (list dict) -}}
{{- $not := dict "key" "fpga.xilinx.com/mode" "operator" "NotIn" "values" (list "dra") -}}
{{- $terms = append $terms (set . "matchExpressions" (append (.matchExpressions | default list) $not)) -}}
{{- end -}}
{{- $_ := set $nodes $required (dict "nodeSelectorTerms" $terms) -}}
{{- $_ := set $affinity "nodeAffinity" $nodes -}}
{{- end -}}
{{- toYaml $affinity -}}
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

{{/*
All settings of a mode as JSON, including those that the chart sets itself.
Arguments, as a list: the root context, the mode.
*/}}
{{- define "fpga.settings" -}}
{{- $mode := last . -}}
{{- with first . -}}
{{- $own := dict "SYSFS_ROOT" "/host/sys" "DEV_ROOT" "/host/dev" -}}
{{- if ne .Values.kubeletDir "/var/lib/kubelet" -}}
{{- $_ := set $own "SOCKET_DIR" (printf "%s/device-plugins" .Values.kubeletDir) -}}
{{- if eq $mode "dra" -}}
{{- $_ := set $own "PLUGINS_REGISTRY_DIR" (printf "%s/plugins_registry" .Values.kubeletDir) -}}
{{- end -}}
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
{{- if ne .Values.dra.driverName "fpga.xilinx.com" -}}
{{- $_ := set $own "DRA_DRIVER_NAME" .Values.dra.driverName -}}
{{- end -}}
{{- if eq $mode "dra" -}}
{{- $_ := set $own "MODE" "dra" -}}
{{- with .Values.dra -}}
{{- if not .metadata -}}
{{- $_ := set $own "DRA_METADATA" "false" -}}
{{- end -}}
{{- if .evictOn -}}
{{- $_ := set $own "DRA_EVICT_ON" (join "," .evictOn) -}}
{{- end -}}
{{- end -}}
{{- /* They mean nothing to the driver, which would say so. */ -}}
{{- $own = omit $own "DEVICE_STRATEGY" "PREFERRED_ALLOCATION" "PRESTART_CHECK" "SHARED_GRANT" "SOCKET_DIR" -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}
{{- end }}
