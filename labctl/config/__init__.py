"""The TOML files that a user writes, strictly checked."""

from labctl.config.load import bench_path, load_bench, parse_bench
from labctl.config.schema import BenchConfig

__all__ = ["BenchConfig", "bench_path", "load_bench", "parse_bench"]
