"""What the benchmarks and the demo share: processes, origins, nodes, readers, reports."""
