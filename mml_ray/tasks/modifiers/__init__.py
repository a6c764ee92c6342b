"""The tags: pure functions ``(TaskDescription, *arguments) -> Variant``."""
