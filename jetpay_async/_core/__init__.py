"""One API call: what is sent, what came back, and what to do next."""
