{{/* What a schema can't say. The program would refuse the same, but only once its pods start. */}}
{{- define "migration-gate.check" -}}
{{- $root := . -}}
{{- $names := dict -}}
{{- $held := dict -}}
{{- range $gate := .Values.gates -}}
{{- if eq .namespace $root.Release.Namespace -}}
{{- fail (printf "gate %s: its namespace %s is also the release's, which the webhooks leave alone so that they can't block themselves; install migration-gate in a namespace of its own" .name .namespace) -}}
{{- end -}}
{{- if has .namespace (list "kube-system" "kube-node-lease") -}}
{{- fail (printf "gate %s: its namespace is %s, which the webhooks leave alone so that they can't block a node; nothing there would ever wait" .name .namespace) -}}
{{- end -}}
{{- if hasKey $names .name -}}
{{- fail (printf "gates: the name %s is used twice; name each gate differently" .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- range .deployments | default list | uniq -}}
{{- $deployment := printf "%s/%s" $gate.namespace . -}}
{{- if hasKey $held $deployment -}}
{{- fail (printf "gate %s: Deployment %s is held by gate %s already; name it in one of them" $gate.name $deployment (get $held $deployment)) -}}
{{- end -}}
{{- $_ := set $held $deployment $gate.name -}}
{{- end -}}
{{- with .timeout -}}
{{- $seconds := include "migration-gate.seconds" . | atoi -}}
{{- if or (lt $seconds 1) (gt $seconds 86400) -}}
{{- fail (printf "gate %s: the timeout %s is out of range; a gate waits for 1s at least and 24h at most" $gate.name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $resources := .Values.waiter.resources | default dict -}}
{{- range $resource, $request := $resources.requests | default dict -}}
{{- $limit := get ($resources.limits | default dict) $resource -}}
{{- if and (hasKey ($resources.limits | default dict) $resource) (gt (include "migration-gate.quantity" $request | float64) (include "migration-gate.quantity" $limit | float64)) -}}
{{- fail (printf "waiter.resources.requests.%s: %v is more than the limit, %v" $resource $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether an object of the cluster is this release's own, and nobody has taken it over since. Helm's annotations stay
     on an account that an applier made its own, so those who applied it are asked for: Flux and `kubectl apply
     --server-side` are in managedFields, a plain `kubectl apply` leaves its annotation. */}}
{{- define "migration-gate.owns" -}}
{{- $metadata := dig "metadata" dict (.object | default dict) -}}
{{- $annotations := $metadata.annotations | default dict -}}
{{- $applied := hasKey $annotations "kubectl.kubernetes.io/last-applied-configuration" -}}
{{- range $metadata.managedFields -}}
{{- if and (eq .operation "Apply") (not (hasPrefix "helm" .manager)) -}}
{{- $applied = true -}}
{{- end -}}
{{- end -}}
{{- if and (not $applied)
      (eq (get $annotations "meta.helm.sh/release-name") .root.Release.Name)
      (eq (get $annotations "meta.helm.sh/release-namespace") .root.Release.Namespace) -}}
true
{{- end -}}
{{- end -}}
