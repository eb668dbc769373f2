{{/* What a schema cannot express. The program rejects the same, but only once its pods start. */}}
{{- define "migration-gate.check" -}}
{{- $root := . -}}
{{- $names := dict -}}
{{- $held := list -}}
{{- range $gate := .Values.gates -}}
{{- if eq .namespace $root.Release.Namespace -}}
{{- fail (printf "gate %s: its namespace %s is also the release's, which the webhooks never check, so that they cannot block themselves; install migration-gate in another namespace" .name .namespace) -}}
{{- end -}}
{{- if has .namespace (list "kube-system" "kube-node-lease") -}}
{{- fail (printf "gate %s: its namespace is %s, which the webhooks never check, so that they cannot block a node; no workload there would wait" .name .namespace) -}}
{{- end -}}
{{- if hasKey $names .name -}}
{{- fail (printf "gates: the name %s is used twice; name each gate differently" .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- include "migration-gate.checkJobs" . -}}
{{- include "migration-gate.checkVersion" . -}}
{{- $own := list -}}
{{- range include "migration-gate.workloads" . | fromJsonArray -}}
{{- if .name -}}
{{- if regexMatch "^\\*+$" .name -}}
{{- fail (printf "gate %s: the name %s would hold every %s of the namespace; name them, or select them by label" $gate.name .name .kind) -}}
{{- end -}}
{{- $workload := dict "gate" $gate.name "namespace" $gate.namespace "kind" .kind "name" .name -}}
{{- range $held -}}
{{- if include "migration-gate.meet" (list . $workload) -}}
{{- fail (printf "gate %s: %s %s/%s is held by gate %s already; name it in one of them" $gate.name $workload.kind $gate.namespace $workload.name .gate) -}}
{{- end -}}
{{- end -}}
{{- $own = append $own $workload -}}
{{- end -}}
{{- end -}}
{{- $held = concat $held $own -}}
{{- with .timeout -}}
{{- $seconds := include "migration-gate.seconds" . | atoi -}}
{{- if or (lt $seconds 1) (gt $seconds 86400) -}}
{{- fail (printf "gate %s: the timeout %s is out of range; a gate waits for 1s at least and 24h at most" $gate.name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "migration-gate.checkResources" (list "waiter.resources" .Values.waiter.resources) -}}
{{- include "migration-gate.checkServer" . -}}
{{- end -}}

{{- define "migration-gate.checkLength" -}}
{{- $length := index . 1 | len -}}
{{- if gt $length 100000 -}}
{{- fail (printf "gates: the webhooks' condition %s has %d characters, and the API server takes at most 100000; use fewer gates, or select workloads by one label or pattern instead of naming each" (index . 0) $length) -}}
{{- end -}}
{{- end -}}

{{- define "migration-gate.checkResources" -}}
{{- $path := index . 0 -}}
{{- $resources := index . 1 | default dict -}}
{{- range $resource, $request := $resources.requests | default dict -}}
{{- $limit := get ($resources.limits | default dict) $resource -}}
{{- if and (hasKey ($resources.limits | default dict) $resource) (gt (include "migration-gate.quantity" $request | float64) (include "migration-gate.quantity" $limit | float64)) -}}
{{- fail (printf "%s.requests.%s: %v is more than the limit, %v" $path $resource $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What keeps the server's pods from being created or from starting. */}}
{{- define "migration-gate.checkServer" -}}
{{- include "migration-gate.checkResources" (list "resources" .Values.resources) -}}
{{- $own := include "migration-gate.ownLabels" . | fromYaml -}}
{{- range $key, $labels := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels "webhooks.labels" .Values.webhooks.labels -}}
{{- range $label, $_ := $labels -}}
{{- if hasKey $own $label -}}
{{- fail (printf "%s: the chart sets the label %s itself; remove it" $key $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $port := int .Values.webhooks.port -}}
{{- if eq $port (int .Values.health.port) -}}
{{- fail (printf "webhooks.port and health.port are both %d; give them different ports" $port) -}}
{{- end -}}
{{- if and .Values.hostNetwork (eq $port 10250) -}}
{{- fail "hostNetwork: the kubelet has port 10250 of every node; set webhooks.port to a free one, for example 10260" -}}
{{- end -}}
{{- include "migration-gate.checkArguments" . -}}
{{- include "migration-gate.checkCertificates" . -}}
{{- end -}}

{{- define "migration-gate.checkArguments" -}}
{{- range $argument := .Values.extraArgs -}}
{{- range $flag, $value := dict "--listen" "webhooks.port" "--health-listen" "health.port" -}}
{{- if eq $flag (splitList "=" $argument | first) -}}
{{- fail (printf "extraArgs: the chart sets %s itself; set %s instead" $flag $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "migration-gate.checkCertificates" -}}
{{- $certificates := .Values.certificates -}}
{{- $manager := $certificates.certManager -}}
{{- if and (eq $certificates.source "selfManaged") (not (join " " .Values.extraArgs | contains "--propagation-delay")) -}}
{{- if le (include "migration-gate.seconds" $certificates.lifetime | atoi) 12 -}}
{{- fail (printf "certificates.lifetime: %s leaves no time to rotate; make it more than 12s" $certificates.lifetime) -}}
{{- end -}}
{{- end -}}
{{- if eq $certificates.source "certManager" -}}
{{- $duration := include "migration-gate.seconds" ($manager.duration | default "2160h") | atoi -}}
{{- $before := include "migration-gate.seconds" ($manager.renewBefore | default "5m") | atoi -}}
{{- if lt $duration 3600 -}}
{{- fail (printf "certificates.certManager.duration: %s is too short for cert-manager; make it 1h at least" $manager.duration) -}}
{{- end -}}
{{- if or (lt $before 300) (ge $before $duration) -}}
{{- fail (printf "certificates.certManager.renewBefore: %s must be 5m at least and less than the duration" $manager.renewBefore) -}}
{{- end -}}
{{- end -}}
{{- if or $certificates.injectCaFrom $certificates.injectCaFromSecret -}}
{{- if ne $certificates.source "existingSecret" -}}
{{- fail "certificates.injectCaFrom and injectCaFromSecret are for the source existingSecret; remove them" -}}
{{- end -}}
{{- if and $certificates.injectCaFrom $certificates.injectCaFromSecret -}}
{{- fail "certificates.injectCaFrom and injectCaFromSecret exclude each other; remove one of them" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "migration-gate.checkJobs" -}}
{{- $gate := . -}}
{{- if and .job .jobs -}}
{{- fail (printf "gate %s: job is short for one entry of jobs; write all of them there" .name) -}}
{{- end -}}
{{- $seen := list -}}
{{- range include "migration-gate.jobs" . | fromJsonArray -}}
{{- $texts := list -}}
{{- range . -}}
{{- if regexMatch "^\\*+$" (.name | default "") -}}
{{- fail (printf "gate %s: the name %s would match every Job of the namespace; name them, or select them by label" $gate.name .name) -}}
{{- end -}}
{{- $texts = append $texts (.name | default (printf "label:%s" (include "migration-gate.selectorText" (.selector | default dict)))) -}}
{{- end -}}
{{- $text := join " or " $texts -}}
{{- if has $text $seen -}}
{{- fail (printf "gate %s: jobs lists %s twice; list it once" $gate.name $text) -}}
{{- end -}}
{{- $seen = append $seen $text -}}
{{- end -}}
{{- end -}}

{{- define "migration-gate.checkVersion" -}}
{{- $gate := . -}}
{{- if and .container .version -}}
{{- fail (printf "gate %s: container has no effect beside version; remove one of them" .name) -}}
{{- end -}}
{{- range $key := list "version" "container" -}}
{{- if and (get $gate $key) (eq ($gate.freshness | default "version") "any") -}}
{{- fail (printf "gate %s: %s has no effect beside freshness any; remove one of them" $gate.name $key) -}}
{{- end -}}
{{- end -}}
{{- $characters := "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-" -}}
{{- range $glob := .movingTags -}}
{{- /* As in the schema. */ -}}
{{- $class := "\\[([!^].|[^!^])[^]]*\\]" -}}
{{- $possible := regexReplaceAll $class $glob "x" | replace "*" "" | len | ge 128 -}}
{{- range regexFindAll $class $glob -1 -}}
{{- $set := "" -}}
{{- range regexFindAll ".-.|." (regexReplaceAll "^\\[[!^]?|\\]$" . "") -1 -}}
{{- if regexMatch "^.-.$" . -}}
{{- if gt (substr 0 1 .) (substr 2 3 .) -}}
{{- fail (printf "gate %s: movingTags: the range %s of %s ends before it begins; swap its ends" $gate.name . $glob) -}}
{{- end -}}
{{- $set = printf "%s%s-%s" $set (include "migration-gate.member" (substr 0 1 .)) (include "migration-gate.member" (substr 2 3 .)) -}}
{{- else -}}
{{- $set = printf "%s%s" $set (include "migration-gate.member" .) -}}
{{- end -}}
{{- end -}}
{{- $not := regexMatch "^\\[[!^]" . | ternary "^" "" -}}
{{- $possible = and $possible (regexMatch (printf "[%s%s]" $not $set) $characters) -}}
{{- end -}}
{{- if not $possible -}}
{{- fail (printf "gate %s: movingTags: %s matches no tag; a tag has at most 128 letters, digits, _, . and -" $gate.name $glob) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A character within a class of a regular expression. */}}
{{- define "migration-gate.member" -}}
{{- eq . "-" | ternary "\\-" (regexQuoteMeta .) -}}
{{- end -}}

{{/* Whether there may be an object that two gates name. */}}
{{- define "migration-gate.meet" -}}
{{- $a := index . 0 -}}
{{- $b := index . 1 -}}
{{- if and (eq $a.namespace $b.namespace) (eq $a.kind $b.kind) -}}
{{- if and (contains "*" $a.name) (contains "*" $b.name) -}}
{{- /* What is between the first and the last star of either can follow that of the other. */ -}}
{{- $as := splitList "*" $a.name -}}
{{- $bs := splitList "*" $b.name -}}
{{- if and (or (hasPrefix (first $as) (first $bs)) (hasPrefix (first $bs) (first $as)))
      (or (hasSuffix (last $as) (last $bs)) (hasSuffix (last $bs) (last $as))) -}}
true
{{- end -}}
{{- else if or (regexMatch (include "migration-gate.regex" $a.name) $b.name) (regexMatch (include "migration-gate.regex" $b.name) $a.name) -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether an object of the cluster is this release's own, and no other client has taken it over since. Helm's annotations stay
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
