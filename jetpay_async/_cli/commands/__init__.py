"""The subcommands of ``jetpay``, a module for each group."""
