"""What each tag does to a description: pure functions ``(TaskDescription, *arguments) -> Variant``."""
