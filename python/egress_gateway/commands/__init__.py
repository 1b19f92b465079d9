"""The commands of `egress`, one module each: `add` declares the arguments, `run` does the work and gives the exit code.

Each imports what it needs inside `run`: `egress run` must stay small, as its process carries the traffic.
"""
