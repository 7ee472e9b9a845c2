#!/bin/sh
# Start tonight's RayJob, made of the suspended RayJob "mosaic", and wait for its end. What was begun is not begun again:
# a second call on the same day finds the RayJob of that date, and waits with it.
#
# Run with kubectl 1.32 and a stand-in for the API server; not yet run on a cluster.
#
# JOB_NAME, JOB_UID: the Kubernetes Job that this runs in; the RayJob is deleted with it. Statuses: 0 the night is done,
# 1 it failed, or it could not be begun.
set -eu

night=$(date -u +%F)
job=mosaic-$night

field() {
    kubectl get rayjob "$job" -o "jsonpath={$1}"
}

if ! kubectl get rayjob "$job" >/dev/null 2>&1; then
    spec=$(kubectl get rayjob mosaic -o 'jsonpath={.spec}' |
        sed -e 's/"suspend":true/"suspend":false/' -e "s/\$(date -u +%F)/$night/")
    kubectl create -f - <<END || field .metadata.name >/dev/null
{
  "apiVersion": "ray.io/v1",
  "kind": "RayJob",
  "metadata": {
    "name": "$job",
    "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "$JOB_NAME", "uid": "$JOB_UID"}]
  },
  "spec": $spec
}
END
fi

echo "waiting for rayjob/$job. Its log: kubectl logs --follow job/$job"
while :; do
    state=$(field .status.jobDeploymentStatus)/$(field .status.jobStatus) || state=unknown
    case $state in
        Complete/SUCCEEDED)
            echo "rayjob/$job: done"
            exit 0
            ;;
        Complete/* | Failed/* | ValidationFailed/*)
            echo "rayjob/$job: $state $(field .status.reason) $(field .status.message)" >&2
            exit 1
            ;;
    esac
    sleep "${POLL_SECONDS:-30}"
done
