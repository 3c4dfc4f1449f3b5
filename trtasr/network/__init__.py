"""Networks: one or more wired graphs, and what runs them; one file per wiring."""
