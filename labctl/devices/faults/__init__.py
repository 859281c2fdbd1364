"""Faults on demand: rehearse what a run does when a device fails, on a simulated bench or on a real one.

A bench file's ``[faults]`` is all that most people need; see docs/how-to/rehearse-faults.md. In a script or a test::

    plan = FaultPlan(seed=1, plan=[Fault(device="camera", fault="torn", at=[5, 17])])
    camera = inject(camera, plan, name="camera", clock=clock)
    ...
    camera.injected  # what was done, when, and at which call
"""

from labctl.config.faults import FaultEntry as Fault
from labctl.config.faults import FaultsSection as FaultPlan
from labctl.devices.faults.rehearsal import Injected, Rehearsal, inject
from labctl.devices.faults.wrappers import FaultyInstrument, FaultyPanel, FaultySensor

__all__ = [
    "Fault",
    "FaultPlan",
    "FaultyInstrument",
    "FaultyPanel",
    "FaultySensor",
    "Injected",
    "Rehearsal",
    "inject",
]
