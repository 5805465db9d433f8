"""otel-usdt: USDT and uprobe latency probes on running programs, as OpenTelemetry spans and histograms."""

__version__ = "0.1.0"
