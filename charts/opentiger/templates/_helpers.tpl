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

{{/* Key of that Secret with the URL for "mirror", "api" or "migration": (list $ "mirror"). */}}
{{- define "opentiger.databaseKey" -}}
{{- $existing := (index . 0).Values.database.existingSecret -}}
{{- if $existing.name -}}
{{- get $existing (printf "%sKey" (index . 1)) | default $existing.key -}}
{{- else -}}
{{- eq (index . 1) "migration" | ternary "url" (printf "%s-url" (index . 1)) -}}
{{- end -}}
{{- end -}}

{{/* Environment variables that lead to the database: (list $ "mirror"). */}}
{{- define "opentiger.databaseEnv" -}}
{{- $database := (index . 0).Values.database -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "opentiger.databaseSecret" (index . 0) }}
      key: {{ include "opentiger.databaseKey" . }}
- {name: DATABASE_MAX_CONNECTIONS, value: {{ $database.maxConnections | quote }}}
- {name: DATABASE_STATEMENT_TIMEOUT_SECONDS, value: {{ $database.statementTimeoutSeconds | quote }}}
- {name: DATABASE_LOCK_TIMEOUT_SECONDS, value: {{ $database.lockTimeoutSeconds | quote }}}
{{- if $database.caSecret.name }}
- {name: DATABASE_CA_FILE, value: /etc/opentiger/database-ca/ca.crt}
{{- end }}
{{- end -}}

{{/* Environment variables with the roles that the migrations give their rights. */}}
{{- define "opentiger.rolesEnv" -}}
{{- $roles := .Values.database.roles -}}
{{- $bundled := empty .Values.database.existingSecret.name -}}
{{- range $role := list "mirror" "api" }}
{{- with get $roles $role | default (ternary (printf "opentiger_%s" $role) "" $bundled) }}
- {name: {{ upper $role }}_ROLE, value: {{ quote . }}}
{{- end }}
{{- if $bundled }}
- name: {{ upper $role }}_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "opentiger.databaseSecret" $ }}, key: {{ $role }}-password}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where the certificate authority of the database is mounted, and the volume it comes from. */}}
{{- define "opentiger.databaseCaMount" -}}
- {name: database-ca, mountPath: /etc/opentiger/database-ca, readOnly: true}
{{- end -}}
{{- define "opentiger.databaseCaVolume" -}}
- name: database-ca
  secret:
    secretName: {{ .Values.database.caSecret.name }}
    items: [{key: {{ .Values.database.caSecret.key | quote }}, path: ca.crt}]
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
