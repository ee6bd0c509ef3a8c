#!/bin/bash
# Runs a recipe on the nodes of a Slurm job, on a Ray cluster that lives as long as the job: docs/slurm.md.
#
#     sbatch --nodes=4 --gpus-per-node=4 docs/slurm.sh workflows/imagenet256_dit.py --data DATA --root ROOT
#
# Options of sbatch on the command line take precedence over the lines here.
#SBATCH --job-name=dgflow
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# A requeued job appends to its log.
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Slurm repeats the job after preemption or the loss of a node. Two minutes before the time limit it sends the
# signal, and the script ends Ray and requeues the job itself. The run continues from what is in its root.
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

fail() {
    echo "slurm.sh: $*" >&2
    exit 1
}

: "${SLURM_JOB_ID:?run this with sbatch: sbatch docs/slurm.sh RECIPE OPTIONS...}"
: "${1:?no recipe given: sbatch docs/slurm.sh RECIPE OPTIONS...}"

# A prefix for commands that run in a container, such as "apptainer exec --nv image.sif".
read -ra container <<< "${DGFLOW_CONTAINER:-}"
folder="${RAY_TMPDIR:-/tmp}/ray-$SLURM_JOB_ID" # Ray's files on each node, removed at the end
# Of the 107 bytes that a Unix socket's path may have, Ray's own take 68.
[ "${#folder}" -le 39 ] || fail "expected RAY_TMPDIR of at most $((34 - ${#SLURM_JOB_ID})) bytes, for Ray's" \
    "sockets below it, found $RAY_TMPDIR; set it to a shorter folder, such as /tmp"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/slurm-$SLURM_JOB_ID"
unset RAY_AUTH_TOKEN # takes precedence over the file

ulimit -c 0 # Ray's drivers abort at SIGTERM; no core of gigabytes each time
running= # the command that the script waits for
steps=() # the sruns
requeue=

# shellcheck disable=SC2329
finish() {
    local status=$?
    trap '' TERM USR1
    if [ -n "$running" ]; then
        kill "$running" 2> /dev/null || true
        { wait "$running" || true; } 2> /dev/null # says how it ended
    fi
    # srun forwards USR1 to its tasks. On TERM it would kill them at once, and Ray's files would stay.
    kill -USR1 "${steps[@]}" 2> /dev/null || true
    wait || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
    [ -z "$requeue" ] || scontrol requeue "$SLURM_JOB_ID" || status=$?
    exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'echo "slurm.sh: the time limit is near; the job is requeued"; requeue=yes; exit 0' USR1

# On a node: Ray until a signal arrives. It offers what the job has there. Ray would size its object store by
# the memory of the whole node; a run needs little of it. Ray gives its processes 30 s to start, too short
# where Python is read from a network file system for the first time: so it gets three attempts.
# shellcheck disable=SC2329
ray_on_this_node() {
    local folder=$1 stopping='' status
    shift
    trap 'stopping=yes; kill "$ray" 2> /dev/null' TERM USR1
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # the work in flight is lost anyway
    ulimit -n "$(ulimit -Hn)"
    for _ in 1 2 3; do
        rm -rf "$folder" && mkdir -m 700 "$folder" || return 1 # Ray lets everybody into its own
        status=0
        "$@" --block --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
            --object-store-memory=2000000000 --temp-dir="$folder/ray" --dashboard-agent-listen-port=0 \
            > "$folder/start.log" 2>&1 &
        ray=$!
        while kill -0 "$ray" 2> /dev/null; do wait "$ray" || status=$?; done
        [ -z "$stopping" ] || break
        cat "$folder/start.log" >&2
        [ ! -e "$folder/ray/ray_current_cluster" ] || break # it had started
    done
    rm -rf "$folder"
    return "$status"
}

# start_ray NODES SRUN_OPTION RAY_OPTIONS...: Ray on so many nodes, in a job step of their own.
start_ray() {
    local nodes=$1 where=$2
    shift 2
    srun --nodes="$nodes" --ntasks="$nodes" "$where" --kill-on-bad-exit=0 --wait=0 \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" \
        bash -c "$(declare -f ray_on_this_node); ray_on_this_node \"\$@\"" ray_on_this_node \
        "$folder" "${container[@]}" ray start "$@" &
    steps+=("$!")
}

mkdir -p "$HOME/.ray"
(
    umask 077
    "${container[@]}" python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH"
)

# Where the other nodes reach this one. The system chooses all ports, so that jobs can share a node; Ray wants
# a number for one of them.
address=$(srun --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" printenv SLURM_LAUNCH_NODE_IPADDR)
port=$("${container[@]}" python -c 'import socket; print(socket.create_server(("", 0)).getsockname()[1])')
rm -rf "$folder" # of a requeued job that was killed
start_ray 1 --nodelist="$SLURMD_NODENAME" \
    --head --node-ip-address="$address" --port=0 --ray-client-server-port="$port" --include-dashboard=false
until [ -s "$folder/ray/ray_current_cluster" ]; do # Ray writes its address there when it is up
    kill -0 "${steps[0]}" 2> /dev/null || fail "Ray did not start on $SLURMD_NODENAME; its messages are above"
    sleep 0.2
done
RAY_ADDRESS=$(< "$folder/ray/ray_current_cluster")
export RAY_ADDRESS

if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    start_ray "$((SLURM_JOB_NUM_NODES - 1))" --exclude="$SLURMD_NODENAME" --address="$RAY_ADDRESS"
    "${container[@]}" python - "$SLURM_JOB_NUM_NODES" << 'END' &
import sys, time, ray

ray.init(log_to_driver=False, logging_level="error")
expected, deadline = int(sys.argv[1]), time.monotonic() + 600
while (found := sum(node["Alive"] for node in ray.nodes())) < expected:
    if time.monotonic() > deadline:
        sys.exit(f"slurm.sh: expected {expected} nodes in Ray's cluster after 10 minutes, found {found}")
    time.sleep(0.5)
END
    running=$!
    wait -n "$running" "${steps[@]}" || fail "Ray did not start on all nodes; its messages are above"
    ! kill -0 "$running" 2> /dev/null || fail "Ray ended on a node; its messages are above"
    running=
fi

echo "slurm.sh: Ray at $RAY_ADDRESS, nodes: $SLURM_JOB_NUM_NODES"
"${container[@]}" python "$@" &
running=$!
status=0
wait "$running" || status=$?
running=
exit "$status"
