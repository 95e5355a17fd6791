#!/usr/bin/env bash
# Drives a mesh with coding agents as people run them, and looks at what the router says of it.
#
#   integration-tests/clients/check_agents.sh [FOLDER]
#
# AGENTS names them, default "opencode aider"; there are also "codex", "claude", "cn" (Continue) and "qwen". Installs them
# below FOLDER (default: agents in the target folder; 1.1 GB, and 1 GB more for the others), starts `modemesh up` with an
# engine that answers fixed words (scripted_engine.py: no model, so that the same happens each time), runs each agent
# without a person, and checks that its files are written and that the router counts every request as complete and none
# otherwise. Too large for `cargo test`. Needs python3 with venv, node, npm and curl. MODEMESH=PROGRAM takes a modemesh
# that is built already; OPENCODE_VERSION, AIDER_VERSION and so on take other versions.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
opencode_version=${OPENCODE_VERSION:-1.18.33}
aider_version=${AIDER_VERSION:-0.86.2}
codex_version=${CODEX_VERSION:-0.169.0}
claude_version=${CLAUDE_VERSION:-2.1.329}
cn_version=${CN_VERSION:-1.5.47}
qwen_version=${QWEN_VERSION:-0.24.4}
agents=${AGENTS:-opencode aider}
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

npm_agent() { # npm_agent PACKAGE VERSION
  PREFIX=$folder/$(basename "$1")-$2
  if [ ! -e "$PREFIX/installed" ]; then
    npm install --prefix "$PREFIX" --no-audit --no-fund --no-package-lock --loglevel error "$1@$2"
    touch "$PREFIX/installed"
  fi
}

pip_agent() { # pip_agent PACKAGE VERSION
  PREFIX=$folder/$1-$2
  if [ ! -e "$PREFIX/installed" ]; then
    python3 -m venv --clear "$PREFIX"
    "$PREFIX/bin/pip" install --quiet --disable-pip-version-check "$1==$2"
    touch "$PREFIX/installed"
  fi
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
  local engine
  mkdir -p "$work/data" "$work/folder"
  : >"$work/engine.out" >"$work/up.out"
  # The engine ends when nobody holds the other end any more, whatever happened to this script.
  mkfifo "$work/held"
  AGENT_FOLDER=$work/folder python3 "$here/scripted_engine.py" 0 "$work/requests.jsonl" \
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

# The agent got the word after its tool.
told() { # told NAME
  grep -q "greeting.txt is written" "$work/$1.out" || fail "$1: the last word is missing: $(cat "$work/$1.out")"
  rm "$work/folder/greeting.txt"
}

# The same agent at three doors: OpenAI's chats (as in docs/clients.md), its responses, and Anthropic's messages.
opencode() {
  npm_agent opencode-ai "$opencode_version"
  export XDG_CONFIG_HOME=$work/xdg/config XDG_DATA_HOME=$work/xdg/data XDG_STATE_HOME=$work/xdg/state XDG_CACHE_HOME=$work/xdg/cache
  export OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_AUTOUPDATE=1 MESH_API_KEY=$KEY
  cd "$work/folder"
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
      "$PREFIX/node_modules/.bin/opencode" run --agent build "Write a greeting into greeting.txt."
    told "opencode-$door"
  done
  [ "$(counted complete small)" -ge 3 ] || fail "opencode asked for no title in the mode small"
}

aider() {
  pip_agent aider-chat "$aider_version"
  local aider=$PREFIX/bin/aider
  mkdir -p "$work/aider"
  cd "$work/aider"
  export OPENAI_API_BASE=$BASE OPENAI_API_KEY=$KEY HOME=$work/aider
  # No list of prices and no news from elsewhere.
  export LITELLM_LOCAL_MODEL_COST_MAP=True AIDER_CHECK_UPDATE=false AIDER_ANALYTICS=false
  local quiet=(--no-git --yes-always --no-pretty --no-show-model-warnings --no-detect-urls --weak-model openai/mesh/small)
  local code=(--model openai/mesh/code --edit-format whole)
  local task=(--message "Write hello.py that prints a greeting.")
  check aider-streamed 1 hello.py "hello from the mesh" "$aider" "${quiet[@]}" "${code[@]}" "${task[@]}"
  rm hello.py
  check aider-whole 1 hello.py "hello from the mesh" "$aider" "${quiet[@]}" "${code[@]}" --no-stream "${task[@]}"
  rm hello.py
  # As in docs/clients.md: one mode thinks, another writes.
  check aider-architect 2 hello.py "hello from the mesh" "$aider" "${quiet[@]}" --architect --auto-accept-architect \
    --model openai/mesh/architect --editor-model openai/mesh/code --editor-edit-format editor-whole "${task[@]}"
}

codex() {
  npm_agent @openai/codex "$codex_version"
  export CODEX_HOME=$work/codex MESH_API_KEY=$KEY
  mkdir -p "$CODEX_HOME"
  cat >"$CODEX_HOME/config.toml" <<TOML
model = "mesh/code"
model_provider = "mesh"
[model_providers.mesh]
name = "Mesh"
base_url = "$BASE"
wire_api = "responses"
env_key = "MESH_API_KEY"
TOML
  cd "$work/folder"
  # It may run commands without asking: the engine knows only one, which writes into this folder.
  check codex 2 greeting.txt "hello from the mesh" "$PREFIX/node_modules/.bin/codex" exec --skip-git-repo-check \
    --dangerously-bypass-approvals-and-sandbox "Write a greeting into greeting.txt."
  told codex
}

claude() {
  npm_agent @anthropic-ai/claude-code "$claude_version"
  export HOME=$work/claude ANTHROPIC_BASE_URL=${BASE%/v1} ANTHROPIC_AUTH_TOKEN=$KEY
  export DISABLE_AUTOUPDATER=1 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
  mkdir -p "$HOME"
  cd "$work/folder"
  check claude 2 greeting.txt "hello from the mesh" "$PREFIX/node_modules/.bin/claude" --model mesh/code \
    --permission-mode acceptEdits --print "Write a greeting into greeting.txt."
  told claude
}

cn() {
  npm_agent @continuedev/cli "$cn_version"
  export HOME=$work/cn
  mkdir -p "$HOME"
  # The chat of docs/clients.md.
  cat >"$HOME/config.yaml" <<YAML
name: mesh
version: 1.0.0
schema: v1
models:
  - { name: Mesh code, provider: openai, apiBase: "$BASE", apiKey: $KEY, model: mesh/code, roles: [chat, edit, apply], capabilities: [tool_use], defaultCompletionOptions: { contextLength: 65536, maxTokens: 8192 } }
YAML
  cd "$work/folder"
  check cn 2 greeting.txt "hello from the mesh" "$PREFIX/node_modules/.bin/cn" --config "$HOME/config.yaml" --auto \
    --print "Write a greeting into greeting.txt."
  told cn
}

qwen() {
  npm_agent @qwen-code/qwen-code "$qwen_version"
  export HOME=$work/qwen OPENAI_API_KEY=$KEY OPENAI_BASE_URL=$BASE OPENAI_MODEL=mesh/code
  mkdir -p "$HOME"
  cd "$work/folder"
  check qwen 2 greeting.txt "hello from the mesh" "$PREFIX/node_modules/.bin/qwen" --auth-type openai --yolo \
    --prompt "Write a greeting into greeting.txt."
  told qwen
}

if [ -z "${MODEMESH:-}" ]; then
  (cd "$root" && cargo build --locked --quiet -p modemesh)
  MODEMESH=$target/debug/modemesh
fi
start_mesh
for agent in $agents; do
  case $agent in
    opencode | aider | codex | claude | cn | qwen) ("$agent") ;;
    *) fail "no agent is called '$agent': there are opencode, aider, codex, claude, cn and qwen" ;;
  esac
done
echo passed
