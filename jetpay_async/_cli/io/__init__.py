"""What the command line reads and writes: files of debits, exports, the console, exit codes and signals."""
