"""The `display` driver: from the call to the swap, and how many patterns a second.

    xvfb-run -s "-screen 0 1920x1080x24" python tests/benchmarks/display.py --allow-primary
    python tests/benchmarks/display.py --monitor PLUTO

On an X server in memory these are the costs of the way there; a monitor adds the wait for its next refresh.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from labctl.devices import adapter  # noqa: F401 - quiets slmsuite
from labctl.devices.display import Display, monitors


def quantiles(seconds: list[float]) -> str:
    """Median, 99th percentile and longest, ms."""
    middle, late = np.percentile(seconds, [50, 99]) * 1e3
    return f"{middle:8.2f} {late:8.2f} {max(seconds) * 1e3:8.2f}"


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--monitor", default="")
    parser.add_argument("--allow-primary", action="store_true")
    parser.add_argument("--patterns", type=int, default=200)
    options = parser.parse_args()
    name = options.monitor or monitors()[0 if options.allow_primary else -1].name
    started = time.perf_counter()
    display = Display(name, pitch_um=8.0, allow_primary=options.allow_primary)
    opening = time.perf_counter() - started
    try:
        rng = np.random.default_rng(0)
        patterns = [rng.integers(0, 256, display.shape, dtype=np.uint8) for _ in range(8)]
        swap, trip, whole = [], [], []
        for number in range(options.patterns):
            pattern = patterns[number % len(patterns)]
            called = time.perf_counter()
            answer = display._link.show(pattern)
            swap.append(answer.at_s - called)
            trip.append(answer.round_trip_s)
            called = time.perf_counter()
            display.set_phase(patterns[(number + 1) % len(patterns)])
            whole.append(time.perf_counter() - called)
        started = time.perf_counter()
        for number in range(options.patterns):
            display._link.show(patterns[number % len(patterns)], wait=False)
        display.wait()
        streamed = options.patterns / (time.perf_counter() - started)
        monitor, uncertainty = display.monitor, display._link.uncertainty_s
    finally:
        started = time.perf_counter()
        display.close()
    sys.stdout.write(
        f"monitor {monitor}, {monitor.refresh_hz:g} Hz; {options.patterns} random patterns\n"
        f"opening {opening:.2f} s, closing {time.perf_counter() - started:.2f} s, "
        f"swap times known to {uncertainty * 1e6:.0f} us\n"
        f"{'ms':<34} {'median':>8} {'p99':>8} {'longest':>8}\n"
        f"{'call -> swap':<34} {quantiles(swap)}\n"
        f"{'call -> answer':<34} {quantiles(trip)}\n"
        f"{'whole set_phase of gray levels':<34} {quantiles(whole)}\n"
        f"one after the other {1 / np.median(trip):.0f}/s, sent ahead {streamed:.0f}/s\n"
    )


if __name__ == "__main__":
    main()
