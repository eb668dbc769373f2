{{- define "migration-gate.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{/* The name is the chart's whatever the overrides say, since `eject`, `status` and `version` look for it. */}}
{{- define "migration-gate.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "migration-gate.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "migration-gate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "migration-gate.labels" -}}
{{ include "migration-gate.labelsAnd" (list . dict) }}
{{- end -}}

{{/* The chart's labels, `commonLabels` and further ones, of which the last win. */}}
{{- define "migration-gate.labelsAnd" -}}
{{- $root := index . 0 -}}
{{- $own := include "migration-gate.ownLabels" $root | fromYaml -}}
{{- mergeOverwrite $own ($root.Values.commonLabels | default dict) (index . 1 | default dict) | toYaml -}}
{{- end -}}

{{/* Not the server's selector labels: the pods of hooks must get no webhook calls, and no disruption budget. */}}
{{- define "migration-gate.hookLabels" -}}
{{- $root := index . 0 -}}
{{- $own := dict "app.kubernetes.io/name" (printf "%s-%s" $root.Chart.Name (index . 1)) -}}
{{- include "migration-gate.labelsAnd" (list $root (merge $own (index . 2 | default dict))) -}}
{{- end -}}

{{- define "migration-gate.testLabels" -}}
{{ include "migration-gate.hookLabels" (list . "test" dict) }}
{{- end -}}

{{- define "migration-gate.testRights" -}}
helm.sh/hook: test
helm.sh/hook-weight: "-1"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* What waiters need outlives the release. Argo CD heeds Helm's annotation when the Application is deleted, and not when
     a gate is taken out of it. */}}
{{- define "migration-gate.keep" -}}
helm.sh/resource-policy: keep
argocd.argoproj.io/sync-options: Prune=false
{{- end -}}

{{- define "migration-gate.image" -}}
{{ include "migration-gate.reference" (list . .Values.image) }}
{{- end -}}

{{/* The waiter's image, which is the server's but for what `waiter.image` says. */}}
{{- define "migration-gate.waiterImage" -}}
{{- $own := .Values.waiter.image | default dict -}}
{{- if kindIs "string" $own -}}
{{ $own }}
{{- else -}}
{{- $image := .Values.image -}}
{{- if or $own.tag $own.digest }}{{ $image = omit $image "tag" "digest" }}{{ end -}}
{{- range $key, $value := $own }}{{ if $value }}{{ $image = merge (dict $key $value) $image }}{{ end }}{{ end -}}
{{ include "migration-gate.reference" (list . $image) }}
{{- end -}}
{{- end -}}

{{/* An image reference. A repository whose first part has a dot or a colon names its registry by itself. */}}
{{- define "migration-gate.reference" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := dig "imageRegistry" "" ($root.Values.global | default dict) | default $image.registry -}}
{{- if and $registry (not (regexMatch "^([^/]*[.:][^/]*|localhost)/" $image.repository)) -}}
{{ $registry }}/
{{- end -}}
{{ $image.repository }}
{{- $digest := $image.digest -}}
{{- if not (or $digest $image.tag) -}}
{{- $digest = index ($root.Chart.Annotations | default dict) "migration-gate.io/image-digest" -}}
{{- end -}}
{{- if $image.tag }}:{{ $image.tag }}{{ else if not $digest }}:{{ $root.Chart.AppVersion }}{{ end -}}
{{- if $digest }}@{{ $digest }}{{ end -}}
{{- end -}}

{{/* Pull secrets and those of `global`, which other charts write as names. */}}
{{- define "migration-gate.pullSecrets" -}}
{{- $secrets := index . 1 | default list -}}
{{- range dig "imagePullSecrets" list ((index . 0).Values.global | default dict) -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- with $secrets | uniq -}}
imagePullSecrets: {{- toYaml . | nindent 0 }}
{{- end -}}
{{- end -}}

{{/* Where the pods of hooks run, which is where the server's do. */}}
{{- define "migration-gate.scheduling" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* The program's own configuration file. */}}
{{- define "migration-gate.config" -}}
gates: {{- toYaml .Values.gates | nindent 0 }}
forbiddenEnv: {{ toRawJson .Values.forbiddenEnv }}
mode: {{ .Values.mode }}
waiter:
  image: {{ include "migration-gate.waiterImage" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- /* Both, always: a limit that was taken away by `null` must not come back as the program's default. */}}
  {{- $resources := .Values.waiter.resources | default dict }}
  resources:
    requests: {{ $resources.requests | default dict | toRawJson }}
    limits: {{ $resources.limits | default dict | toRawJson }}
  logFormat: {{ .Values.waiter.logFormat }}
  {{- with .Values.waiter.securityContext }}
  securityContext: {{ toRawJson . }}
  {{- end }}
{{- end -}}

{{/* The kinds that can be held, in the program's order. */}}
{{- define "migration-gate.kinds" -}}
[
  {"kind": "Deployment", "group": "apps", "resource": "deployments"},
  {"kind": "StatefulSet", "group": "apps", "resource": "statefulsets"},
  {"kind": "DaemonSet", "group": "apps", "resource": "daemonsets"},
  {"kind": "CronJob", "group": "batch", "resource": "cronjobs"},
  {"kind": "Rollout", "group": "argoproj.io", "resource": "rollouts"}
]
{{- end -}}

{{/* All workloads that a gate names or selects, the short forms as entries of `workloads`. */}}
{{- define "migration-gate.workloads" -}}
{{- $workloads := list -}}
{{- range .deployments | default list | uniq | sortAlpha -}}
{{- $workloads = append $workloads (dict "kind" "Deployment" "name" .) -}}
{{- end -}}
{{- with .selector -}}
{{- $workloads = append $workloads (dict "kind" "Deployment" "selector" .) -}}
{{- end -}}
{{- concat $workloads (.workloads | default list) | toRawJson -}}
{{- end -}}

{{/* All Jobs that a gate waits for, `job` as an entry of `jobs`; each entry as the list of its alternatives. */}}
{{- define "migration-gate.jobs" -}}
{{- $jobs := list -}}
{{- with .job }}{{ $jobs = append $jobs (list (dict "name" .)) }}{{ end -}}
{{- range .jobs }}{{ $jobs = append $jobs (.anyOf | default (list .)) }}{{ end -}}
{{- toRawJson $jobs -}}
{{- end -}}

{{/* The right to see a gate's Jobs. What is created under a new name can't be named in a Role before. */}}
{{- define "migration-gate.jobRule" -}}
{{- $names := list -}}
{{- $exact := true -}}
{{- range include "migration-gate.jobs" . | fromJsonArray -}}
{{- range . -}}
{{- if and .name (not (contains "*" .name)) }}{{ $names = append $names .name }}{{ else }}{{ $exact = false }}{{ end -}}
{{- end -}}
{{- end -}}
- apiGroups: [batch]
  resources: [jobs]
  {{- if $exact }}
  resourceNames: {{ $names | uniq | toRawJson }}
  {{- end }}
  verbs: [get, list, watch]
{{- end -}}

{{/* The rights to see the workloads that a gate holds: by their names, or all of a kind where a pattern or labels say
     which. */}}
{{- define "migration-gate.workloadRules" -}}
{{- $workloads := include "migration-gate.workloads" . | fromJsonArray -}}
{{- range $kind := include "migration-gate.kinds" . | fromJsonArray -}}
{{- $names := list -}}
{{- $held := false -}}
{{- $exact := true -}}
{{- range $workloads -}}
{{- if eq .kind $kind.kind -}}
{{- $held = true -}}
{{- if and .name (not (contains "*" .name)) }}{{ $names = append $names .name }}{{ else }}{{ $exact = false }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $held }}
- apiGroups: [{{ $kind.group }}]
  resources: [{{ $kind.resource }}]
  {{- if $exact }}
  resourceNames: {{ $names | uniq | toRawJson }}
  {{- end }}
  verbs: [list, watch]
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A label selector in kubectl's notation. The program writes the same. */}}
{{- define "migration-gate.selectorText" -}}
{{- $terms := list -}}
{{- range $key, $value := .matchLabels -}}
{{- $terms = append $terms (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- range .matchExpressions -}}
{{- if has .operator (list "In" "NotIn") -}}
{{- $terms = append $terms (printf "%s %s (%s)" .key (lower .operator) (join "," .values)) -}}
{{- else -}}
{{- $terms = append $terms (printf "%s%s" (ternary "" "!" (eq .operator "Exists")) .key) -}}
{{- end -}}
{{- end -}}
{{ join "," $terms }}
{{- end -}}

{{/* A pattern for names as a regular expression. The program's prefilter writes the same. */}}
{{- define "migration-gate.regex" -}}
^{{ regexReplaceAll "\\*+" . "*" | replace "-" "\\x{2d}" | replace "." "\\x{2e}" | replace "*" ".*" }}$
{{- end -}}

{{/* A label selector as CEL. The program's prefilter writes the same. */}}
{{- define "migration-gate.selected" -}}
{{- $all := list -}}
{{- range $key, $value := .matchLabels -}}
{{- $all = append $all (include "migration-gate.requirement" (dict "operator" "In" "key" $key "values" (list $value))) -}}
{{- end -}}
{{- range .matchExpressions -}}
{{- $all = append $all (include "migration-gate.requirement" .) -}}
{{- end -}}
{{ join " && " $all }}
{{- end -}}

{{- define "migration-gate.requirement" -}}
{{- $label := printf "object.metadata.?labels[?%s]" (toRawJson .key) -}}
{{- $listed := printf "%s.orValue(\"?\") in %s" $label (toRawJson (.values | default list)) -}}
{{- if eq .operator "In" -}}{{ $listed }}
{{- else if eq .operator "NotIn" -}}!({{ $listed }})
{{- else if eq .operator "Exists" -}}{{ $label }}.hasValue()
{{- else -}}!{{ $label }}.hasValue()
{{- end -}}
{{- end -}}

{{/* The CEL condition that a gate holds the object. The program's prefilter writes the same. */}}
{{- define "migration-gate.held" -}}
{{- $gates := list -}}
{{- range .Values.gates }}{{ $gates = append $gates (include "migration-gate.heldBy" .) }}{{ end -}}
{{ join " || " $gates }}
{{- end -}}

{{- define "migration-gate.heldBy" -}}
{{- $workloads := include "migration-gate.workloads" . | fromJsonArray -}}
{{- $ways := list -}}
{{- range include "migration-gate.kinds" . | fromJsonArray -}}
{{- $way := include "migration-gate.heldOfKind" (dict "kind" .kind "workloads" $workloads) -}}
{{- if $way }}{{ $ways = append $ways $way }}{{ end -}}
{{- end -}}
request.namespace == {{ toRawJson .namespace }} && ({{ join " || " $ways }})
{{- end -}}

{{/* The CEL condition that the waiter `w` of the template `t` has the arguments of the gate that holds the object. The
     program's prefilter writes the same. */}}
{{- define "migration-gate.hasArguments" -}}
{{- $root := . -}}
{{- range .Values.gates -}}
{{ include "migration-gate.heldBy" . }} ? w.args == {{ include "migration-gate.waiterArguments" (dict "gate" . "root" $root) }} : {{ end -}}
false
{{- end -}}

{{/* A waiter's arguments as a CEL list: what stands in front of the version, the version, what follows it. */}}
{{- define "migration-gate.waiterArguments" -}}
{{- $gate := .gate -}}
{{- $any := eq ($gate.freshness | default "version") "any" -}}
{{- $before := list "wait" (printf "--gate=%s" $gate.name) (printf "--namespace=%s" $gate.namespace) -}}
{{- range include "migration-gate.jobs" $gate | fromJsonArray -}}
{{- $texts := list -}}
{{- range . -}}
{{- $labels := printf "label:%s" (include "migration-gate.selectorText" (.selector | default dict)) -}}
{{- $texts = append $texts (.name | default $labels) -}}
{{- end -}}
{{- $before = append $before (printf "--job=%s" (join "|" $texts)) -}}
{{- end -}}
{{- $before = append $before (printf "--record=migration-gate-%s" $gate.name) -}}
{{- $image := "c.?image.orValue(\"\")" -}}
{{- $after := list -}}
{{- $version := "" -}}
{{- if and $gate.version (not $any) -}}
{{- $of := hasKey $gate.version "label" | ternary "label" "annotation" -}}
{{- $key := get $gate.version $of -}}
{{- $version = printf "[%s + t.?metadata.?%ss[?%s].orValue(\"\")]" (toRawJson (printf "--version=%s:%s=" $of $key)) $of (toRawJson $key) -}}
{{- else -}}
{{- if $any -}}
{{- $version = "[\"--image=\" + t.spec.containers[?0].?image.orValue(\"\")]" -}}
{{- else if $gate.container -}}
{{- $version = printf "t.spec.containers.filter(c, c.?name.orValue(\"\") == %s).map(c, \"--image=\" + %s)" (toRawJson $gate.container) $image -}}
{{- else -}}
{{- $version = printf "t.spec.containers.map(c, \"--image=\" + %s) + t.spec.initContainers.filter(c, c.?name.orValue(\"\") != \"wait-for-migrations\" && !t.spec.containers.exists(m, m.?image == c.?image)).map(c, \"--init-image=\" + %s)" $image $image -}}
{{- end -}}
{{- with $gate.container }}{{ $after = append $after (printf "--container=%s" .) }}{{ end -}}
{{- if hasKey $gate "movingTags" }}{{ $after = append $after (printf "--moving-tags=%s" (join "," $gate.movingTags)) }}{{ end -}}
{{- end -}}
{{- $after = append $after (printf "--timeout=%ss" (include "migration-gate.seconds" ($gate.timeout | default "10m"))) -}}
{{- $after = append $after (printf "--freshness=%s" ($gate.freshness | default "version")) -}}
{{- with .root.Values.waiter.logFormat }}{{ if ne . "human" }}{{ $after = append $after (printf "--log-format=%s" .) }}{{ end }}{{ end -}}
{{ toRawJson $before }} + {{ $version }} + {{ toRawJson $after }}
{{- end -}}

{{- define "migration-gate.heldOfKind" -}}
{{- $name := "object.metadata.?name.orValue(\"\")" -}}
{{- $likely := "object.metadata.?name.orValue(object.metadata.?generateName.orValue(\"\") + \"xxxxx\")" -}}
{{- $names := list -}}
{{- $ways := list -}}
{{- range .workloads -}}
{{- if ne .kind $.kind -}}
{{- else if .selector -}}
{{- $ways = append $ways (include "migration-gate.selected" .selector) -}}
{{- else if contains "*" .name -}}
{{- $ways = append $ways (printf "%s.matches(%s)" $likely (include "migration-gate.regex" .name | toRawJson)) -}}
{{- else -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- if $names }}{{ $ways = prepend $ways (printf "%s in %s" $name (toRawJson $names)) }}{{ end -}}
{{- if $ways -}}
request.kind.kind == {{ toRawJson .kind }} && ({{ join " || " $ways }})
{{- end -}}
{{- end -}}

{{/* The matchConditions of a webhook, with this release's gates and variables. The program's prefilter fills them in the
     same way, and says why the arguments come last and are left out of a long expression. */}}
{{- define "migration-gate.matchConditions" -}}
{{- $namespaces := list -}}
{{- range .root.Values.gates }}{{ $namespaces = append $namespaces .namespace }}{{ end -}}
{{- $held := include "migration-gate.held" .root -}}
{{- $arguments := include "migration-gate.hasArguments" .root -}}
{{- $image := include "migration-gate.waiterImage" .root | toRawJson -}}
{{- $env := toRawJson .root.Values.forbiddenEnv -}}
{{- range .conditions }}
{{- $expression := .expression | replace "{=GATE_NAMESPACES=}" (toRawJson $namespaces) | replace "{=HELD=}" $held | replace "{=WAITER_IMAGE=}" $image | replace "{=FORBIDDEN_ENV=}" $env -}}
{{- $whole := replace "{=HAS_ARGUMENTS=}" $arguments $expression -}}
{{- if gt (len $whole) 90000 }}{{ $whole = replace "{=HAS_ARGUMENTS=}" "false" $expression }}{{ end -}}
{{- include "migration-gate.checkLength" (list .name $whole) }}
- name: {{ .name }}
  expression: {{ toRawJson $whole }}
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
