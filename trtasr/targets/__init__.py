"""What each target accepts, and which passes lower a graph for it."""
