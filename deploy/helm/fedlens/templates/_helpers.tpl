{{/* The labels of one component, which are also its selector. Takes (dict "root" $ "component" "server"). */}}
{{- define "fedlens.labels" -}}
app.kubernetes.io/name: fedlens
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Name, namespace and labels of an object of one component. */}}
{{- define "fedlens.metadata" -}}
name: {{ .root.Release.Name }}-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "fedlens.labels" . | nindent 2 }}
{{- end }}

{{/* Who a pod runs as: the image's user. fsGroup lets this user read the Secrets, whose files have the mode 0440. */}}
{{- define "fedlens.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "fedlens.container" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* PyTorch's threads: as many as the container has processors, not as many as the node has. */}}
{{- define "fedlens.threads" -}}
- name: OMP_NUM_THREADS
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
{{- end }}

{{/* The number of a site's pod in its StatefulSet. */}}
{{- define "fedlens.partition" -}}
- name: PARTITION
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
{{- end }}

{{/* A claim of a StatefulSet. Takes (dict "name" … "size" … "class" …). */}}
{{- define "fedlens.claim" -}}
- metadata:
    name: {{ .name }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .class }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests:
        storage: {{ .size }}
{{- end }}

{{/* Places for pods, where the values name some. */}}
{{- define "fedlens.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
