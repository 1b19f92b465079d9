"""`python -m egress_gateway --control-fd N`: the control plane. Started by `egress run`, not by hand."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time

import uvloop

from egress_gateway.service import serve

#: Added to the process's niceness (sched(7)): where both want one CPU, the data plane has nine tenths of it.
NICE = 10


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m egress_gateway", description="The control plane of a running gateway; `egress run` starts it."
    )
    parser.add_argument("--control-fd", type=int, required=True, help="the inherited end of the control socket")
    descriptor = parser.parse_args().control_fd
    # A terminal sends its signals to the whole group; they are for the data plane, whose end is seen on the socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # A policy is loaded in what the data plane leaves, and its waking never interrupts a worker.
    os.nice(NICE)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s egress %(levelname)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
    for level, word in ((logging.INFO, "info"), (logging.WARNING, "warning"), (logging.ERROR, "error")):
        logging.addLevelName(level, word)
    return uvloop.run(serve(descriptor))


if __name__ == "__main__":
    sys.exit(main())
