{{/* Name of every object: the release's name, with "opentiger" in it once. */}}
{{- define "opentiger.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "opentiger" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-opentiger" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of cluster-scoped objects: two releases of one name in two namespaces must not meet. */}}
{{- define "opentiger.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "opentiger.fullname" .) -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "opentiger.labels" -}}
app.kubernetes.io/name: opentiger
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Labels that select the Pods of a component: (list $ "operator"). */}}
{{- define "opentiger.selector" -}}
app.kubernetes.io/name: opentiger
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The namespaces whose Tasks are worked on, as a JSON list. */}}
{{- define "opentiger.namespaces" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | uniq | toJson -}}
{{- end -}}
