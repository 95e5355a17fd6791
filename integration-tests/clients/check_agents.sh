#!/usr/bin/env bash
# Drives a mesh with coding agents as people run them, OpenCode and aider, and looks at what the router says of it.
#
#   integration-tests/clients/check_agents.sh [FOLDER]
#
# Installs both below FOLDER (default: agents in the target folder; about 1.1 GB), starts `modemesh up` with an engine
# that answers fixed words (scripted_engine.py: no model, so that the same happens each time), runs each agent without a
# person, and checks that its files are written and that the router counts every request as complete and none otherwise.
# Too large for `cargo test`. Needs python3 with venv, node, npm and curl. MODEMESH=PROGRAM takes a modemesh that is built
# already; OPENCODE_VERSION and AIDER_VERSION take other versions.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
opencode_version=${OPENCODE_VERSION:-1.18.33}
aider_version=${AIDER_VERSION:-0.86.2}
mkdir -p "${1:-$target/agents}"
folder=$(cd "${1:-$target/agents}" && pwd)
# The longest that one agent may take.
patience=180

work=$(mktemp -d)
mkdir "$work/tmp"
export TMPDIR=$work/tmp
children=()
end() {
  local status=$?
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$status" = 0 ]; then rm -rf "$work"; else echo "what was written is left in $work" >&2; fi
}
trap end EXIT
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

install() {
  local opencode="$folder/opencode-$opencode_version" aider="$folder/aider-$aider_version"
  if [ ! -e "$opencode/installed" ]; then
    npm install --prefix "$opencode" --no-audit --no-fund --no-package-lock --loglevel error "opencode-ai@$opencode_version"
    touch "$opencode/installed"
  fi
  if [ ! -e "$aider/installed" ]; then
    python3 -m venv --clear "$aider"
    "$aider/bin/pip" install --quiet --disable-pip-version-check "aider-chat==$aider_version"
    touch "$aider/installed"
  fi
  OPENCODE="$opencode/node_modules/.bin/opencode" AIDER="$aider/bin/aider"
}

# The first line of FILE that PATTERN of sed finds, once it is there.
awaited() { # awaited FILE PATTERN
  local found
  for _ in $(seq 300); do
    found=$(sed -n "$2" "$1" | head -1)
    if [ -n "$found" ]; then
      printf '%s' "$found"
      return 0
    fi
    sleep 0.1
  done
  cat "$1" >&2
  return 1
}

start_mesh() {
  local agent_folder=$work/opencode engine
  mkdir -p "$work/data" "$agent_folder"
  : >"$work/engine.out" >"$work/up.out"
  # The engine ends when nobody holds the other end any more, whatever happened to this script.
  mkfifo "$work/held"
  AGENT_FOLDER=$agent_folder python3 "$here/scripted_engine.py" 0 "$work/requests.jsonl" \
    <"$work/held" >"$work/engine.out" 2>&1 &
  children+=($!)
  exec 9>"$work/held"
  engine=$(awaited "$work/engine.out" 's/^LISTENING //p') || fail "the scripted engine did not start"
  printf '[discover]\nenabled = false\n[truth]\nenabled = false\n[engines.scripted]\nkind = "openai"\nurl = "%s"\n' \
    "$engine" >"$work/data/agent.toml"
  "$MODEMESH" --data "$work/data" up --clients 127.0.0.1:0 --agents 127.0.0.1:0 --operators 127.0.0.1:0 \
    >"$work/up.out" 2>"$work/up.err" 9>&- &
  children+=($!)
  BASE=$(awaited "$work/up.out" 's/^ *base URL *//p') || fail "modemesh up did not start: $(cat "$work/up.err")"
  KEY=$(awaited "$work/up.out" 's/^ *API key *//p')
}

# How many requests the router has counted as ended so, in one mode or in all.
counted() { # counted OUTCOME [MODE]
  curl -sS --fail --noproxy '*' -H "authorization: Bearer $KEY" "${BASE%/v1}/metrics" |
    awk -v outcome="outcome=\"$1\"" -v mode="mode=\"${2:-}${2:+\"}" \
      '/^modemesh_router_requests_total/ && index($0, outcome) && index($0, mode) { sum += $NF } END { print sum + 0 }'
}

# Runs an agent and checks what the router counted meanwhile.
check() { # check NAME LEAST-REQUESTS FILE WORDS COMMAND…
  local name=$1 least=$2 file=$3 words=$4 before after engine
  shift 4
  before=$(counted complete)
  engine=$(wc -l <"$work/requests.jsonl")
  if ! timeout "$patience" "$@" >"$work/$name.out" 2>&1 </dev/null; then
    cat "$work/$name.out" >&2
    fail "$name ended with an error, or not within $patience s"
  fi
  grep -q "$words" "$file" || fail "$name did not write '$words' into $file: $(cat "$work/$name.out")"
  after=$(counted complete)
  engine=$(($(wc -l <"$work/requests.jsonl") - engine))
  [ $((after - before)) -ge "$least" ] || fail "$name: $((after - before)) complete requests, expected $least or more"
  [ $((after - before)) = "$engine" ] || fail "$name: the engine got $engine requests, the router completed $((after - before))"
  for outcome in failed cancelled refused; do
    [ "$(counted $outcome)" = 0 ] || fail "$name: the router counts $(counted $outcome) requests as $outcome"
  done
  latest=$("$MODEMESH" --data "$work/data" meshctl --json explain) || fail "$name: meshctl explain"
  python3 - "$latest" <<'PYTHON' || fail "$name: meshctl explain says of its last request: $latest"
import json, sys
told = json.loads(sys.argv[1])
assert told["schema"] == "mesh.explain/v1" and told["outcome"] == "complete", told
PYTHON
  printf '%-28s %s requests, all complete\n' "$name" "$((after - before))"
}

# The same agent at three doors: OpenAI's chats (as in docs/clients.md), its responses, and Anthropic's messages.
opencode() {
  export XDG_CONFIG_HOME=$work/xdg/config XDG_DATA_HOME=$work/xdg/data XDG_STATE_HOME=$work/xdg/state XDG_CACHE_HOME=$work/xdg/cache
  export OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_AUTOUPDATE=1 MESH_API_KEY=$KEY
  cd "$work/opencode"
  local door package
  for door in chat responses messages; do
    case $door in
      chat) package=@ai-sdk/openai-compatible ;;
      responses) package=@ai-sdk/openai ;;
      messages) package=@ai-sdk/anthropic ;;
    esac
    cat >opencode.json <<JSON
{ "provider": { "mesh": { "npm": "$package", "name": "Mesh",
    "options": { "baseURL": "$BASE", "apiKey": "{env:MESH_API_KEY}", "timeout": 600000 },
    "models": { "mesh-code": { "name": "Mesh code", "tool_call": true, "limit": { "context": 65536, "output": 8192 } },
                "mesh-architect": { "name": "Mesh architect", "limit": { "context": 65536, "output": 16384 } },
                "mesh-small": { "name": "Mesh small", "limit": { "context": 32768, "output": 2048 } } } } },
  "model": "mesh/mesh-code", "small_model": "mesh/mesh-small",
  "agent": { "plan": { "model": "mesh/mesh-architect" } } }
JSON
    # A title, the call of the tool, and the word after it.
    check "opencode-$door" 3 greeting.txt "hello from the mesh" \
      "$OPENCODE" run --agent build "Write a greeting into greeting.txt."
    grep -q "greeting.txt is written" "$work/opencode-$door.out" || fail "opencode-$door: the last word is missing"
    rm greeting.txt
  done
  [ "$(counted complete small)" -ge 3 ] || fail "opencode asked for no title in the mode small"
}

aider() {
  mkdir -p "$work/aider"
  cd "$work/aider"
  export OPENAI_API_BASE=$BASE OPENAI_API_KEY=$KEY HOME=$work/aider
  # No list of prices and no news from elsewhere.
  export LITELLM_LOCAL_MODEL_COST_MAP=True AIDER_CHECK_UPDATE=false AIDER_ANALYTICS=false
  local quiet=(--no-git --yes-always --no-pretty --no-show-model-warnings --no-detect-urls --weak-model openai/mesh/small)
  local code=(--model openai/mesh/code --edit-format whole)
  local task=(--message "Write hello.py that prints a greeting.")
  check aider-streamed 1 hello.py "hello from the mesh" "$AIDER" "${quiet[@]}" "${code[@]}" "${task[@]}"
  rm hello.py
  check aider-whole 1 hello.py "hello from the mesh" "$AIDER" "${quiet[@]}" "${code[@]}" --no-stream "${task[@]}"
  rm hello.py
  # As in docs/clients.md: one mode thinks, another writes.
  check aider-architect 2 hello.py "hello from the mesh" "$AIDER" "${quiet[@]}" --architect --auto-accept-architect \
    --model openai/mesh/architect --editor-model openai/mesh/code --editor-edit-format editor-whole "${task[@]}"
}

install
if [ -z "${MODEMESH:-}" ]; then
  (cd "$root" && cargo build --locked --quiet -p modemesh)
  MODEMESH=$target/debug/modemesh
fi
start_mesh
(opencode)
(aider)
printf 'passed: opencode %s, aider %s\n' "$opencode_version" "$aider_version"
