{{- define "taskfleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "taskfleet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "taskfleet.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "taskfleet.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "taskfleet.selector" -}}
app.kubernetes.io/name: {{ include "taskfleet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "taskfleet.labels" -}}
{{ include "taskfleet.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "taskfleet.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "taskfleet.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "taskfleet.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* What every container may do: nothing but run. */ -}}
{{- define "taskfleet.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The server's configuration: what values say, and what the chart itself decides. */ -}}
{{- define "taskfleet.configuration" -}}
{{- $own := dict
  "data" "/var/lib/taskfleet"
  "listen" "0.0.0.0:8080"
  "secretsFile" "/etc/taskfleet/secrets/server.json"
  "database" "file:/etc/taskfleet/secrets/database" -}}
{{- if .Values.secrets.sealKeys.name -}}
{{- $_ := set $own "sealKeysFile" "/etc/taskfleet/secrets/seal-keys" -}}
{{- end -}}
{{- if .Values.secrets.s3Keys.name -}}
{{- $_ := set $own "s3" (merge (dict "keyFile" "/etc/taskfleet/secrets/s3.json") .Values.configuration.s3) -}}
{{- end -}}
{{- merge $own (deepCopy .Values.configuration) | toYaml -}}
{{- end -}}

{{- /* Nine tenths of a whole number of Gi or Mi, as Go has it. Other quantities are passed over. */ -}}
{{- define "taskfleet.memory" -}}
{{- $text := toString . -}}
{{- if regexMatch "^[1-9][0-9]*Gi$" $text -}}
{{- printf "%dMiB" (div (mul (trimSuffix "Gi" $text | int) 1024 9) 10) -}}
{{- else if regexMatch "^[1-9][0-9]*Mi$" $text -}}
{{- printf "%dMiB" (div (mul (trimSuffix "Mi" $text | int) 9) 10) -}}
{{- else -}}
off
{{- end -}}
{{- end -}}
