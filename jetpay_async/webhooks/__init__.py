"""Receive webhook deliveries: verify the raw body, decode typed events."""
