{{- define "migration-gate.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "migration-gate.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "migration-gate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "migration-gate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Not the server's selector labels: the test's pod must get no webhook calls, and no disruption budget. */}}
{{- define "migration-gate.testLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "migration-gate.testRights" -}}
helm.sh/hook: test
helm.sh/hook-weight: "-1"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "migration-gate.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The program's own configuration file. */}}
{{- define "migration-gate.config" -}}
{{- $gates := list -}}
{{- range .Values.gates }}{{ $gates = append $gates (omit . "extraAccounts") }}{{ end -}}
gates: {{- toYaml $gates | nindent 0 }}
forbiddenEnv: {{ toRawJson .Values.forbiddenEnv }}
mode: {{ .Values.mode }}
waiter:
  image: {{ .Values.waiter.image | default (include "migration-gate.image" .) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- /* Both, always: a limit that was taken away by `null` must not come back as the program's default. */}}
  {{- $resources := .Values.waiter.resources | default dict }}
  resources:
    requests: {{ $resources.requests | default dict | toRawJson }}
    limits: {{ $resources.limits | default dict | toRawJson }}
  logFormat: {{ .Values.waiter.logFormat }}
{{- end -}}

{{/* One requirement of a label selector, as CEL. The program's prefilter writes the same. */}}
{{- define "migration-gate.requirement" -}}
{{- $label := printf "object.metadata.?labels[?%s]" (toRawJson .key) -}}
{{- $listed := printf "%s.optMap(v, v in %s).orValue(false)" $label (toRawJson (.values | default list)) -}}
{{- if eq .operator "In" -}}{{ $listed }}
{{- else if eq .operator "NotIn" -}}!{{ $listed }}
{{- else if eq .operator "Exists" -}}{{ $label }}.hasValue()
{{- else -}}!{{ $label }}.hasValue()
{{- end -}}
{{- end -}}

{{/* The CEL condition that a gate holds the object. */}}
{{- define "migration-gate.held" -}}
{{- $gates := list -}}
{{- range .Values.gates -}}
{{- $ways := list -}}
{{- if .deployments -}}
{{- $ways = append $ways (printf "object.metadata.?name.orValue(\"\") in %s" (toRawJson (.deployments | uniq | sortAlpha))) -}}
{{- end -}}
{{- if .selector -}}
{{- $all := list -}}
{{- range $key, $value := .selector.matchLabels -}}
{{- $all = append $all (include "migration-gate.requirement" (dict "operator" "In" "key" $key "values" (list $value))) -}}
{{- end -}}
{{- range .selector.matchExpressions -}}
{{- $all = append $all (include "migration-gate.requirement" .) -}}
{{- end -}}
{{- $ways = append $ways (join " && " $all) -}}
{{- end -}}
{{- $gates = append $gates (printf "request.namespace == %s && (%s)" (toRawJson .namespace) (join " || " $ways)) -}}
{{- end -}}
{{ join " || " $gates }}
{{- end -}}

{{/* The matchConditions of a webhook, with this release's gates and variables. */}}
{{- define "migration-gate.matchConditions" -}}
{{- $namespaces := list -}}
{{- range .root.Values.gates }}{{ $namespaces = append $namespaces .namespace }}{{ end -}}
{{- $held := include "migration-gate.held" .root -}}
{{- $env := toRawJson .root.Values.forbiddenEnv -}}
{{- range .conditions }}
- name: {{ .name }}
  expression: {{ .expression | replace "GATE_NAMESPACES" (toRawJson $namespaces) | replace "HELD" $held | replace "FORBIDDEN_ENV" $env | toRawJson }}
{{- end -}}
{{- end -}}

{{/* The Secret with the serving certificate. A name for each source: cert-manager's Secret outlives its Certificate, and
     Helm would neither adopt nor overwrite it for the server's own. */}}
{{- define "migration-gate.certificate" -}}
{{- if eq .Values.certificates.source "existingSecret" -}}
{{ required "certificates.existingSecret: name the Secret with tls.crt and tls.key" .Values.certificates.existingSecret }}
{{- else if eq .Values.certificates.source "certManager" -}}
{{ include "migration-gate.fullname" . }}-cert-manager
{{- else -}}
{{ include "migration-gate.fullname" . }}-certificate
{{- end -}}
{{- end -}}

{{/* A duration such as `1h30m`, in seconds. */}}
{{- define "migration-gate.seconds" -}}
{{- $seconds := 0 -}}
{{- range $unit, $factor := dict "h" 3600 "m" 60 "s" 1 -}}
{{- $part := regexFind (printf "[0-9]+%s" $unit) $ | trimSuffix $unit -}}
{{- $seconds = add $seconds (mul (atoi (default "0" $part)) $factor) -}}
{{- end -}}
{{ $seconds }}
{{- end -}}

{{/* A quantity such as `100m`, in its base unit. */}}
{{- define "migration-gate.quantity" -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 "n" 0.000000001 "u" 0.000001 "m" 0.001 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "E" 1000000000000000000 -}}
{{- $text := toString . -}}
{{- $unit := regexFind "([KMGTPE]i|[numkMGTPE])$" $text -}}
{{- mulf (float64 (trimSuffix $unit $text)) (get $units $unit | default 1) -}}
{{- end -}}
