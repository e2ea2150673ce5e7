{{- define "fstat-exporter.fullname" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) }}
{{- .Values.fullnameOverride | default $name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* They select the pods too. The first line alone is what the kustomize base has. */}}
{{- define "fstat-exporter.labels" -}}
app.kubernetes.io/name: fstat-exporter
{{- if ne .Release.Name .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
{{- end }}

{{- define "fstat-exporter.metadata" -}}
name: {{ include "fstat-exporter.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "fstat-exporter.labels" . | nindent 2 }}
{{- end }}

{{- define "fstat-exporter.serviceAccountName" -}}
{{- $default := .Values.serviceAccount.create | ternary (include "fstat-exporter.fullname" .) "default" }}
{{- .Values.serviceAccount.name | default $default }}
{{- end }}

{{- define "fstat-exporter.priorityClassName" -}}
{{- $default := .Values.priorityClass.create | ternary (include "fstat-exporter.fullname" .) "" }}
{{- .Values.priorityClass.name | default $default }}
{{- end }}

{{- /* How clients prove who they are: "password", "token", or nothing without TLS. */}}
{{- define "fstat-exporter.authentication" -}}
{{- with .Values.web }}
{{- if and .authSecret .authorization }}
{{- fail "web.authSecret and web.authorization exclude each other: a request has a password or a token" }}
{{- end }}
{{- if ne (empty .tlsSecret) (and (empty .authSecret) (empty .authorization)) }}
{{- fail "web.tlsSecret belongs together with web.authSecret or web.authorization: set two of them, or none" }}
{{- end }}
{{- if .tlsSecret }}{{ empty .authorization | ternary "password" "token" }}{{ end }}
{{- end }}
{{- end }}
