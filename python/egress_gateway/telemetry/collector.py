"""Drains the rings on the control plane's loop: in small steps, sooner while much is coming, later while little is."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from egress_core.ring import Reader
from egress_gateway.telemetry.log import BATCH, DecisionLog

#: Records folded per step: about 0.2 ms, so that the limit below is met closely.
STEP: Final = 2048
#: Seconds that one turn may hold the loop; the rest waits for the next turn, after everybody else had theirs.
TURN: Final = 0.004
#: Seconds between turns: 25 ms while records come, doubling to 250 ms while none do. A wake-up costs as much as the
#: records of 3 ms at full load.
SHORTEST: Final = 0.025
LONGEST: Final = 0.250


class Collector:
    """Ties a Reader and its log to an asyncio loop. `start` and `stop` from the loop's own thread."""

    def __init__(self, reader: Reader, log: DecisionLog) -> None:
        self._reader = reader
        self._log = log
        self._wait = SHORTEST
        self._timer: asyncio.TimerHandle | None = None
        self.folded = 0

    def start(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(0, self._turn)

    def stop(self) -> None:
        """Takes in what there is, then stops; what the sink does not take stays in the ring for the next process."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._reader.drain(STEP):
            pass
        self._log.close()

    def turn(self) -> bool:
        """One bounded turn; whether more is waiting."""
        until = time.monotonic() + TURN
        while True:
            folded = self._reader.drain(STEP)
            self.folded += folded
            logged = self._log.write()
            if folded < STEP and logged < BATCH:
                return False
            if time.monotonic() >= until:
                return True

    def _turn(self) -> None:
        before = self.folded
        more = self.turn()
        if more:
            self._wait = 0.0
        elif self.folded > before:
            self._wait = SHORTEST
        else:
            self._wait = min(max(self._wait * 2, SHORTEST), LONGEST)
        self._timer = asyncio.get_running_loop().call_later(self._wait, self._turn)
