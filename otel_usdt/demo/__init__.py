"""A throw-away PostgreSQL under load: for `otel-usdt demo`, and for the tests that want the real thing."""

from otel_usdt.demo.cluster import Cluster, postgres_cluster
from otel_usdt.demo.load import pgbench

__all__ = ["Cluster", "pgbench", "postgres_cluster"]
