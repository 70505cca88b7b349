{{- define "belay.name" -}}
{{- if contains "belay" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-belay" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "belay.selector" -}}
app.kubernetes.io/name: belay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "belay.labels" -}}
{{ include "belay.selector" . }}
app.kubernetes.io/version: {{ include "belay.version" . | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The version in the characters that tags and labels have. */}}
{{- define "belay.version" -}}
{{ .Chart.AppVersion | replace "+" "_" | replace "~" "-" }}
{{- end }}

{{- define "belay.image" -}}
{{- $tag := .Values.image.tag | default (include "belay.version" .) -}}
{{ .Values.image.repository }}:{{ $tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "belay.metrics" -}}
{{- $a := .Values.agent.metrics -}}
{{ if contains ":" $a.address }}[{{ $a.address }}]{{ else }}{{ $a.address }}{{ end }}:{{ $a.port }}
{{- end }}

{{/* The files of /etc/belay/policies: those of the chart, those of the values, and what lets the chart's own pods past a floor. */}}
{{- define "belay.policies" -}}
{{- $files := dict -}}
{{- range $path, $_ := .Files.Glob "policies/*.yaml" -}}
{{- $_ := set $files (base $path | trimSuffix ".yaml") ($.Files.Get $path) -}}
{{- end -}}
{{- range $name, $text := .Values.policies -}}
{{- if kindIs "invalid" $text }}{{ $_ := unset $files $name }}{{ else }}{{ $_ := set $files $name $text }}{{ end -}}
{{- end -}}
{{- range $name, $text := $files }}
{{ $name }}.yaml: |
{{ $text | trimSuffix "\n" | indent 2 }}
{{- end }}
{{- $digests := .Values.allowInstallers }}
{{- with .Values.image.digest }}{{ $digests = prepend $digests . | uniq }}{{ end }}
{{- range $digests }}
belay-installer-{{ . | trimPrefix "sha256:" | trunc 12 }}.yaml: |
  # Lets the pods of the chart past an enforcing floor: they are containers as well.
  apiVersion: belay.dev/v1
  kind: RuntimePolicy
  metadata:
    name: belay-installer-{{ . | trimPrefix "sha256:" | trunc 12 }}
  spec:
    selector:
      imageDigest: {{ . | quote }}
      {{- if not $.Values.allowInstallersAnywhere }}
      namespace: {{ $.Release.Namespace | quote }}
      {{- end }}
    mode: enforce
    loosen: true
    exec:
      asRoot: allow
      drift: allow
    host:
      agent: allow
{{- end }}
{{- range .Values.allowBPF | uniq }}
belay-bpf-{{ . | trimPrefix "sha256:" | trunc 12 }}.yaml: |
  # Lets containers of one image, and no others, call bpf(2).
  apiVersion: belay.dev/v1
  kind: RuntimePolicy
  metadata:
    name: belay-bpf-{{ . | trimPrefix "sha256:" | trunc 12 }}
  spec:
    selector:
      imageDigest: {{ . | quote }}
    mode: enforce
    loosen: true
    guard:
      bpf: allow
{{- end }}
{{- end }}
