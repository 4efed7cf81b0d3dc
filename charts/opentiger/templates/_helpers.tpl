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

{{/* The namespace that the API serves. */}}
{{- define "opentiger.apiNamespace" -}}
{{- $watched := include "opentiger.namespaces" . | fromJsonArray -}}
{{- .Values.api.namespace | default (ternary .Release.Namespace (first $watched) .Values.clusterWide) -}}
{{- end -}}

{{/* Name of the Secret with the database URL; empty without a database. */}}
{{- define "opentiger.databaseSecret" -}}
{{- if .Values.database.existingSecret.name -}}
{{- .Values.database.existingSecret.name -}}
{{- else if .Values.database.bundled.enabled -}}
{{- include "opentiger.fullname" . }}-database
{{- end -}}
{{- end -}}

{{/* Environment variable DATABASE_URL from a key of that Secret: (list $ "url"). */}}
{{- define "opentiger.databaseEnv" -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "opentiger.databaseSecret" (index . 0) }}
      key: {{ index . 1 }}
{{- end -}}

{{/* Name of the Secret with the API keys. */}}
{{- define "opentiger.apiKeysSecret" -}}
{{- .Values.api.existingSecret | default (printf "%s-api-keys" (include "opentiger.fullname" .)) -}}
{{- end -}}

{{/* Pod-level security context of our own programs. */}}
{{- define "opentiger.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Security context of every container. */}}
{{- define "opentiger.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the Pods of a component go: (list $ "operator" .Values.operator). */}}
{{- define "opentiger.scheduling" -}}
{{- $component := index . 2 -}}
{{- with $component.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $component.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with $component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if $component.affinity }}
affinity: {{ toJson $component.affinity }}
{{- else }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "opentiger.selector" (list (index . 0) (index . 1)) | nindent 14 }}
{{- end }}
{{- end -}}
