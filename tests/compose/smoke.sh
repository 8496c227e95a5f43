#!/usr/bin/env bash
# The README's `docker compose up`, on a real Docker engine: a first top ten, more executors by --scale, the loss of one.
#
#   tests/compose/smoke.sh
#
# TIDEMILL_BIN is the binary to package (default: the release binary of CARGO_TARGET_DIR). An image over the size limit is
# a failure unless TIDEMILL_SMOKE_SIZE=report, for debug binaries. Without an engine or a Compose it says so and exits 0.
# It uses a project name, an image tag and a port of its own, and removes what it made.
set -euo pipefail
cd "$(dirname "$0")/../.."

# What it should have, and what it must not go over: the binary is 150 MB when stripped.
readonly size_aim=150000000
readonly size_limit=170000000
readonly compressed_aim=60000000

say() { printf 'smoke: %s\n' "$*"; }
fail() {
    printf 'smoke: FAILED: %s\n' "$*" >&2
    exit 1
}

if ! docker version >/dev/null 2>&1; then
    say "skipped: no Docker engine answers"
    exit 0
fi
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null 2>&1; then
    compose=(docker-compose)
else
    say "skipped: neither docker compose nor docker-compose is installed"
    exit 0
fi
binary=${TIDEMILL_BIN:-${CARGO_TARGET_DIR:-target}/release/tidemill}
[ -x "$binary" ] || fail "no binary at $binary: cargo build --release -p tidemill, or set TIDEMILL_BIN"
binary=$(realpath "$binary")

readonly project=tidemill-smoke-$$
readonly image=$project:latest
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export TIDEMILL_IMAGE=$image TIDEMILL_PORT=$port TIDEMILL_BUILD_IMAGE=debian:bookworm-slim BATCH_INTERVAL=1s
export TIDEMILL_DRIVER=127.0.0.1:$port
# The defaults are what is tested, whatever a .env file says.
export TIDEMILL_JOBS=./deploy/jobs TIDEMILL_JOB=trending-hashtags.yaml
compose+=(-p "$project" -f docker-compose.yml)
context=$(mktemp -d)

clean_up() {
    local status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        "${compose[@]}" ps || true
        "${compose[@]}" logs --no-color --tail 60 || true
    fi
    say "removing $project"
    "${compose[@]}" down -v --timeout 10 >/dev/null 2>&1 || true
    docker rmi -f "$image" "$project-files" "$project-build" >/dev/null 2>&1 || true
    rm -rf "$context" "$context.log"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# eventually SECONDS WHAT COMMAND...: until the command succeeds; what it last said is shown if it never does.
eventually() {
    local limit=$1 what=$2 begin=$SECONDS seen
    shift 2
    until seen=$("$@" 2>&1); do
        if ((SECONDS - begin >= limit)); then
            fail "not within $limit s: $what; last seen: $seen"
        fi
        sleep 0.5
    done
    say "$what (after $((SECONDS - begin)) s)"
}

# json EXPRESSION: prints it, with the document on standard input as d.
json() { python3 -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }
# holds EXPRESSION COMMAND...: whether the Python expression is true of the JSON that the command prints.
holds() {
    local expression=$1 text
    shift
    text=$("$@" --output json) || {
        printf '%s' "$text"
        return 1
    }
    printf '%s' "$text"
    [ "$(json "$expression" <<<"$text")" = True ]
}
tidemill() { "$binary" "$@"; }
executors() { tidemill executors --output json; }
completed_batches() { tidemill job trending-hashtags --output json | json 'd["summary"]["completed_batches"]'; }

# === the image ===
# Each stage is tagged so that it can be removed: the legacy builder leaves stages behind as images without a name.
build() {
    docker build -q --build-arg BUILD_IMAGE="$TIDEMILL_BUILD_IMAGE" "$@" "$context" >"$context.log" 2>&1 || {
        cat "$context.log" >&2
        fail "the image does not build"
    }
}
docker image inspect debian:bookworm-slim >/dev/null 2>&1 || docker pull -q debian:bookworm-slim ||
    deploy/docker/base-images.sh
mkdir -p "$context/deploy/docker/bin"
cp -r deploy/jobs deploy/data "$context/deploy/"
cp deploy/docker/Dockerfile "$context/"
cp "$binary" "$context/deploy/docker/bin/tidemill"
if command -v strip >/dev/null 2>&1; then strip "$context/deploy/docker/bin/tidemill"; fi
build --target build -t "$project-build"
build --target files -t "$project-files"
build -t "$image"
size=$(docker image inspect --format '{{.Size}}' "$image")
compressed=$(docker save "$image" | gzip -c | wc -c)
say "image: $((size / 1000000)) MB, compressed $((compressed / 1000000)) MB"
if [ "${TIDEMILL_SMOKE_SIZE:-judge}" = judge ]; then
    ((size < size_limit)) || fail "the image has $size bytes, the limit is $size_limit"
    ((size < size_aim)) || say "note: it is over the aim of $((size_aim / 1000000)) MB"
    ((compressed < compressed_aim)) || say "note: compressed it is over the aim of $((compressed_aim / 1000000)) MB"
fi

# === up ===
"${compose[@]}" up -d
submitted() {
    local state
    state=$(docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$("${compose[@]}" ps -a -q demo)")
    printf '%s' "$state"
    [ "$state" = "exited 0" ]
}
top_ten='SELECT tag, count FROM tweets'
eventually 60 "the demo service submitted its job" submitted
eventually 60 "a top ten through the published port" holds 'len(d) == 10' tidemill sql "$top_ten"
tidemill sql "$top_ten"
"${compose[@]}" exec -T driver tidemill sql "$top_ten" >/dev/null || fail "no answer inside the driver's container"

# === more executors ===
before=$(executors | json '[e["id"] for e in d]')
[ "$(json 'len(d)' <<<"$before")" -eq 3 ] || fail "three executors expected, there are: $before"
"${compose[@]}" up -d --no-recreate --scale executor=5 executor
eventually 60 "five executors, the new ones with completed tasks" holds \
    "len(d) == 5 and all(e['completed_tasks'] > 0 for e in d if e['id'] not in $before)" tidemill executors
tidemill executors

# === one executor less ===
# The one that runs the receiver: its loss is the one that would be noticed. Its host name is its container's id.
victim=$(executors | json 'max(d, key=lambda e: e["receivers"])["host"]')
say "killing the executor on $victim"
docker kill "$victim" >/dev/null
eventually 30 "four executors" holds 'sum(e["state"] == "active" for e in d) == 4' tidemill executors
completed=$(completed_batches)
eventually 60 "ten more batches after $completed" holds \
    "d['summary']['completed_batches'] >= $completed + 10" tidemill job trending-hashtags
eventually 60 "a top ten after the loss" holds 'len(d) == 10' tidemill sql "$top_ten"
tidemill job trending-hashtags
say "passed in $SECONDS s"
