#!/usr/bin/env bash
# Runs the notebooks and compares what they show with what is kept in them.
#
#   notebooks/run.sh [--install] [--update] [--dump PATH] [NOTEBOOK...]
#
#   notebooks/run.sh                 run all, compare, change nothing
#   notebooks/run.sh --update        run all and keep what they show
#   notebooks/run.sh --install       the same as without, but get first what is missing:
#                                    a virtual environment with Jupyter's nbconvert and the
#                                    GoNB kernel, in notebooks/.venv (or in $VENV)
#   notebooks/run.sh --dump my.safetensors
#                                    run paper-tables on another dump, into
#                                    paper-tables.local.ipynb, and compare nothing
#
# Without Jupyter or GoNB it says so and succeeds. Needs Go, and for --install python3
# and a network.
set -euo pipefail
calledFrom=$PWD
cd "$(dirname "$0")"

fail() {
	printf 'run.sh: %s\n' "$*" >&2
	exit 2
}

install=
update=
dump=
names=()
while [ $# -gt 0 ]; do
	case $1 in
	--install) install=yes ;;
	--update) update=-update ;;
	--dump)
		[ $# -gt 1 ] || fail "--dump needs a file or folder"
		dump=$2
		shift
		;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' run.sh
		exit 0
		;;
	-*) fail "unknown option $1; see --help" ;;
	*) names+=("$(basename "$1")") ;;
	esac
	shift
done

venv=${VENV:-$PWD/.venv}
case $venv in /*) ;; *) venv=$calledFrom/$venv ;; esac
if [ -n "$install" ]; then
	echo "installing Jupyter's nbconvert (PyPI) and GoNB (Go modules) into ${VENV:-notebooks/.venv}"
	python3 -m venv "$venv"
	"$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
	go build -o "$venv/bin/" github.com/janpfeifer/gonb golang.org/x/tools/cmd/goimports
	# gopls, which GoNB asks for, only completes what people type.
	JUPYTER_DATA_DIR=$venv/share/jupyter PATH=$venv/bin:$PATH "$venv/bin/gonb" --install --force_deps --logtostderr=false >/dev/null 2>&1 ||
		fail "gonb --install failed"
fi
PATH=$venv/bin:$PATH

skip() {
	printf 'skipped: %s (notebooks/run.sh --install gets it)\n' "$*"
	exit 0
}
command -v jupyter >/dev/null && jupyter nbconvert --version >/dev/null 2>&1 || skip "no Jupyter with nbconvert"
[[ $(jupyter kernelspec list 2>/dev/null) =~ [[:space:]]gonb[[:space:]] ]] || skip "no GoNB kernel in Jupyter"
command -v goimports >/dev/null || skip "no goimports, which GoNB needs"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/keep" ./internal/keep

# execute NOTEBOOK runs it here, where its relative paths hold, into $work. The
# kernel's chatter is of interest only if that fails.
execute() {
	jupyter nbconvert --log-level=ERROR --to notebook --execute "$1" --output-dir "$work" --output run.ipynb >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		fail "notebooks/$1 did not run"
	}
}

if [ -n "$dump" ]; then
	case $dump in /*) ;; *) dump=$calledFrom/$dump ;; esac
	[ -e "$dump" ] || fail "$dump: no such file or folder"
	SAGEACC_DUMP=$dump execute paper-tables.ipynb
	mv "$work/run.ipynb" paper-tables.local.ipynb
	echo "notebooks/paper-tables.local.ipynb: run on $dump"
	exit 0
fi

[ ${#names[@]} -gt 0 ] || names=(fp22-accumulator.ipynb paper-tables.ipynb difference-to-cause.ipynb)
said="as kept"
[ -z "$update" ] || said="run and kept"
status=0
for name in "${names[@]}"; do
	[ -f "$name" ] || fail "notebooks/$name: no such notebook"
	SAGEACC_DUMP='' execute "$name"
	if "$work/keep" $update "$work/run.ipynb" "$name"; then
		echo "notebooks/$name: $said"
	else
		status=1
	fi
done
exit $status
