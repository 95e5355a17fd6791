"""Serve one model with llama.cpp's own HTTP server (from the xllamacpp wheel) until asked to stop.

    bundled_engine.py MODEL --alias NAME [--host 127.0.0.1] [--port 0] [--context TOKENS] [--slots N] [--embedding]
                      [--cache-type f16] [--ubatch N] [--cache-ram MIB] [--checkpoints N] [--gpu-layers N] [--mmproj F]

CONTEXT is per request: the engine shares its cache evenly between the slots, so it is given slots x context.
The API key comes in the environment variable MODEMESH_ENGINE_KEY, never as an argument others could read.
Prints one line, `LISTENING http://127.0.0.1:PORT`, once the model is in memory.

Ends on SIGTERM, on SIGINT, and when standard input closes: whoever started it holds the other end of that
pipe and never writes, so the engine cannot outlive it, not even when that program is killed with -9.
"""

import argparse
import ctypes
import fcntl
import os
import signal
import sys
import threading


def leave_when_stdin_closes():
    """Two watches, because Python's threads stand still while the engine loads a model: the kernel sends
    SIGIO, whose default is to end the process, when the pipe closes; a thread serves where it does not.
    For the same reason SIGTERM and SIGINT get the kernel's default and no Python function."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=wait_for_end_of_stdin, daemon=True).start()
    try:
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):
        pass


def wait_for_end_of_stdin():
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os._exit(0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--cache-type", default="f16")
    parser.add_argument("--ubatch", type=int, default=512)
    parser.add_argument("--cache-ram", type=int, default=0)
    parser.add_argument("--checkpoints", type=int, default=0)
    parser.add_argument("--gpu-layers", type=int)
    parser.add_argument("--mmproj")
    return parser.parse_args()


def names_its_pooling(path):
    """Whether the GGUF header has the key `<architecture>.pooling_type`; a chat model has none, and without
    a pooling the engine answers an embedding with a 400. The header keys stand before the weights."""
    with open(path, "rb") as model:
        return b".pooling_type" in model.read(32 << 20)


def parameters(engine, args):
    params = engine.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias}
    params.hostnames = [args.host]
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.context * args.slots
    # One request may use its own share of the cache, never a neighbour's.
    params.kv_unified = False
    # The agent knows the machine; the engine shall not shrink what it was told.
    params.fit_params = False
    params.use_jinja = True
    params.ui = False
    params.offline = True
    # The level at which buffer sizes are said; lowered again before the first request can come.
    params.verbosity = 4
    # /slots keeps a sleeping model awake and shows prompts; /props and /metrics do neither.
    params.endpoint_slots = False
    params.endpoint_props = True
    params.endpoint_metrics = True
    key = os.environ.pop("MODEMESH_ENGINE_KEY", "")
    if key:
        params.api_keys = [key]
    kinds = engine.ggml_type.__members__
    params.cache_type_k = params.cache_type_v = kinds["GGML_TYPE_" + args.cache_type.upper()]
    params.n_ubatch = args.ubatch
    params.n_batch = max(args.ubatch, params.n_batch)
    params.cache_ram_mib = args.cache_ram
    params.n_ctx_checkpoints = args.checkpoints
    if args.gpu_layers is not None:
        params.n_gpu_layers = args.gpu_layers
    if args.mmproj:
        params.mmproj.path = args.mmproj
    if args.embedding:
        params.embedding = True
        if not names_its_pooling(args.model):
            params.pooling_type = engine.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        # An input longer than the physical batch is refused with a 500.
        params.n_batch = params.n_ubatch = args.context
    return params


def speak_of_trouble_only():
    """Lines about single requests are of no use to the agent and nobody's business. Where the wheel's function
    cannot be had, the agent drops those lines all the same."""
    try:
        library = ctypes.CDLL(sys.modules["xllamacpp.xllamacpp"].__file__)
        library["_Z30common_log_set_verbosity_tholdi"](2)
    except (AttributeError, KeyError, OSError):
        pass


def main():
    args = arguments()
    leave_when_stdin_closes()
    if not os.path.isfile(args.model):
        sys.exit(f"no such model file: {args.model}")
    import xllamacpp as engine

    try:
        server = engine.Server(parameters(engine, args))
    except RuntimeError as error:
        sys.exit(f"the engine did not start: {error}")
    speak_of_trouble_only()
    print("LISTENING", server.listening_address, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
