"""Six small public datasets: fine-tuned small models beside floors. `python -m
benchmarks.downstream --help`."""
