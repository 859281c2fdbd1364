"""Devices and calibrations as one thing: opening, ordering, pairing, safety."""

from labctl.bench.bench import Bench, token
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.opening import open_bench
from labctl.bench.records import CalibrationRecord, load_records, save_record

__all__ = ["Bench", "BenchFacts", "CalibrationRecord", "Frame", "load_records", "open_bench", "save_record", "token"]
