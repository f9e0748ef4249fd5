"""What the scenarios share: a node's process, origins that count, data sets, comparison."""
