"""The guardian's own process: ``python -m labctl.devices.instruments.guard_process``.

Standard input is a pipe from labctl. Its first line says, as JSON, which instruments to guard; then nothing comes until
``stand down``. When the pipe ends without that, labctl is dead: every instrument is opened, as labctl had opened it,
and made safe. Not before: a serial port has one owner. Nothing is listened to but this pipe.
"""

from __future__ import annotations

import importlib
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.devices.catalogue import driver_class
from labctl.devices.instruments.opening import open_instrument, without_identification
from labctl.errors import LabctlError

log = logging.getLogger("labctl.guardian")
READY, STAND_DOWN = b"ready\n", b"stand down\n"
GIVE_UP_S, AGAIN_S = 30.0, 0.05
LOCKED_S = 0.25
"""After this, a serial port's lock is ignored: a child that labctl forked may hold it long after labctl's death."""
LIBRARIES = {"visa": "pyvisa", "serial": "serial"}


def make_safe(ward: Mapping[str, Any]) -> str:
    """Open one instrument and make it safe, again and again until it is, or `GIVE_UP_S` have passed.

    Parameters
    ----------
    ward : mapping
        ``name``, ``driver``, ``options``, ``role``, ``safe_state``.

    Returns
    -------
    str
        What failed; "" when it is safe.
    """
    options = without_identification(ward["driver"], ward["options"])
    begun, pause = time.monotonic(), threading.Event()
    while True:
        try:
            device = open_instrument(
                ward["name"],
                driver=ward["driver"],
                options=options,
                role=ward["role"],
                safe_state=ward["safe_state"],
            )
            try:
                device.make_safe()
            finally:
                device.close()
            return ""
        except Exception as error:  # whatever a driver raises, the next try may work
            if time.monotonic() - begun > GIVE_UP_S:
                return str(error)
            if ward["driver"] == "serial" and time.monotonic() - begun > LOCKED_S:
                options["exclusive"] = False
        pause.wait(AGAIN_S)


def guard(wards: Sequence[Mapping[str, Any]]) -> bool:
    """Make every instrument safe, all at once; whether all are."""
    failures: dict[str, str] = {}

    def one(ward: Mapping[str, Any]) -> None:
        failures[ward["name"]] = make_safe(ward)

    threads = [threading.Thread(target=one, args=(ward,), name=f"guard {ward['name']}") for ward in wards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, failure in failures.items():
        if failure:
            log.error("labctl ended without warning, and %s could NOT be made safe: %s", name, failure)
        else:
            log.warning("labctl ended without warning: %s has been made safe", name)
    return not any(failures.values())


def main() -> int:
    """Guard until told to stand down, or until labctl is dead."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # what ends labctl must not end its guardian first
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    first = sys.stdin.buffer.readline()
    if not first.endswith(b"\n"):
        return 0  # labctl ended before it opened anything
    wards = json.loads(first)
    answer, code = READY, 0
    try:
        for ward in wards:  # importing takes time that there is now
            driver_class(ward["driver"], role=f"instruments.{ward['name']}")
            importlib.import_module(LIBRARIES.get(ward["driver"], "labctl"))
    except (LabctlError, ImportError) as error:
        answer, code = " ".join(str(error).split()).encode("ascii", "replace") + b"\n", 1
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    if code:
        return code
    if sys.stdin.buffer.readline() == STAND_DOWN:
        return 0
    return 0 if guard(wards) else 1


if __name__ == "__main__":
    sys.exit(main())
