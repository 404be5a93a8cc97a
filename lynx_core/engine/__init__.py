"""Batch work over tables of records: stages, their parts on disk, and where they run."""
