"""The machine: affinity, memory, processes, logs, downloads."""
