# Starts and stops what the benchmark scripts measure: the backend, nginx, a one-machine mesh, a mesh of two processes.
# Sourced by request_path.sh and lossy_link.sh; does nothing by itself.
#
# Whoever sources it sets BIN (folder of the project's programs), MESHBENCH (the program) and WORK (a folder of its own).

PIDS=()      # what has to be ended at any exit, in the order of its start
ROUTER_MORE= # lines for the end of each router.toml
AGENT_METRICS= # where agents serve /metrics; nowhere
AGENT_MORE=  # lines for the top of each agent.toml, before its tables

die() { echo "$0: $*" >&2; exit 1; }
say() { echo "# $*" >&2; }

# Ends what was started here and nothing else, last one first.
stop_all() {
  local i
  for ((i = ${#PIDS[@]} - 1; i >= 0; i--)); do kill "${PIDS[i]}" 2>/dev/null; done
  for ((i = ${#PIDS[@]} - 1; i >= 0; i--)); do
    for _ in $(seq 50); do kill -0 "${PIDS[i]}" 2>/dev/null || break; sleep 0.1; done
    kill -9 "${PIDS[i]}" 2>/dev/null
  done
  wait 2>/dev/null
  PIDS=()
}

# started NAME COMMAND…: runs it in the background with its output in $WORK/NAME.{out,err}; its id is in $PID.
started() {
  local name=$1; shift
  "$@" >"$WORK/$name.out" 2>"$WORK/$name.err" &
  PID=$!
  PIDS+=("$PID")
}

# until_true SECONDS WHAT COMMAND…: waits until the command succeeds, or ends the script.
until_true() {
  local left=$(($1 * 10)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ $left -gt 0 ] || { tail -n 5 "$WORK"/*.err >&2; die "$what did not happen in time"; }
    sleep 0.1
  done
}

# answers URL KEY [COMMAND…]: whether a chat completion comes back. COMMAND is put before curl (a namespace).
answers() {
  local url=$1 key=$2; shift 2
  "$@" curl -sf --noproxy '*' -m 5 -o /dev/null -H "authorization: Bearer $key" -H 'content-type: application/json' \
    -d '{"model":"mock","messages":[{"role":"user","content":"mb:ttft=0,itl=0,tokens=1;"}]}' "$url/v1/chat/completions"
}

# router_config FOLDER ADDRESS FIRST_PORT, agent_config FOLDER BACKEND
router_config() {
  mkdir -p "$1" && chmod 700 "$1"
  # The default of 1024 connections is fewer than the streams measured here.
  cat >"$1/router.toml" <<TOML
[listen]
clients = "127.0.0.1:$3"
agents = "$2:$(($3 + 1))"
operators = "127.0.0.1:$(($3 + 2))"
[limits]
connections = 16384
per_key = 16384
$ROUTER_MORE
TOML
}
agent_config() {
  mkdir -p "$1" && chmod 700 "$1"
  cat >"$1/agent.toml" <<TOML
$AGENT_MORE
[engines.mock]
kind = "openai"
url = "$2"
[discover]
enabled = false
[metrics]
listen = "$AGENT_METRICS"
TOML
}

# backend CORE ADDRESS
backend() {
  started "backend-${2##*:}" taskset -c "$1" "$MESHBENCH" backend --listen "$2" --model mock
  BACKEND=http://$2
  until_true 10 "the backend's start" curl -sf --noproxy '*' "$BACKEND/v1/models"
}

# nginx_proxy CORE PORT: one worker, connections to the backend kept, nothing buffered. Its id is in $PID.
nginx_proxy() {
  mkdir -p "$WORK/nginx"
  cat >"$WORK/nginx.conf" <<CONF
worker_processes 1;
worker_rlimit_nofile 65536;
pid $WORK/nginx.pid;
error_log $WORK/nginx-error.log;
daemon off;
events { worker_connections 32768; }
http {
  access_log off;
  client_body_temp_path $WORK/nginx/body; proxy_temp_path $WORK/nginx/proxy;
  fastcgi_temp_path $WORK/nginx/f; uwsgi_temp_path $WORK/nginx/u; scgi_temp_path $WORK/nginx/s;
  client_body_buffer_size 2m; client_max_body_size 16m; keepalive_requests 1000000;
  upstream backend { server ${BACKEND#http://}; keepalive 1024; keepalive_requests 1000000; }
  server {
    listen 127.0.0.1:$2 backlog=4096;
    location / {
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 300s;
    }
  }
}
CONF
  started nginx taskset -c "$1" "${NGINX:-nginx}" -c "$WORK/nginx.conf"
  local nginx=$PID
  until_true 10 "nginx's start" curl -sf --noproxy '*' "http://127.0.0.1:$2/v1/models"
  PID=$nginx
}

# one_machine NAME CORE PORT: `modemesh up`. Its id is in $PID, its API key in $KEY.
one_machine() {
  local folder=$WORK/$1 up
  router_config "$folder" 127.0.0.1 "$3"
  agent_config "$folder" "$BACKEND"
  started "$1" taskset -c "$2" "$BIN/modemesh" --data "$folder" up --yes
  up=$PID
  until_true 30 "the start of modemesh up" test -s "$folder/api-key"
  KEY=$(cat "$folder/api-key")
  until_true 60 "the first answer of modemesh up" answers "http://127.0.0.1:$3" "$KEY"
  PID=$up
}

# mesh_router NAME CORE ADDRESS PORT [COMMAND…] starts a router; its id is in $PID, a client's key in $KEY and a
# node's token in $TOKEN. COMMAND is put before each program (a namespace).
mesh_router() {
  local folder=$WORK/$1-router name=$1 core=$2 address=$3 port=$4; shift 4
  router_config "$folder" "$address" "$port"
  "$BIN/mesh-router" --data "$folder" init >/dev/null 2>&1 || die "mesh-router init failed"
  started "$name-router" "$@" taskset -c "$core" "$BIN/mesh-router" --data "$folder" run
  local router=$PID
  until_true 30 "the router's start" "$@" "$BIN/meshctl" --data "$folder" status
  KEY=$("$@" "$BIN/meshctl" --data "$folder" key create bench 2>/dev/null | grep -o 'mk_[A-Za-z0-9_-]*' | head -n 1)
  TOKEN=$("$@" "$BIN/meshctl" --data "$folder" token create --role node --ttl 1h 2>/dev/null | head -n 1)
  [ -n "$KEY" ] && [ -n "$TOKEN" ] || die "no key or no token from the router"
  PID=$router
}

# mesh_agent NAME CORE ROUTER TOKEN BACKEND [COMMAND…]: an agent that has joined; its id is in $PID.
mesh_agent() {
  local folder=$WORK/$1-agent name=$1 core=$2 router=$3 token=$4 backend=$5; shift 5
  agent_config "$folder" "$backend"
  "$@" "$BIN/mesh-agent" --data "$folder" join --name "$name" "$router" "$token" >"$WORK/$name-join.out" \
    2>"$WORK/$name-join.err" || { cat "$WORK/$name-join.err" >&2; die "mesh-agent join failed"; }
  started "$name-agent" "$@" taskset -c "$core" "$BIN/mesh-agent" --data "$folder" run
}

# mesh NAME ROUTER_CORE AGENT_CORE PORT: router and agent; their ids are in $ROUTER_PID and $AGENT_PID.
mesh() {
  mesh_router "$1" "$2" 127.0.0.1 "$4"
  ROUTER_PID=$PID
  mesh_agent "$1" "$3" "127.0.0.1:$(($4 + 1))" "$TOKEN" "$BACKEND"
  AGENT_PID=$PID
  until_true 60 "the mesh's first answer" answers "http://127.0.0.1:$4" "$KEY"
}

# rss PID…: resident memory in KiB, all together.
rss() {
  local pid sum=0
  for pid in "$@"; do sum=$((sum + $(awk '/^VmRSS/ {print $2}' "/proc/$pid/status"))); done
  echo $sum
}
