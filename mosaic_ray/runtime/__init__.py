"""Carrying a job out: plan, tasks, engines, ledger. Nothing here knows which method composes the samples."""
