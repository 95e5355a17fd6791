#!/usr/bin/env bash
# Builds the fastest programs: compiles them so that they record which of their code is busy, lets them answer requests for
# some seconds, and compiles them again with what they recorded. Takes three to four times as long as one build with
# `--profile dist`.
#
#   deploy/build-practised.sh          # the programs are in target/practised/bin then
#
# Needs rustup, which fetches `llvm-tools` where they are missing, and taskset (util-linux). The programs must be able to run
# here, so this is no way to build for another kind of processor.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for tool in rustup cargo taskset; do
  command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }
done
if [ -n "${RUSTFLAGS:-}${CARGO_ENCODED_RUSTFLAGS:-}" ]; then
  echo "RUSTFLAGS would be lost here: unset them, or write them into deploy/build-practised.sh" >&2
  exit 1
fi
unset LLVM_PROFILE_FILE
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
records=$target/practice/records profile=$target/practice/profile.profdata log=$target/practice/requests.log

build() { # build FOLDER FLAG
  # With --target the flag is for the programs alone, and not for what runs while they are built. Encoded, since a path may
  # have spaces.
  CARGO_TARGET_DIR=$1 CARGO_ENCODED_RUSTFLAGS=$2 cargo build --locked --profile dist --target "$host" \
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
rm -rf "$target/practised/$host" "$target/practised/dist"
build "$target/practised" "-Cprofile-use=$profile"
mkdir -p "$target/practised/bin"
for program in modemesh mesh-router mesh-agent meshctl; do
  cp "$target/practised/$host/dist/$program" "$target/practised/bin/$program.new"
  mv "$target/practised/bin/$program.new" "$target/practised/bin/$program"
done
echo "built: $target/practised/bin"
