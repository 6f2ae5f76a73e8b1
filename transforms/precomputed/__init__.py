"""Feature files that others computed: which there are, what they hold, and the times of their rows."""
