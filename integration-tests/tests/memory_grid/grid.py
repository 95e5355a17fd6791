"""Load models with llama.cpp (from the xllamacpp wheel) and tell what its log says of its buffers.

    grid.py < loads > buffers

One JSON object for each line, in the same order. A load is {"model": path, "context": tokens, "slots": n,
"unified": bool, "k": type, "v": type, "flash": bool, "ubatch": tokens}. What comes back is in MiB as the log prints
it, with whole numbers of cells, layers, sequences and streams; {"error": text} where the engine refuses.

Each load has a process of its own: the engine writes its log from a thread of its own, which is drained at the end.
"""

import json
import os
import re
import signal
import sys
import urllib.request

BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute|output) buffer size =\s+([\d.]+) MiB")
CACHE = re.compile(
    r"llama_kv_cache: size =\s+([\d.]+) MiB \(\s*(\d+) cells,\s*(\d+) layers,\s*(\d+)/(\d+) seqs\), "
    r"K \((\w+)\):\s+([\d.]+) MiB, V \((\w+)\):\s+([\d.]+) MiB"
)
STATE = re.compile(r"llama_memory_recurrent: size =\s+([\d.]+) MiB \(\s*(\d+) cells,\s*(\d+) layers,\s*(\d+) seqs")
EXACT = re.compile(r"compute buffer size (?:is|of)\s+([\d.]+) MiB")


def load(how):
    # Not above: its threads would be missing in a forked process.
    import xllamacpp as engine

    params = engine.CommonParams()
    params.model.path = how["model"]
    params.model_alias = {"grid"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = how["context"]
    params.n_parallel = how["slots"]
    params.kv_unified = how["unified"]
    params.n_ubatch = how["ubatch"]
    types = engine.ggml_type
    params.cache_type_k = getattr(types, "GGML_TYPE_" + how["k"].upper())
    params.cache_type_v = getattr(types, "GGML_TYPE_" + how["v"].upper())
    flash = engine.llama_flash_attn_type
    params.flash_attn_type = (
        flash.LLAMA_FLASH_ATTN_TYPE_ENABLED if how["flash"] else flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    # Read into buffers: of a mapped file the log tells the file's pages and not the tensors.
    params.load_mode = engine.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.fit_params = False
    params.warmup = False
    params.cache_ram_mib = 0
    params.offline = True
    params.ui = False
    params.verbosity = 6
    params.endpoint_metrics = True
    server = engine.Server(params)
    # Answered by the engine's loop: ended before that has begun, the engine waits for it for ever.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.open(server.listening_address + "/metrics", timeout=30).read()
    # The end of a context tells its compute buffer with four decimals.
    del server


def log_of(how):
    """What a process of its own writes while it loads."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        # A load takes a tenth of a second; the engine is not to catch this.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        try:
            load(how)
        except RuntimeError as error:
            print("REFUSED", error, file=sys.stderr, flush=True)
        sys.exit(0)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as pipe:
        log = pipe.read()
    os.waitpid(child, 0)
    return log


def buffers(log):
    found = {"model": 0.0, "output": 0.0, "compute": 0.0, "caches": [], "states": []}
    for line in log.splitlines():
        if match := BUFFER.search(line):
            if match[2] in ("model", "output"):
                found[match[2]] += float(match[3])
        elif match := CACHE.search(line):
            names = ["mib", "cells", "layers", "slots", "streams", "k_type", "k_mib", "v_type", "v_mib"]
            values = [float(match[1]), *map(int, match.groups()[1:5])]
            values += [match[6], float(match[7]), match[8], float(match[9])]
            found["caches"].append(dict(zip(names, values)))
        elif match := STATE.search(line):
            values = [float(match[1]), *map(int, match.groups()[1:4])]
            found["states"].append(dict(zip(["mib", "cells", "layers", "slots"], values)))
        elif match := EXACT.search(line):
            found["compute"] += float(match[1])
    if not found["model"] or not found["compute"]:
        return {"error": log[-2000:]}
    return found


def main():
    # Children answer to the pipe; their exits would flush what is buffered here.
    loads = [json.loads(line) for line in sys.stdin]
    for how in loads:
        # On a busy machine the engine may end before the last lines of its log are written: one in some thousands.
        for _ in range(3):
            log = log_of(how)
            found = buffers(log)
            if "error" not in found or "REFUSED" in log:
                break
        os.write(1, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
    main()
