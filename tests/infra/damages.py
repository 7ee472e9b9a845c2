"""What may happen to the files of infra/, and what is said of it.

Check and file -> what stands there, what stands there instead, what the check says.
"""

from __future__ import annotations

from typing import Final

DAMAGES: Final = {
    ("schemas", "kuberay/rayjob.yaml"): [
        ("shutdownAfterJobFinishes:", "shutDownAfterJobFinishes:", "shutDownAfterJobFinishes"),
        ("mode: token", "mode: tokens", "'tokens' is not one of"),
        ("minReplicas: 0", 'minReplicas: "0"', "minReplicas"),
        ("terminationGracePeriodSeconds: 15", "terminationGracePeriod: 15", "terminationGracePeriod"),
        ("securityContext: *container\n      volumeMounts",
         "securitycontext: {}\n      volumeMounts", "securitycontext"),
    ],
    ("schemas", "kuberay/networkpolicy.yaml"): [
        ("  policyTypes: [Ingress]", "    policyTypes: [Ingress]", "policyTypes"),
        ("port: 8080}", "ports: 8080}", "ports"),
    ],
    ("schemas", "kuberay/cronjob.yaml"): [
        ("restartPolicy: Never", "restartpolicy: Never", "restartpolicy"),
    ],
    ("schemas", "kuberay/rbac.yaml"): [
        ("    verbs: [get, create]", "    verb: [get, create]", "verb"),
    ],
    ("schemas", "kuberay/kustomization.yaml"): [
        ("newTag: 0.1.0", "newtag: 0.1.0", "newtag"),
        ("- cronjob.yaml", "- nightly.yaml", "no file nightly.yaml"),
        ("- night.sh", "- nights.sh", "no file nights.sh"),
        ("- name: mosaic-ray ", "- name: mosaic ", "images names no mosaic-ray"),
        ("/workerGroupSpecs/0/maxReplicas", "/workerGroupSpecs/1/maxReplicas", "no field"),
        ("{kind: ServiceAccount, name: mosaic-job}",
         "{kind: ServiceAccount, name: mosaic}", "no ServiceAccount mosaic"),
        ("fieldPath: spec.rayClusterSpec", "fieldPath: spec.clusterSpec", "no spec.clusterSpec"),
    ],
    ("pods", "kuberay/rayjob.yaml"): [
        ("allowPrivilegeEscalation: false", "privileged: true", "securityContext is not"),
        ("runAsNonRoot: true", "runAsNonRoot: false", "may run as root"),
        ("automountServiceAccountToken: false\n            restart", "restart", "spot: gets the API server's token"),
        ("configMapRef: {name: mosaic-values}", "configMapRef: {name: values}", "no ConfigMap values"),
        ("- {name: models, mountPath: /models}", "- {name: model, mountPath: /models}", "no volume model"),
        ("- {name: tmp, mountPath: /tmp}\n                - {name: m", "- {name: m", "/tmp is not mounted"),
        ('requests: {cpu: "8", memory: 24Gi}', "claims: []", "no requests"),
    ],
    ("pods", "kuberay/cronjob.yaml"): [
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "night: securityContext"),
        ("serviceAccountName: mosaic-schedule", "serviceAccountName: mosaic", "no ServiceAccount mosaic"),
        ("configMap: {name: mosaic-night}", "configMap: {name: night}", "no ConfigMap night"),
    ],
    ("pods", "kuberay/rbac.yaml"): [
        ("verbs: [get, create]", "verbs: [get, create, delete]", "more or less"),
        ("kind: ServiceAccount\n    name: mosaic-schedule",
         "kind: ServiceAccount\n    name: mosaic", "no ServiceAccount mosaic"),
    ],
    ("nights", "kuberay/cronjob.yaml"): [
        ("concurrencyPolicy: Forbid", "concurrencyPolicy: Allow", "two nights may run at once"),
    ],
    ("nights", "kuberay/rayjob.yaml"): [
        ("suspend: true", "suspend: false", "would run by itself"),
        ("entrypoint: >-", "entrypoint: |-", "more than one line"),
        ("$(date -u +%F)", "tonight", "has not $(date"),
        ("authOptions: {mode: token}", "authOptions: {mode: disabled}", "no token"),
        ("rayVersion: 2.60.0", "rayVersion: 2.59.0", "version of Ray"),
        ('num-cpus: "0"', 'num-cpus: "2"', "work may run on the head"),
        ("{name: metrics, containerPort: 8080}", "{name: numbers, containerPort: 8080}", "no port metrics"),
        ("activeDeadlineSeconds: 21600", "activeDeadlineSeconds: 36000", "less than the tries need"),
    ],
    ("nights", "kuberay/raycronjob.yaml"): [
        ("activeDeadlineSeconds: 21600", "activeDeadlineSeconds: 36000", "not over before the day is"),
    ],
    ("nights", "kuberay/kustomization.yaml"): [
        ("value: 0 1 * * *", "value: 0 4 * * *", "not over before the day is"),
        ("capacityType: SPOT", "capacityType: ON_DEMAND", "same nodes"),
    ],
    ("nights", "kuberay/networkpolicy.yaml"): [
        ("podSelector:\n    matchLabels: {app", "podSelector:\n    matchLabels: {a: b, app", "not covered"),
    ],
    ("commands", "kuberay/rayjob.yaml"): [
        ("--tokenizer /models", "--tokeniser /models", "--tokeniser"),
        ("/app/jobs/mosaic_corpus.py", "/jobs/mosaic_corpus.py", "no /jobs/mosaic_corpus.py"),
    ],
    ("commands", "kuberay/kustomization.yaml"): [
        ("MOSAIC_WORKERS=1:128", "MOSAIC_WORKERS=128:1", "1 <= MIN <= MAX"),
        ("      - MOSAIC_INPUT=s3://lake/sft/\n", "", "a value is missing"),
    ],
    ("commands", "image/Dockerfile"): [
        ("COPY jobs /app/jobs", "COPY jobs /app/job", "no /app/jobs/mosaic_corpus.py"),
        ("mosaic-ray --version", "mosaic-ray --versions", "--versions"),
    ],
    ("commands", "aws/cluster.yaml"): [
        ("--since s3://lake/mosaic", "--sinse s3://lake/mosaic", "--sinse"),
        ("/home/ubuntu/mosaic_ray: .", "/home/ubuntu/mosaic: .", "no /home/ubuntu/mosaic_ray/jobs"),
        ("infra/aws/autoscaler-policy.json,", "infra/aws/head-policy.json,", "no infra/aws/head-policy.json"),
    ],
    ("image", "image/Dockerfile"): [
        ("3.11.14-slim-trixie", "3.11-slim", "FROM python:3.11-slim"),
        ("3.11.14-slim-trixie", "3.10.14-slim-trixie", "FROM python:3.10"),
        ("USER 1000:1000", "USER mosaic", "USER mosaic is not a number"),
        ("USER 1000:1000\n", "", "USER root"),
        ("COPY jobs", "ADD https://example.org/jobs", "ADD is not expected"),
        ("COPY mosaic_ray mosaic_ray", "COPY mosaic mosaic_ray", "COPY mosaic: not in the checkout"),
        ("RAY_USAGE_STATS_ENABLED=0", "RAY_USAGE_STATS_ENABLED=1", "reports its use"),
        ("RUN groupadd", "RUN apt-get install -y gcc && groupadd", "brings tools"),
        ("--from=build", "--from=builder", "no such stage"),
        ('image.version="0.1.0"', 'image.version="0.2.0"', "its label"),
        ("-t mosaic-ray:0.1.0", "-t mosaic-ray:0.0.9", "mosaic-ray:0.0.9"),
    ],
    ("image", "image/Dockerfile.dockerignore"): [
        ("!jobs\n", "", "COPY jobs: Dockerfile.dockerignore leaves it out"),
    ],
    ("image", "kuberay/kustomization.yaml"): [
        ("newTag: 0.1.0", "newTag: 0.2.0", "is not version"),
        ("newTag: 1.36.3", "newTag: latest", "has no version"),
    ],
    ("scripts", "kuberay/night.sh"): [
        ("\nfi\n", "\n", "night.sh"),
        ('rayjob "$job" -o', "rayjob $job -o", "Double quote"),
    ],
    ("scripts", "kuberay/rayjob.yaml"): [
        ('"$MOSAIC_WORKERS"', '"$MOSAIC_WORKERS', "entrypoint.sh"),
        ("recursive=True)", "recursive=True", "tokenizer"),
    ],
    ("scripts", "aws/cluster.yaml"): [
        ("test -d ~/venv ||", "test -d ~/venv |||", "setup_commands"),
    ],
    ("scripts", "image/Dockerfile"): [
        (">/dev/null\n", ">/dev/null; fi\n", "run-"),
    ],
    ("aws", "aws/cluster.yaml"): [
        ("upscaling_speed", "upscale_speed", "upscale_speed"),
        ("    resources: {CPU: 8}\n", "", "resources"),
        ("      InstanceMarketOptions: {MarketType: spot}\n", "", "not on spot"),
        ("IamInstanceProfile: {Name: mosaic-ray-worker}", "Monitoring: {Enabled: true}", "no instance profile"),
        ("RAY_AUTH_MODE=token RAY", "RAY", "without a token"),
        ("  /home/ubuntu/.ray/auth_token: ~/.ray/auth_token\n", "", "token is not copied"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "dashboard is open"),
        ("boto3==1.43.117", "boto3", "boto3 is not"),
        ("cluster_name: mosaic-ray", "cluster_name: mosaic", "ends nodes of"),
    ],
    ("aws", "aws/policy.json"): [
        ('"s3:AbortMultipartUpload"', '"s3:*"', "WriteOutput asks for"),
    ],
    ("aws", "aws/lifecycle.json"): [
        ('"Enabled"', '"Disabled"', "unfinished uploads"),
    ],
}  # fmt: skip
