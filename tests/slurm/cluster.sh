#!/usr/bin/env bash
# A SLURM on this machine, everything of it below one directory; for tests. Its partition `test` is a node of two CPUs,
# `pair` has a second one too.
#
#   cluster.sh start DIR    needs root and Debian's slurm-wlm and munge; then `export SLURM_CONF=DIR/slurm.conf`
#   cluster.sh stop DIR     stops it; harmless where it is not running
set -euo pipefail

start() {
    mkdir -p "$dir"/{state,spool,munge,log}
    chmod 755 "$dir"
    head -c 1024 /dev/urandom > "$dir/munge/key"
    chmod 600 "$dir/munge/key"
    chown -R munge "$dir/munge"
    # munged wants to own its key and directories, and SLURM's daemons to reach its socket
    setpriv --reuid munge --regid munge --clear-groups munged --force \
        --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
    host=$(hostname -s) port=$((24000 + RANDOM % 8000))
    nodes=$host,$host-second # which connects to the first by its name
    cat > "$dir/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
SlurmctldPort=$((16000 + RANDOM % 8000))
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/%n
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0
JobRequeue=1
KillWait=5
ReturnToService=2
NodeName=$nodes NodeHostname=$host NodeAddr=127.0.0.1 Port=[$port-$((port + 1))] CPUs=2 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
PartitionName=pair Nodes=$nodes MaxTime=INFINITE State=UP
EOF
    slurmctld -f "$dir/slurm.conf"
    for node in ${nodes/,/ }; do mkdir -p "$dir/spool/$node"; slurmd -f "$dir/slurm.conf" -N "$node"; done
    for _ in $(seq 60); do
        [ "$(SLURM_CONF=$dir/slurm.conf sinfo --noheader --format=%T 2>/dev/null | sort -u)" = idle ] && return
        sleep 0.5
    done
    tail -n 20 "$dir"/log/* "$dir/munge/log" >&2
    echo "error: the nodes did not become idle within 30 seconds" >&2
    return 1
}

stop() {
    for file in "$dir"/*.pid "$dir/munge/pid"; do
        if [ -f "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; fi
    done
}

dir=$(realpath -m "${2:?usage: cluster.sh start|stop DIR}")
"$1"
