#!/usr/bin/env bash
# Builds the fastest programs: compiles them so that they record which of their code is busy, lets them answer requests for
# some seconds, and compiles them again with what they recorded. Takes as long as three builds with `--profile dist`.
#
#   deploy/build-practised.sh          # the programs are in target/practised/bin then
#
# Needs rustup, which fetches `llvm-tools` where they are missing, and taskset (util-linux). The programs must be able to run here, so this is no way
# to build for another kind of processor.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
records=$target/practice/records profile=$target/practice/profile.profdata log=$target/practice/requests.log

build() { # build FOLDER FLAGS
  # With --target the flags are those of the programs alone, and not of what runs while they are built.
  CARGO_TARGET_DIR=$1 RUSTFLAGS=$2 cargo build --locked --profile dist --target "$host" \
    -p modemesh -p router -p node-agent -p meshctl
}

echo "== 1 of 3: programs that record"
build "$target/practice" "-Cprofile-generate=$records"
echo "== 2 of 3: requests"
rm -rf "$records"
if ! cargo test --locked -q -p integration-tests --bench practice -- --programs "$target/practice/$host/dist" 2>"$log"; then
  tail -n 20 "$log" >&2
  echo "the programs did not practise; all that they said: $log" >&2
  exit 1
fi
"$profdata" merge -o "$profile" "$records"
echo "== 3 of 3: the programs"
# cargo sees the flag and not what is in the file.
rm -rf "$target/practised"
build "$target/practised" "-Cprofile-use=$profile"
mkdir -p "$target/practised/bin"
for program in modemesh mesh-router mesh-agent meshctl; do
  cp "$target/practised/$host/dist/$program" "$target/practised/bin/"
done
echo "built: $target/practised/bin"
