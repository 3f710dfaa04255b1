"""One process of a tf.data service: a dispatcher, or a worker that reads, decodes and crops.

    python data_service.py dispatcher --port 5050
    python data_service.py worker --dispatcher HOST:5050 --host THIS_HOST

Then `bit-keras pretrain --data_service grpc://HOST:5050`. One service serves one training. Workers
may come and go; they need the data at the same path as the training, and the same TensorFlow.
"""

import argparse
import os
import signal
import socket

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # accelerators are the training's
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("role", choices=["dispatcher", "worker"])
parser.add_argument("--port", type=int, default=0, help="default: any free one")
parser.add_argument("--work_dir", help="dispatcher: folder of its journal, to survive a restart")
parser.add_argument("--dispatcher", help="worker: HOST:PORT of the dispatcher")
parser.add_argument("--host", default=socket.gethostname(), help="worker: its name for others")
args = parser.parse_args()
if args.role == "worker" and not args.dispatcher:
    parser.error("a worker needs --dispatcher HOST:PORT")

import tensorflow as tf  # noqa: E402  after the environment is set

service = tf.data.experimental.service
# The server waits in C++, where Python would never see Ctrl-C.
signal.signal(signal.SIGINT, signal.SIG_DFL)
if args.role == "dispatcher":
    config = service.DispatcherConfig(
        port=args.port, work_dir=args.work_dir, fault_tolerant_mode=bool(args.work_dir)
    )
    server = service.DispatchServer(config)
    print(f"dispatcher: {server.target}", flush=True)
else:
    server = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=args.dispatcher.removeprefix("grpc://"),
            worker_address=f"{args.host}:%port%",
            port=args.port,
        )
    )
    print(f"worker of {args.dispatcher}", flush=True)
server.join()
