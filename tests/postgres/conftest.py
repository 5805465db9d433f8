"""A PostgreSQL of the tests' own, whose log names every statement."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from otel_usdt.demo.cluster import Cluster, postgres_cluster
from otel_usdt.demo.load import prepare
from tests.kernel.fixtures import nothing_left_behind, otel_usdt, stack

__all__ = ["cluster", "nothing_left_behind", "otel_usdt", "stack"]

SETTINGS = {
    "log_statement": "all",
    "log_line_prefix": "[%p] ",
    "shared_preload_libraries": "pg_stat_statements",
    "fsync": "on",  # or nothing waits for the disk
    "autovacuum": "off",  # nothing happens but what a test asks for
    "max_parallel_workers_per_gather": "0",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A running cluster with pgbench's tables in it."""
    with postgres_cluster(settings=SETTINGS) as cluster:
        prepare(cluster)
        cluster.psql("CREATE EXTENSION pg_stat_statements")
        yield cluster
