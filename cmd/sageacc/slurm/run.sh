#!/usr/bin/env bash
# Runs a comparison as a job array on a real Slurm and compares the result with that of
# a run without shards, to the byte.
#
#   cmd/sageacc/slurm/run.sh [--fetch] [--keep]
#
#   cmd/sageacc/slurm/run.sh           with the Slurm and MUNGE that are installed
#   cmd/sageacc/slurm/run.sh --fetch   Debian's or Ubuntu's packages, if there are none:
#                                      unpacked into the temporary folder, not installed
#   ... --keep                         leave the temporary folder
#
# slurmctld, slurmd and munged run from a temporary folder with a configuration, keys and
# ports of their own, as the user who calls; a Slurm that runs here is neither used nor
# changed. The job is the one that sageacc plan writes, 8 tasks. One has its process
# killed with SIGKILL, one all of it, and the node fails once while others run. All must
# go on where they ended. They are stopped (SIGSTOP) when they have kept something, so that
# they are still there, on a fast machine too. Without Slurm it says so and succeeds. Needs
# Go.
set -euo pipefail
cd "$(dirname "$0")/../../.."
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'slurm: %s\n' "$*"; }
fail() {
	printf 'slurm: failed: %s\n' "$*" >&2
	exit 1
}

fetch=
keep=
while [ $# -gt 0 ]; do
	case $1 in
	--fetch) fetch=yes ;;
	--keep) keep=yes ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' cmd/sageacc/slurm/run.sh
		exit 0
		;;
	*) fail "unknown option $1; see --help" ;;
	esac
	shift
done

dir=$(mktemp -d)
chmod 755 "$dir"
daemons=()
# Ends what was started, tasks before daemons: those do not end with slurmd.
stop() {
	trap - EXIT
	if [ -e "$dir/up" ]; then
		scancel --me >"$dir/stop.log" 2>&1 || true
		for _ in {1..100}; do
			[ -n "$(squeue --noheader 2>/dev/null)" ] || break
			sleep 0.2
		done
	fi
	for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
		kill "${daemons[i]}" 2>/dev/null || true
		wait "${daemons[i]}" 2>/dev/null || true
	done
	if [ -n "$keep" ]; then say "the folder is $dir"; else rm -rf "$dir"; fi
}
trap stop EXIT
trap 'exit 130' INT TERM HUP

have() { command -v slurmctld && command -v slurmd && command -v munged && command -v sbatch; } >/dev/null
stepd=
plugins=
if ! have && [ -n "$fetch" ] && command -v apt-get >/dev/null; then
	packages=$(apt-get install --simulate --no-install-recommends slurm-wlm 2>/dev/null | awk '$1 == "Inst" {print $2}') || packages=
	mkdir "$dir/debs" "$dir/root"
	if [ -n "$packages" ] && (cd "$dir/debs" && apt-get download $packages >../download.log 2>&1); then
		for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$dir/root"; done
		libraries=$(dirname "$(find "$dir/root" -name libmunge.so.2 | head -n 1)")
		export LD_LIBRARY_PATH=$libraries:$libraries/slurm-wlm
		PATH=$PATH:$dir/root/usr/bin:$dir/root/usr/sbin
		# What the package's alternatives would do.
		for name in slurmctld slurmd slurmstepd; do
			[ -e "$dir/root/usr/sbin/$name" ] || ln -s "$name-wlm" "$dir/root/usr/sbin/$name"
		done
		stepd=$dir/root/usr/sbin/slurmstepd
		plugins=PluginDir=$libraries/slurm-wlm
	fi
fi
if ! have; then
	say "skipped: no slurmctld, slurmd, sbatch and munged (Debian: slurm-wlm; --fetch gets it where apt can)"
	exit 0
fi

# Daemons.
port=$((20000 + $$ % 10000 * 2))
host=$(hostname -s)
user=$(id -un)
mkdir "$dir/spool" "$dir/state" "$dir/work" "$dir/bin" "$dir/built"
(umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
cat >"$dir/slurm.conf" <<EOF
ClusterName=sageacc
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
CredType=cred/munge
# How long a requeued task must wait, too.
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
$plugins
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Memory counts: a task that takes more than plan asked for is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=2
MinJobAge=3600
ReturnToService=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=4096 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
export SLURM_CONF=$dir/slurm.conf

munged --foreground --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" --seed-file="$dir/munge.seed" >"$dir/munged.log" 2>&1 &
daemons+=($!)
for _ in {1..50}; do
	[ ! -S "$dir/munge.socket" ] || break
	sleep 0.1
done
slurmctld -D -c >"$dir/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D ${stepd:+-d "$stepd"} >"$dir/slurmd.log" 2>&1 &
daemons+=($!)
for i in {1..150}; do
	[ "$(sinfo --noheader --format=%T 2>/dev/null)" != idle ] || break
	[ "$i" -lt 150 ] || {
		tail -n 5 "$dir"/*.log >&2
		keep=yes
		fail "Slurm does not start"
	}
	sleep 0.2
done
touch "$dir/up"
say "$(slurmctld -V) runs in $dir"

# The job, and the run without shards.
go build -o "$dir/built/sageacc" ./cmd/sageacc
# What the tasks run: the same process, that of tasks 0, 3 and 5 stopped in their first try
# as soon as it has kept something beside the header; nice lets what waits for that through.
cat >"$dir/bin/sageacc" <<'EOF'
#!/usr/bin/env bash
case ${SLURM_ARRAY_TASK_ID:-}:${SLURM_RESTART_COUNT:-0} in
0:0 | 3:0 | 5:0)
	part=part-$SLURM_ARRAY_TASK_ID
	(
		until [ -e "$part" ] && [ "$(wc -l <"$part")" -ge 2 ]; do
			kill -0 $$ 2>/dev/null || exit # it has ended, and nobody waits
			sleep 0.01
		done
		kill -STOP $$ && touch "stopped-$SLURM_ARRAY_TASK_ID"
	) &
	;;
esac
exec nice -n 19 "$(dirname "$0")/../built/sageacc" "$@"
EOF
chmod +x "$dir/bin/sageacc"
PATH=$dir/bin:$PATH
cd "$dir/work"
# Small heads and many: a task keeps 16 records.
sageacc synth --tokens 1536 --heads 2 --layers 64 -o dump.safetensors
flags=(dump.safetensors --kernel sage2-8b-sm90,sage2-4b --per-head --reference fp64 --jobs 1 --fail-if 'cos<0.5')
sageacc plan "${flags[@]}" --measure 1s --shards 8 --format slurm -o job.sh
sageacc compare "${flags[@]}" --format json -o whole.json

job=$(sbatch --parsable job.sh)
# field TASK NAME is what Slurm says of a task.
field() { scontrol show job --oneliner "${job}_$1" 2>/dev/null | tr ' ' '\n' | grep "^$2=" | head -n 1 | cut -d = -f 2; }
records() { if [ -e "$1" ]; then wc -l <"$1"; else echo 0; fi; }

# started TASK waits until a task has kept something beside the header and is stopped, and
# notes what: it must still be there at the end.
started() {
	for _ in {1..3000}; do
		[ ! -e "stopped-$1" ] || break
		case $(field "$1" JobState) in
		RUNNING | PENDING | CONFIGURING | '') ;;
		*) fail "task $1 is $(field "$1" JobState) before it could be stopped: $(cat "sageacc-$1.log")" ;;
		esac
		sleep 0.1
	done
	[ -e "stopped-$1" ] || fail "task $1 did not start"
	head -n "$(records "part-$1")" "part-$1" >"kept-$1"
}

# processes TASK lists the numbers of its processes, with their names.
processes() { scontrol listpids "$(field "$1" JobId)" | awk 'NR > 1 && $1 > 0 {print $1}' | xargs ps -o pid=,comm= -p; }

started 0
kill -KILL "$(processes 0 | awk '$2 == "sageacc" {print $1}')"
say "task 0: sageacc killed when it had kept $(records kept-0) records"

started 3
kill -KILL $(processes 3 | awk '{print $1}')
for _ in {1..300}; do
	case $(field 3 JobState) in RUNNING | COMPLETING) sleep 0.1 ;; *) break ;; esac
done
say "task 3: its script killed too when it had kept $(records kept-3) records: $(field 3 JobState)"
# A script that is killed cannot ask for another try.
scontrol requeue "${job}_3"

started 5
scontrol update nodename="$host" state=down reason=test
say "the node went down when task 5 had kept $(records kept-5) records"
sleep 1
scontrol update nodename="$host" state=resume

for _ in {1..3000}; do
	[ -n "$(squeue --noheader)" ] || break
	sleep 0.2
done
status=0
for task in {0..7}; do
	say "task $task: $(field "$task" JobState), restarted $(field "$task" Restarts) times"
	[ "$(field "$task" JobState)" = COMPLETED ] || status=1
done
[ "$status" = 0 ] || fail "not all tasks have completed: $(tail -n 5 sageacc-*.log)"
for task in 0 3 5; do
	[ "$(field "$task" Restarts)" -ge 1 ] || fail "task $task was not restarted"
	cmp -n "$(wc -c <"kept-$task")" "kept-$task" "part-$task" || fail "task $task did not go on where it ended"
done
sageacc merge part-* -o merged.json
cmp whole.json merged.json || fail "the merged result is another than that of a run without shards"
say "8 tasks, 3 of them killed; the merged result is that of a run without shards, $(wc -c <merged.json) bytes"
