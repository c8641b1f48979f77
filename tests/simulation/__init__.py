"""A model of client, batch and ledger against a service that fails within stated bounds, in virtual time.

`loop` has an event loop whose time is virtual, `service` the service and its network, `world` the processes that are
killed and started, and the tests drive thousands of schedules through them.
"""
