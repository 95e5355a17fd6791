# Finds the measuring programs of the benchmark scripts. Sourced; does nothing by itself.

# bench_tool NAME PATH: prints where the program is: PATH if that is given, else it is built from $BENCH_TOOLS/NAME.
bench_tool() {
  local name=$1 given=$2 tools source target
  if [ -n "$given" ]; then
    [ -x "$given" ] || { echo "$given is not a program" >&2; return 1; }
    echo "$given"
    return
  fi
  tools=${BENCH_TOOLS:-}
  if [ -z "$tools" ]; then
    echo "$name is not part of this repository: set BENCH_TOOLS to the folder that has $name/, or ${name^^} to the program." >&2
    return 1
  fi
  source=$tools/$name target=${BENCH_TOOLS_TARGET:-$root/target/bench-tools}
  if [ ! -f "$source/Cargo.toml" ]; then
    echo "$name is missing: no $source/Cargo.toml. BENCH_TOOLS must be the folder that has $name/." >&2
    return 1
  fi
  # A copy, because its folder may be read-only and cargo writes a lock file.
  mkdir -p "$target/$name-source" && cp -r "$source/." "$target/$name-source/" && chmod -R u+w "$target/$name-source"
  CARGO_TARGET_DIR=$target cargo build --quiet --release --manifest-path "$target/$name-source/Cargo.toml" >&2 || return 1
  echo "$target/release/$name"
}
